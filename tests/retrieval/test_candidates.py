"""Lists for users: exact, by an index, and under conditions, against a slow reference."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from recsys.errors import CheckpointError, ConfigError, SchemaError
from recsys.models.saved_cf import SavedCF
from recsys.retrieval import candidates
from recsys.retrieval.build import build_index
from recsys.retrieval.candidates import Candidates, Lists, allowed_items
from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.index_folder import SavedIndex, load_index, save_index
from recsys.retrieval.options import RetrievalOptions
from recsys.retrieval.vector_index import VectorIndex, unit
from tests.retrieval.conftest import NUM_ITEMS, clustered, export_matrix

USERS = np.array([3, 0, 17, 3])


@pytest.fixture(scope="session")
def index(exported_cf: ExportedVectors, tmp_path_factory: pytest.TempPathFactory) -> SavedIndex:
    folder = tmp_path_factory.mktemp("index") / "index"
    built = build_index(exported_cf, RetrievalOptions(kind="hnsw", min_recall=1.0)).index
    save_index(built, folder, {"facts": exported_cf.facts})
    return load_index(folder)


def reference(
    saved: SavedCF, k: int, allowed: np.ndarray | None = None, known: bool = False
) -> list[list[object]]:
    """Every item scored, what may not be shown left out, the best k in order."""
    lists = []
    for user in USERS:
        with torch.no_grad():
            scores = saved.model.scores(torch.tensor([user]))[0].tolist()
        seen = set() if known else set(saved.data.train.of_user(user).tolist())
        left = [
            item
            for item in range(NUM_ITEMS)
            if item not in seen and (allowed is None or allowed[item])
        ]
        best = sorted(left, key=lambda item: (-scores[item], item))[:k]
        lists.append([saved.data.item_ids[item].as_py() for item in best])
    return lists


def as_lists(found: Lists) -> list[list[object]]:
    every = [[] for _ in USERS]  # type: list[list[object]]
    for row, rank, item in zip(found.rows, found.ranks, found.items.to_pylist(), strict=True):
        every[row].append(item)
        assert len(every[row]) == rank
    return every


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("share", [None, 0.5, 0.1])
def test_lists_are_those_of_comparing_everything(
    share: float | None, known: bool, saved_cf: SavedCF, popularity: SavedCF, index: SavedIndex
) -> None:
    allowed = None if share is None else np.random.default_rng(0).random(NUM_ITEMS) < share
    for saved, by in ((saved_cf, None), (popularity, None), (saved_cf, index)):
        for k in (1, 6, NUM_ITEMS):
            found = Candidates(saved, by, allowed, known).lists(USERS, k)
            assert as_lists(found) == reference(saved, k, allowed, known)
            assert (np.diff(found.rows) >= 0).all()


def test_scores_are_those_of_the_model(saved_cf: SavedCF, index: SavedIndex) -> None:
    for by in (None, index):
        found = Candidates(saved_cf, by).lists(USERS, 4)
        scores = saved_cf.model.scores(torch.from_numpy(USERS)).detach().numpy()
        at = [saved_cf.data.item_ids.to_pylist().index(one) for one in found.items.to_pylist()]
        np.testing.assert_allclose(found.scores, scores[found.rows, at], rtol=1e-5)


def test_many_denied_items_are_searched_exactly(
    saved_cf: SavedCF, index: SavedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "FEW_DENIED", 3)
    allowed = np.ones(NUM_ITEMS, bool)
    allowed[:3] = False
    assert Candidates(saved_cf, index, allowed).index is index
    allowed[3] = False
    found = Candidates(saved_cf, index, allowed)
    assert found.index is None
    assert "4 items may not be shown" in found.exact_because
    assert as_lists(found.lists(USERS, 5)) == reference(saved_cf, 5, allowed)


def test_items_added_to_an_index_are_found(saved_cf: SavedCF, index: SavedIndex) -> None:
    vectors = saved_cf.vectors()
    assert vectors is not None
    own = index.index
    more = VectorIndex(own.kind, own.similarity, own.dim, own.ids, own.bands, own.effort,
                       own.refine, own.removed.copy())  # fmt: skip
    more.add(pa.array([777]), 9 * vectors[0][17:18].detach().numpy())
    found = Candidates(saved_cf, SavedIndex(more, index.card)).lists(USERS, 3)
    assert as_lists(found)[2][0] == 777
    more.remove(pa.array([777]))
    again = Candidates(saved_cf, SavedIndex(more, index.card)).lists(USERS, 3)
    assert as_lists(again) == reference(saved_cf, 3)


def test_similar_items(saved_cf: SavedCF) -> None:
    vectors = saved_cf.vectors()
    assert vectors is not None
    directions = unit(vectors[1].detach().numpy())
    allowed = np.arange(NUM_ITEMS) % 2 == 0
    for mask in (None, allowed):
        found = Candidates(saved_cf, None, mask).similar(7, 5)
        order = [
            i
            for i in np.argsort(-(directions @ directions[7]), kind="stable")
            if i != 7 and (mask is None or mask[i])
        ][:5]
        assert found.items.equals(saved_cf.data.item_ids.take(pa.array(order)))
        assert (found.scores <= 1 + 1e-6).all()


def test_popular_items(saved_cf: SavedCF) -> None:
    degrees = saved_cf.data.train.item_degrees
    found = Candidates(saved_cf).popular(4)
    assert (
        found.items.to_pylist()
        == saved_cf.data.item_ids.take(
            pa.array(np.argsort(-degrees, kind="stable")[:4])
        ).to_pylist()
    )
    one = np.arange(NUM_ITEMS) == 8
    assert len(Candidates(saved_cf, None, one).popular(4).rows) == 1


def test_impossible_requests(
    saved_cf: SavedCF, popularity: SavedCF, index: SavedIndex, tmp_path: Path
) -> None:
    for found in (Candidates(saved_cf), Candidates(saved_cf, index)):
        with pytest.raises(ConfigError, match=r"k=51 items of a catalogue of 50; allowed are 1"):
            found.lists(USERS, 51)
    with pytest.raises(ConfigError, match="none of the 50 items is left"):
        Candidates(saved_cf, None, np.zeros(NUM_ITEMS, bool))
    with pytest.raises(ConfigError, match="Popularity has no vectors to search an index by"):
        Candidates(popularity, index)
    with pytest.raises(ConfigError, match="Popularity has no vectors to compare items by"):
        Candidates(popularity).similar(0, 3)
    stale = SavedIndex(index.index, index.card | {"facts": {"run_id": "r0", "data_digest": "d1"}})
    with pytest.raises(CheckpointError, match="the index is stale: it is of the run r0"):
        Candidates(saved_cf, stale)
    wide = build_index(
        export_matrix(tmp_path / "wide", clustered(50), "cosine"), RetrievalOptions()
    )
    with pytest.raises(SchemaError, match="vectors of width 16, the model of width 8"):
        Candidates(saved_cf, SavedIndex(wide.index, index.card))


def test_lists_of_what_is_allowed() -> None:
    ids = pa.array([10, 20, 30, 40])
    assert allowed_items(ids) is None
    assert allowed_items(ids, allow=pa.array([40, 10, 99])).tolist() == [True, False, False, True]  # type: ignore[union-attr]
    assert allowed_items(ids, deny=pa.array([40, 99])).tolist() == [True, True, True, False]  # type: ignore[union-attr]
    fulfilled = np.array([True, True, False, False])
    mask = allowed_items(ids, pa.array([10, 20, 30]), pa.array([10]), fulfilled)
    assert mask is not None
    assert mask.tolist() == [False, True, False, False]
    assert fulfilled.tolist() == [True, True, False, False]
