"""Searches over models of users and items: by held-out training pairs, and by nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import optuna
import polars as pl
import pytest

from pipelines.ranking_trial import PairsPlace, TrialPairs, run_ranking_trial
from pipelines.train import train
from pipelines.tune import tune
from recsys import config
from recsys.errors import ConfigError
from recsys.tracking.console import Console

QUIET = ["tracking=none", "console=none"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """60 users of two tastes, 30 items of each; keys that name them."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(60):
        mine = generator.permutation(30)[:14] + 30 * (user % 2)
        rows += [{"user": f"u{user}", "item": int(item)} for item in mine]
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return ["data=interactions", f"data.path={path}", "ks=[5]", "trainer.monitor=recall_at_5"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


SMALL = ["trainer.epochs=6", "trainer.batch_size=256", "trainer.patience=0"]


@pytest.mark.parametrize(
    "keys",
    [
        ["cf=bprmf", "optimizer.lr=0.05", *SMALL],
        ["cf=lightgcn", "cf.embed_dim=8", *SMALL],
        ["cf=ease"],
        ["towers=twotower", "towers.embed_dim=8", *SMALL],
    ],
    ids=lambda keys: keys[0],
)
def test_its_value_is_that_of_training(pairs: list[str], keys: list[str]) -> None:
    cfg = config.compose("train", [*pairs, *keys, *QUIET])
    family, _ = config.chosen_model(cfg)
    data = TrialPairs(Console("none")).of(cfg, family)
    assert data.test is None
    place = PairsPlace(data=data, folder=Path("t"), name="t", parent_run_id=None, tags={})
    found = run_ranking_trial(cfg, family, place, None)
    trained = train(config.compose("train", [*pairs, *keys, *QUIET, "output_dir=run"]))
    assert found["value"] == trained["metrics"]["val"]["recall_at_5"]
    assert found["metrics"] == trained["metrics"]["val"]
    assert found["num_parameters"] == trained["num_parameters"]
    assert not Path("t").exists()


def test_a_trial_that_is_behind_is_stopped(pairs: list[str]) -> None:
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=2.0)
    )
    cfg = config.compose("train", [*pairs, "cf=bprmf", *SMALL, *QUIET])
    data = TrialPairs(Console("none")).of(cfg, "cf")
    place = PairsPlace(data=data, folder=Path("t"), name="t", parent_run_id=None, tags={})
    with pytest.raises(optuna.TrialPruned, match="behind after validation 1"):
        run_ranking_trial(cfg, "cf", place, study.ask())


def test_a_search_writes_an_experiment_that_training_takes(
    pairs: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [*pairs, "cf=ease", "search.trials=6", "search.startup_trials=2", "tracking=none"]
    found = tune(config.compose("tune", [*keys, "console=plain"]))
    assert found["trials"] == {"done": 6}
    assert set(found["best"]["params"]) == {"cf.l2"}
    assert "672 train pairs" in capsys.readouterr().out
    best = config.compose("train", [f"experiment={found['experiment']}", *QUIET])
    assert best.cf.l2 == found["best"]["params"]["cf.l2"]
    again = train(best)
    assert again["metrics"]["val"]["recall_at_5"] == found["best"]["value"]
    assert "test" in again["metrics"]
    text = Path(found["folder"], "result.json").read_text()
    assert "test" not in json.loads(text)["best"]["metrics"]
    more = tune(config.compose("tune", [*keys, "console=none"]))
    assert more["trials"] == {"done": 6}  # the same command has nothing left to do


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["cf=ease", "selection=test"], "chooses by held-out training pairs"),
        (["cf=ease", "search.features=rank"], "ranking of columns"),
        (["cf=ease", "search.space.optimizer.lr=[0.1, 0.2]"], "changes nothing of EASE"),
        (["cf=lightgcn", "search=default"], "embedding.dim changes nothing of LightGCN"),
        (["cf=popularity", "search.space={}", "search=ease"], "cf.l2 is not an option"),
        (["cf=popularity", "search.space.optimizer.lr=null", "search.space.embedding.dim=null",
          "search.space.trainer.batch_size=null"], "Popularity has nothing to search"),
    ],
)  # fmt: skip
def test_wrong_usage(pairs: list[str], keys: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(config.compose("tune", [*pairs, *keys, *QUIET]))


@pytest.mark.parametrize("stem", sorted({*config.options("cf"), "twotower"} - {"popularity"}))
def test_every_model_has_a_space_of_its_own(pairs: list[str], stem: str) -> None:
    from pipelines.tuning_run import TuningRun

    family = "towers" if stem == "twotower" else "cf"
    run = TuningRun(config.compose("tune", [*pairs, f"{family}={stem}", *QUIET]), family)
    assert any(one.key.startswith(f"{family}.") for one in run.space)
