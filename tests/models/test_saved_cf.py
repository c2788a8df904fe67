"""Saved, loaded and asked by external ids: the same lists, and known items left out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch

from recsys import config
from recsys.data.interactions import Interactions
from recsys.errors import CheckpointError, ConfigError, SchemaError
from recsys.models.collaborative import ClosedForm
from recsys.models.saved import ModelSpec
from recsys.models.saved_cf import SavedCF, check_cf, make_cf

MODELS = config.options("cf")
SMALL: dict[str, dict[str, Any]] = {
    "chebycf": {"rank": 3},
    "gfcf": {"rank": 3},
    "bspm": {"rank": 3},
}


@pytest.fixture(scope="module")
def data() -> Interactions:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {"user": [f"u{n}" for n in rng.integers(0, 12, 90)], "item": rng.integers(100, 120, 90)}
    )
    titles = pl.DataFrame({"item": range(100, 120), "title": [f"title {n}" for n in range(20)]})
    return Interactions.of("small", frame, titles=titles)


def spec_of(stem: str) -> ModelSpec:
    node = config.plain(config.compose("train", [f"cf={stem}"]).cf)
    target = node.pop("_target_")
    return ModelSpec("cf", target, node | SMALL.get(stem, {}))


def saved(stem: str, data: Interactions) -> SavedCF:
    torch.manual_seed(0)
    spec = spec_of(stem)
    model = make_cf(spec, data.train)
    if isinstance(model, ClosedForm):
        model.fit(data.train)
    return SavedCF(model, data, spec, {"run_id": "r"})


@pytest.mark.parametrize("stem", MODELS)
def test_every_model_scores_the_same_after_loading(
    stem: str, data: Interactions, tmp_path: Path
) -> None:
    before = saved(stem, data)
    before.save(tmp_path / "model")
    after = SavedCF.load(tmp_path / "model")
    users = torch.arange(data.num_users)
    with torch.no_grad():
        scores = before.model.scores(users)
        assert scores.shape == (data.num_users, data.num_items)
        assert scores.dtype == torch.float32
        assert torch.equal(scores, after.model.scores(users))
    assert after.facts == {"run_id": "r"}
    assert after.spec == before.spec


@pytest.mark.parametrize("stem", MODELS)
def test_hyperparameters_are_checked_without_data(stem: str) -> None:
    check_cf(spec_of(stem))
    spec = ModelSpec("cf", spec_of(stem).target, {"no_such_key": 1})
    with pytest.raises(ConfigError, match=r"cf\.no_such_key"):
        check_cf(spec)


@pytest.mark.parametrize("stem", ["popularity", "bprmf"])
def test_lists_are_the_best_items_that_a_user_does_not_have(stem: str, data: Interactions) -> None:
    model = saved(stem, data)
    found = pl.DataFrame(pl.from_arrow(model.recommend(["u3", "u1"], 5)))
    assert found.columns == ["user", "rank", "item", "score", "title"]
    assert found["user"].to_list() == ["u3"] * 5 + ["u1"] * 5
    assert found["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    items = np.array(data.item_ids.to_pylist())
    for user in ("u3", "u1"):
        code = data.user_ids.to_pylist().index(user)
        with torch.no_grad():
            scores = model.model.scores(torch.tensor([code]))[0].numpy()
        order = np.argsort(-scores, kind="stable")
        left = [item for item in order if item not in data.train.of_user(code)][:5]
        mine = found.filter(pl.col("user") == user)
        assert mine["item"].to_list() == items[left].tolist()
        assert mine["title"].to_list() == [f"title {items[item] - 100}" for item in left]
        np.testing.assert_allclose(mine["score"], scores[left], rtol=1e-5)
        whole = pl.DataFrame(pl.from_arrow(model.recommend([user], 5, known=True)))
        assert whole["item"].to_list() == items[order[:5]].tolist()
    everything = model.recommend(pa.array(["u3"]), data.num_items)
    assert everything.num_rows == data.num_items - len(
        data.train.of_user(data.user_ids.to_pylist().index("u3"))
    )


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (["u1", "nobody"], "user 'nobody' is not among the 12 users"),
        ([5], "users are string such as 'u0'"),
    ],
)
def test_unknown_users_are_named(users: list[Any], message: str, data: Interactions) -> None:
    with pytest.raises(SchemaError, match=message):
        saved("popularity", data).recommend(users, 3)


def test_lists_longer_than_the_catalogue_are_refused(data: Interactions) -> None:
    with pytest.raises(ConfigError, match="k=21"):
        saved("popularity", data).recommend(["u1"], 21)


def test_damaged_folders_are_refused(data: Interactions, tmp_path: Path) -> None:
    folder = saved("bprmf", data).save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="not a saved model"):
        SavedCF.load(tmp_path)
    card = json.loads((folder / "model.json").read_text())
    card["model"]["arguments"]["embed_dim"] = 3
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="do not fit its card"):
        SavedCF.load(folder)
    (folder / "model.json").write_text(json.dumps(card | {"version": 9}))
    with pytest.raises(CheckpointError, match="9"):
        SavedCF.load(folder)
    (folder / "model.json").write_text(json.dumps(card))
    (folder / "weights.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match="not a saved model"):
        SavedCF.load(folder)
