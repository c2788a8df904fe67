"""Trees over a store: streamed as if copied whole, scored and saved to the last bit."""

from pathlib import Path

import lightgbm
import numpy as np
import pytest

from recsys.data.schema import Schema
from recsys.data.store import Store, StoreWriter
from recsys.errors import CheckpointError
from recsys.metrics.classification import log_loss
from recsys.models import trees as trees_module
from recsys.models.ctr.lightgbm import LightGBM
from recsys.models.tree_features import TreeFeatures, stored_rows
from recsys.models.trees import Growing, StoreRows, Trees
from tests.models.test_importance import encoded

MODEL = LightGBM(min_data_in_leaf=5, num_leaves=7, min_data_per_group=5, learning_rate=0.2)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    folder = tmp_path_factory.mktemp("stores")
    for name, seed in (("train", 0), ("val", 1)):
        schema, rows = encoded(1500, seed=seed, weight=True)
        with StoreWriter(folder / name, schema) as writer:
            writer.append(rows)
    return Store.open(folder / "train"), Store.open(folder / "val")


def grown(train: Store, val: Store | None, rounds: int = 12, threads: int = 1) -> Growing:
    growing = MODEL.start(train, val, seed=3, threads=threads)
    for _ in range(rounds):
        assert growing.grow()
    return growing


def test_a_stream_of_blocks_is_the_matrix(stores: tuple[Store, Store]) -> None:
    train = stores[0]
    features = TreeFeatures(train.schema)
    whole = features.matrix(stored_rows(train, 0, train.num_rows))
    rows = StoreRows(train, features)
    assert len(rows) == train.num_rows
    np.testing.assert_array_equal(rows[100:700], whole[100:700])
    for index in (0, 255, 256, 1499, 3):
        np.testing.assert_array_equal(rows[index], whole[index])
    np.testing.assert_array_equal(rows[[5, 900]], whole[[5, 900]])


def test_streamed_rows_give_the_trees_of_a_whole_copy(stores: tuple[Store, Store]) -> None:
    """Against LightGBM on one matrix, with weights: the same splits and leaves."""
    train = stores[0]
    growing = grown(train, None)
    features = TreeFeatures(train.schema)
    data = lightgbm.Dataset(
        features.matrix(stored_rows(train, 0, train.num_rows)),
        label=np.asarray(train.label),
        weight=np.asarray(train.weight),
        categorical_feature=features.categorical,
    )
    whole = lightgbm.train(MODEL.parameters(seed=3, threads=1), data, num_boost_round=12)
    part = features.matrix(stored_rows(train, 0, 200))
    np.testing.assert_array_equal(
        growing.finish(12).booster.predict(part, raw_score=True),
        whole.predict(part, raw_score=True),
    )


def test_what_is_watched_is_what_is_saved(
    stores: tuple[Store, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, val = stores
    growing = grown(train, val)
    trees = growing.finish(12)
    rows = stored_rows(val, 0, val.num_rows)
    logits = trees.logits_of(rows)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(growing.val_logits(), logits, atol=1e-6)
    train_logits = trees.logits_of(stored_rows(train, 0, train.num_rows))
    expected = log_loss(train_logits, np.asarray(train.label), np.asarray(train.weight))
    assert growing.train_loss() == pytest.approx(expected, rel=1e-6)
    trees.save(tmp_path)
    loaded = Trees.load(tmp_path, train.schema, MODEL.list_tokens)
    np.testing.assert_array_equal(loaded.logits_of(rows), logits)
    monkeypatch.setattr(trees_module, "SCORED_ROWS", 7)
    np.testing.assert_array_equal(loaded.logits_of(rows), logits)


def test_the_first_trees_are_those_of_a_shorter_run(stores: tuple[Store, Store]) -> None:
    rows = stored_rows(stores[1], 0, 300)
    few = grown(*stores, rounds=12).finish(5)
    assert few.num_trees == 5
    assert few.num_leaves <= 5 * 7
    short = grown(*stores, rounds=5).finish(5)
    np.testing.assert_array_equal(few.logits_of(rows), short.logits_of(rows))


def test_the_same_seed_gives_the_same_trees_with_any_number_of_threads(
    stores: tuple[Store, Store],
) -> None:
    rows = stored_rows(stores[1], 0, 300)
    one = grown(*stores, rounds=3).finish(3).logits_of(rows)
    two = grown(*stores, rounds=3, threads=2).finish(3).logits_of(rows)
    np.testing.assert_array_equal(one, two)


def test_gains_are_shares_and_find_the_signal(stores: tuple[Store, Store]) -> None:
    trees = grown(*stores).finish(12)
    gains = dict(zip(trees.features.names, trees.gains(), strict=True))
    assert sum(gains.values()) == pytest.approx(1.0)
    assert max(gains, key=gains.__getitem__) == "strong"


def test_contributions_sum_to_the_logit(stores: tuple[Store, Store]) -> None:
    trees = grown(*stores).finish(12)
    rows = stored_rows(stores[1], 0, 50)
    found = trees.contributions(rows)
    assert found.shape == (50, len(trees.features.names) + 1)
    np.testing.assert_allclose(found.sum(1), trees.logits_of(rows), atol=1e-5)


def test_trees_of_another_schema_or_none_are_refused(
    stores: tuple[Store, Store], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="not a saved model"):
        Trees.load(tmp_path, stores[0].schema, 16)
    grown(stores[0], None, rounds=1).finish(1).save(tmp_path)
    fewer = Schema(fields=stores[0].schema.fields[:2], labels=("click",))
    with pytest.raises(CheckpointError, match="gives 2"):
        Trees.load(tmp_path, fewer, 16)
    (tmp_path / trees_module.FILE).write_text("tree\n")
    with pytest.raises(CheckpointError, match="not a saved model"):
        Trees.load(tmp_path, stores[0].schema, 16)
