"""LightGBM's contract: its options, and that it finds an interaction no linear model can."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.data.encode import EncodedTable
from recsys.data.schema import Field, Schema
from recsys.data.store import Store, StoreWriter
from recsys.errors import ConfigError
from recsys.metrics.classification import auc
from recsys.models.base import CTRModel
from recsys.models.ctr.lightgbm import LightGBM
from recsys.models.saved import ModelSpec
from recsys.models.tree_features import stored_rows
from tests import contract


def test_the_yaml_file_holds_the_keywords_and_their_defaults() -> None:
    chosen = contract.options("lightgbm")
    assert chosen.pop("_target_") == "recsys.models.ctr.lightgbm.LightGBM"
    assert chosen == contract.keywords(LightGBM)


def test_every_keyword_reaches_lightgbm_or_the_loop() -> None:
    plain = LightGBM()
    seen = plain.parameters() | {
        "bagging_rounds": 1, "num_rounds": 1, "patience": 1, "eval_rounds": 1, "list_tokens": 1,
    }  # fmt: skip
    assert set(contract.keywords(LightGBM)) <= set(seen)
    assert plain.parameters(seed=5, threads=2)["num_threads"] == 2
    assert plain.parameters(seed=2**40)["seed"] < 2**31


def test_it_is_no_network_and_networks_are_not_boosted() -> None:
    assert "lightgbm" not in contract.stems("ctr")
    assert "dcnv2" in contract.stems("ctr")
    assert not issubclass(LightGBM, CTRModel)
    assert ModelSpec("ctr", "recsys.models.ctr.lightgbm.LightGBM", {}).boosted
    assert not ModelSpec("ctr", "recsys.models.ctr.lr.LR", {}).boosted


def test_the_class_is_imported_without_torch() -> None:
    code = (
        "import sys; from recsys.models.registry import import_target as get\n"
        "assert get('recsys.models.ctr.lightgbm.LightGBM').boosted\n"
        "assert not {'torch', 'lightgbm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_leaves": 1}, "ctr.num_leaves=1; it must be a whole number, 2 or more"),
        ({"num_rounds": 0}, "ctr.num_rounds=0"),
        ({"learning_rate": 0.0}, "ctr.learning_rate=0.0; it must be above 0"),
        ({"feature_fraction": 1.5}, "above 0 and at most 1"),
        ({"lambda_l2": -1.0}, "ctr.lambda_l2=-1.0; it must be 0 or more"),
        ({"lambda_l1": float("nan")}, "ctr.lambda_l1=nan"),
        ({"max_depth": 0}, "ctr.max_depth=0"),
        ({"num_leafs": 3}, "Did you mean ctr.num_leaves"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelSpec("ctr", "recsys.models.ctr.lightgbm.LightGBM", options).make_boosted()


def xor_store(path: Path, seed: int) -> Store:
    """The label is whether two categories are of different parity; a third says nothing."""
    rng = np.random.default_rng(seed)
    schema = Schema(
        fields=tuple(
            Field(name=n, kind="categorical", encoding="hash", hash_size=8, size=11) for n in "abc"
        ),
        labels=("y",),
    )
    ids = rng.integers(3, 11, (4000, 3)).astype(np.int32)
    y = ((ids[:, 0] + ids[:, 1]) % 2).astype(np.float32)
    with StoreWriter(path, schema) as writer:
        writer.append(EncodedTable(ids, np.empty((4000, 0), np.float32), label=y))
    return Store.open(path)


def test_it_learns_an_interaction(tmp_path: Path) -> None:
    train, val = xor_store(tmp_path / "train", 0), xor_store(tmp_path / "val", 1)
    growing = LightGBM(num_leaves=15, learning_rate=0.3, feature_fraction=1.0).start(
        train, None, threads=1
    )
    for _ in range(40):
        growing.grow()
    trees = growing.finish(40)
    assert auc(trees.logits_of(stored_rows(val, 0, len(val))), np.asarray(val.label)) > 0.99
    gains = dict(zip(trees.features.names, trees.gains(), strict=True))
    assert gains["c"] < 0.1 * min(gains["a"], gains["b"])
