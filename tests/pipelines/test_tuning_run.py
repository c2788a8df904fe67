"""A search in this process: what decides, what is repeated, what is written, what is never read."""

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import polars as pl
import pytest

from pipelines.train import train
from pipelines.tune import tune
from pipelines.tuning_run import TuningRun, chosen_seeds
from recsys import config
from recsys.data.loader import Loader
from recsys.errors import ConfigError
from tests.pipelines.conftest import mine

SPACE = [
    "search.space={optimizer.lr: {low: 1e-3, high: 1e-1, log: true}, ctr.num_heads: [1, 2]}",
    "search=default", "search.space.embedding.dim=null", "search.space.trainer.batch_size=null",
    "search.space.ctr.dropout=null", "search.startup_trials=3", "tracking=none", "console=none",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def small(clicks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fewer rows of the person's own table."""
    path = tmp_path_factory.mktemp("small") / "clicks.parquet"
    pl.read_parquet(clicks)[:2000].write_parquet(path)
    return path


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Columns of falling worth, and noise."""
    rng = np.random.default_rng(0)
    columns = {f"c{i}": rng.integers(0, 4, 3000) for i in range(8)}
    logit = sum((1.6 / (i + 1)) * rng.normal(size=4)[columns[f"c{i}"]] for i in range(5))
    columns["clicked"] = (rng.random(3000) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    path = tmp_path_factory.mktemp("wide") / "wide.parquet"
    pl.DataFrame(columns).write_parquet(path)
    return path


def run(clicks: Path, *keys: str) -> dict[str, Any]:
    return tune(config.compose("tune", [*mine(clicks), *SPACE, *keys]))


def trials(result: dict[str, Any]) -> pl.DataFrame:
    return pl.read_csv(Path(result["output_dir"]) / "trials.csv")


def test_training_from_the_best_gives_its_value_again(small: Path, here: Path) -> None:
    result = run(small, "search.trials=3", "output_dir=out")
    table = trials(result)
    assert result["best"]["value"] == table["value"].max() == result["best"]["first_seed_value"]
    assert result["trials"] == {"done": 3}
    again = train(
        config.compose(
            "train", ["experiment=out/best.yaml", "tracking=none", "console=none",
                      "importance_rows=0"]
        )
    )  # fmt: skip
    assert again["metrics"]["val"]["auc"] == result["best"]["value"]
    assert again["config"]["optimizer"]["lr"] == result["best"]["params"]["optimizer.lr"]
    names = {path.name for path in Path("out/plots").iterdir()}
    assert {"history.png", "history.csv", "slices.png", "slices.csv"} <= names
    assert not list(Path("out").glob("trial-*"))


def test_no_trial_reads_a_test_row(
    small: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels of the test rows are turned round, and every loader is watched."""
    frame = pl.read_parquet(small)
    parts = {"train": frame[:1200], "val": frame[1200:1600], "test": frame[1600:]}
    splits = set()
    make = Loader.__init__

    def watched(self: Loader, store: Any, *arguments: Any, **keys: Any) -> None:
        splits.add(store.split)
        make(self, store, *arguments, **keys)

    monkeypatch.setattr(Loader, "__init__", watched)
    found = []
    for turned in (False, True):
        folder = here / str(turned)
        folder.mkdir()
        for name, part in parts.items():
            if turned and name == "test":
                part = part.with_columns(clicked=1 - pl.col("clicked"))
            part.write_parquet(folder / f"{name}.parquet")
        found.append(run(
            folder / "train.parquet", "search.trials=2", f"data.val_path={folder}/val.parquet",
            f"data.test_path={folder}/test.parquet", f"output_dir={folder}/out",
        ))  # fmt: skip
    assert splits == {"train", "val"}
    assert found[0]["best"]["metrics"] == found[1]["best"]["metrics"]
    assert trials(found[0])["value"].to_list() == trials(found[1])["value"].to_list()


def test_the_mean_over_seeds_decides_and_finalists_are_repeated(small: Path) -> None:
    result = run(
        small, "search.trials=2", "seed=range(2)", "search.finalists=1", "search.final_seeds=3"
    )
    assert len(result["best"]["values"]) == 3
    assert result["best"]["value"] == pytest.approx(np.mean(result["best"]["values"]))
    assert len(set(result["best"]["values"])) == 3
    table = trials(result)
    best = table.filter(pl.col("trial") == result["best"]["trial"])["value"].item()
    assert best == table["value"].max() == pytest.approx(np.mean(result["best"]["values"][:2]))
    again = run(
        small, "search.trials=2", "seed=range(2)", "search.finalists=1", "search.final_seeds=3"
    )
    result["run_id"] = again["run_id"]  # without tracking, each call has its own
    assert again == result  # everything was there


def test_it_goes_on_where_it_stopped_as_if_it_had_not(small: Path) -> None:
    whole = run(small, "search.trials=4", "search.study=whole")
    run(small, "search.trials=2", "search.study=parts")
    parts = run(small, "search.trials=4", "search.study=parts")
    columns = ["trial", "state", "value", "optimizer.lr", "ctr.num_heads"]
    assert trials(parts).select(columns).equals(trials(whole).select(columns))
    with pytest.raises(ConfigError, match="holds another search"):
        run(small, "search.trials=4", "search.study=parts", "embedding.dim=4")


def test_what_diverges_is_refused_or_does_not_fit_fails_and_the_search_goes_on(
    small: Path,
) -> None:
    result = run(
        small, "search.trials=8", "search.sampler=random", "trainer.epochs=1",
        "search.space.optimizer.lr=[1e-3,1e30]", "search.space.ctr.num_heads=[1,3]",
        "search.space.embedding.dim=[8,100000000000]",
    )  # fmt: skip
    table = trials(result)
    reasons = " | ".join(table["reason"].drop_nulls().to_list())
    assert "diverged: " in reasons
    assert "refused: " in reasons
    assert "out of memory" in reasons
    good = table.filter(pl.col("reason").is_null())
    assert len(good)
    assert set(good["optimizer.lr"]) == {0.001}
    assert result["best"]["params"]["ctr.num_heads"] == 1


@pytest.mark.slow
def test_trials_that_are_behind_are_stopped(clicks: Path) -> None:
    result = run(
        clicks, "search.trials=12", "trainer.epochs=4", "search.space.optimizer.lr=[1e-7,1e-2]",
        "search.sampler=random",
    )  # fmt: skip
    table = trials(result)
    pruned = table.filter(pl.col("state") == "pruned")
    assert len(pruned)
    assert set(pruned["optimizer.lr"]) == {1e-7}
    assert pruned["validations"].max() < 4


def test_columns_are_chosen_along_their_ranking(wide: Path, here: Path) -> None:
    result = run(wide, "search.features=rank", "search.trials=8", "trainer.epochs=1")
    table = trials(result)
    assert len(set(table["data.top"])) > 1
    assert table["data.top"][0] == min(table["data.top"])
    ranking = next(here.glob("outputs/wide/ranking/*/ranking.csv"))
    assert table["elapsed"][0] > table["seconds"][0]  # the ranking took its time
    again = train(
        config.compose(
            "train", [f"experiment={result['experiment']}", "tracking=none", "console=none",
                      "importance_rows=0"]
        )
    )  # fmt: skip
    kept = again["config"]["data"]["features"]
    assert len(kept) == result["best"]["params"]["data.top"]
    assert set(kept) <= set(pl.read_csv(ranking)["feature"])
    assert again["metrics"]["val"]["auc"] == result["best"]["value"]


@pytest.mark.slow
def test_trees_and_models_of_several_labels(small: Path, here: Path) -> None:
    data = ["data=parquet", f"data.path={small}", "data.label=clicked"]
    more = ["tracking=none", "console=none", "search.trials=2"]
    trees = tune(config.compose("tune", ["ctr=lightgbm", *data, *more, "ctr.num_rounds=20"]))
    assert 0.5 < trees["best"]["value"] < 1
    again = train(
        config.compose(
            "train", [f"experiment={trees['experiment']}", *more[:2], "importance_rows=0"]
        )
    )
    assert again["metrics"]["val"]["auc"] == trees["best"]["value"]
    tasks = tune(config.compose("tune", [
        "mtl=sharedbottom", "data=synthetic_tasks", "data.rows=2000", *more, "trainer.epochs=1",
    ]))  # fmt: skip
    assert "mtl.dropout" in tasks["best"]["params"]
    assert 0.3 < tasks["best"]["metrics"]["auc"] < 1


def test_trials_are_children_of_one_run(small: Path, here: Path) -> None:
    keys = [*mine(small), *[one for one in SPACE if one != "tracking=none"], "trainer.epochs=1"]
    for count in (1, 2):
        result = tune(config.compose("tune", [*keys, f"search.trials={count}", "output_dir=out"]))
    client = mlflow.MlflowClient(f"sqlite:///{here}/outputs/mlflow.db")
    assert (here / "outputs" / "optuna.db").is_file()
    experiment = client.get_experiment_by_name("recsys/clicks")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [one for one in runs if one.data.tags.get("task") == "tune"]
    assert [one.info.run_id for one in parents] == [result["run_id"]]
    children = [one for one in runs if "mlflow.parentRunId" in one.data.tags]
    assert {one.data.tags["mlflow.parentRunId"] for one in children} == {result["run_id"]}
    assert {one.info.run_name for one in children} == {"trial-000", "trial-001"}
    values = {one.data.tags["trial"]: one.data.metrics["best/auc"] for one in children}
    assert max(values.values()) == result["best"]["value"]
    assert not any(name.startswith("test/") for one in children for name in one.data.metrics)
    kept = {one.path for one in client.list_artifacts(result["run_id"])}
    assert {"best.yaml", "trials.csv", "plots", "result.json"} <= kept
    history = client.get_metric_history(result["run_id"], "best/auc")
    assert [one.step for one in history] == [0, 1]
    assert parents[0].info.status == "FINISHED"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["search.space.ctr.num_head=[1,2]"], "Did you mean ctr.num_heads"),
        (["search.trials=0"], "search.trials=0"),
        (["seed=[1,1]"], "several different ones"),
        (["search.space.optimizer.lr=null", "search.space.ctr.num_heads=null"], "space is empty"),
        (["search.space.data.val_fraction=[0.1,0.2]"], "on the same rows"),
        (["data.val_fraction=0"], "no validation rows"),
        (["search.features=nowhere.csv"], "nowhere.csv cannot be read"),
        (["search.features=rank", "search.space.data.top=[1,2]"], "take it out"),
        (["ctr.num_heads=3"], "num_heads"),
        (["trainer.monitor=aucc"], "Did you mean auc"),
    ],
)
def test_wrong_usage_is_told_before_the_first_trial(
    small: Path, keys: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        run(small, *keys)
    assert message in str(error.value)


def test_torchrun_is_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        TuningRun(config.compose("tune", [*mine(small), *SPACE]), "ctr")


def test_seeds_are_one_or_several() -> None:
    assert chosen_seeds(3) == [3]
    assert chosen_seeds([2, 0]) == [2, 0]
