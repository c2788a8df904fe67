"""Records of runs: what identifies them, and how a person filters them."""

from pathlib import Path
from typing import Any

import pytest

from recsys import config
from recsys.comparison.records import (
    ALIKE,
    NOT_COMPARED,
    RunRecord,
    compared_params,
    leaves,
    record_of,
    where,
)
from recsys.errors import ConfigError


def result(**more: Any) -> dict[str, Any]:
    return {
        "run_id": "abcdef0123",
        "model": "lr",
        "data": "clicks",
        "data_digest": "d1",
        "seed": 3,
        "config": {
            "ctr": {"_target_": "m.LR", "l2": 0.1},
            "trainer": {"epochs": 2, "threads": 8},
            "seed": 3,
            "gate": None,
            "output_dir": "x",
        },
        "metrics": {"val": {"auc": 0.7}, "test": {"auc": 0.8, "logloss": None}},
        "fit_seconds": 2,
    } | more


def test_a_result_becomes_a_record() -> None:
    run = record_of(result(), folder=Path("runs/first"), tags={"git_commit": "c"})
    assert (run.run_id, run.model, run.family, run.seed) == ("abcdef0123", "lr", "ctr", 3)
    assert run.params == {"ctr.l2": "0.1", "trainer.epochs": "2"}
    assert run.metrics == {"val/auc": 0.7, "test/auc": 0.8, "fit_seconds": 2.0}
    assert run.is_called("abcdef")
    assert run.is_called("first")
    assert run.is_called("runs/../runs/first")
    assert not run.is_called("abcde")


def test_what_is_no_training_result_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not hold the result of a training run"):
        record_of({"rows": 5}, folder=Path("scored"))


def test_what_does_not_tell_runs_apart_is_what_identity_leaves_out() -> None:
    """One list in two rooms: `config.identity` decides whether two runs are the same run."""
    cfg = config.compose("train", ["ctr=autoint"])
    assert set(config.NOT_IDENTITY) <= set(NOT_COMPARED)
    assert {f"trainer.{key}" for key in config.NOT_TRAINING} <= set(ALIKE)
    same = config.identity(cfg)
    for key in ALIKE:
        changed = config.compose("train", ["ctr=autoint", f"{key}={_other(cfg, key)}"])
        assert config.identity(changed) == same, key
        assert compared_params(leaves(config.plain(changed))) == compared_params(
            leaves(config.plain(cfg))
        )


def _other(cfg: Any, key: str) -> object:
    named = {"trainer.resume": "auto", "data.rebuild": True, "embedding.sharding": "auto"}
    if key in named:
        return named[key]
    group, _, name = key.partition(".")
    return int(cfg[group][name] or 0) + 1


def runs() -> list[RunRecord]:
    values = [("1", "0.001", 0.7, "ads"), ("2", "0.01", 0.8, "ads"), ("3", "adam", 0.9, "shop")]
    return [
        RunRecord(
            run_id=name, name=name, model="lr", family="ctr", data="d", digest="x", seed=0,
            params={"optimizer.lr": lr}, metrics={"test/auc": auc}, tags={"team": team},
        )
        for name, lr, auc, team in values
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        ("optimizer.lr=1e-3", ["1"]),
        ("optimizer.lr!=0.001", ["2", "3"]),
        ("test/auc>=0.8 and tags.team=ads", ["2"]),
        ("seed=0 and test/auc<0.75", ["1"]),
        ("tags.team=none", []),
    ],
)
def test_conditions(conditions: str, names: list[str]) -> None:
    assert [run.run_id for run in where(runs(), conditions)] == names


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ("optimizer.lr", "cannot read"),
        ("optimiser.lr=1", "Did you mean optimizer.lr"),
        ("optimizer.lr>0.1", "compares text by size"),
    ],
)
def test_bad_conditions(conditions: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        where(runs(), conditions)
