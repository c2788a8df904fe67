"""From pairs to a ranking of the catalogue: what is chosen by what, and what is left behind."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipelines.evaluate import evaluate
from pipelines.ranking_run import RankingRun
from pipelines.train import train
from recsys import config
from recsys.data.datasets.interactions import interactions
from recsys.data.triples import Triples
from recsys.errors import ConfigError, SchemaError
from recsys.metrics.ranking import FullRanking
from recsys.models.saved_cf import SavedCF
from recsys.training.ranking_loop import RankingTrainer
from recsys.training.signals import Interrupted


def run(pair_table: Path, folder: Path, *keys: str) -> dict[str, Any]:
    overrides = [
        "data=interactions", f"data.path={pair_table}", "tracking=none", "console=none",
        f"output_dir={folder}", "ks=[5,10]", "trainer.monitor=recall_at_10", *keys,
    ]  # fmt: skip
    return train(config.compose("train", overrides))


def test_the_refit_is_as_many_steps_long_where_steps_were_judged(
    pair_table: Path, tmp_path: Path
) -> None:
    """The best evaluation may lie within the first epoch."""
    result = run(
        pair_table, tmp_path, "cf=bprmf", "trainer.epochs=1", "trainer.batch_size=64",
        "trainer.eval_unit=steps", "trainer.eval_every=4", "optimizer.lr=0.05", "cf.embed_dim=8",
    )  # fmt: skip
    counts = result["counts"]
    more = counts["test"]["num_train_pairs"] / counts["val"]["num_train_pairs"]
    per_epoch = -(-counts["test"]["num_train_pairs"] // 64)
    assert 0 < result["steps"] <= per_epoch + 1
    assert result["steps"] in {round(step * more) for step in range(4, per_epoch + 4)}


def test_a_trained_model_is_chosen_by_a_part_of_training_and_made_again(
    pair_table: Path, tmp_path: Path
) -> None:
    keys = ("cf=lightgcn", "trainer.epochs=12", "trainer.eval_every=2", "optimizer.lr=0.05",
            "trainer.batch_size=128", "cf.embed_dim=8")  # fmt: skip
    result = run(pair_table, tmp_path / "one", *keys)
    assert result["selection"] == "validation"
    assert set(result["metrics"]) == {"val", "test"}
    assert result["epochs"] % 2 == 0
    assert 2 <= result["epochs"] <= 12
    assert result["steps"] == result["epochs"] * -(
        -result["counts"]["test"]["num_train_pairs"] // 128
    )
    # Half of the items are the other group's: at random a list of 10 would find a quarter.
    assert result["metrics"]["test"]["recall_at_10"] > 0.45
    counts = result["counts"]
    data = interactions(path=pair_table)
    assert data.test is not None
    assert counts["test"]["num_train_pairs"] == len(data.train)
    assert counts["test"]["num_test_pairs"] == len(data.test)
    assert counts["val"]["num_train_pairs"] + counts["val"]["num_test_pairs"] == len(data.train)
    for name in ("training_curve", "recall_by_popularity"):
        assert (tmp_path / "one" / "plots" / f"{name}.png").stat().st_size > 5000
    saved = SavedCF.load(tmp_path / "one" / "model")
    vectors = saved.vectors()
    assert vectors is not None
    again = FullRanking(data.test, data.train, ks=(5, 10)).of_vectors(*vectors)
    assert again.metrics["ndcg_at_5"] == result["metrics"]["test"]["ndcg_at_5"]
    same = run(pair_table, tmp_path / "two", *keys)
    assert same["metrics"] == result["metrics"]
    other = run(pair_table, tmp_path / "three", *keys, "seed=1")
    assert other["metrics"]["test"] != result["metrics"]["test"]
    assert other["counts"] == counts  # one validation part for all seeds


@pytest.mark.parametrize("step", [3, 17])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    step: int, pair_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the training that chooses (8 steps), and in the one after it."""
    keys = ("cf=lightgcn", "trainer.epochs=4", "trainer.eval_every=1", "trainer.patience=0",
            "trainer.batch_size=128", "trainer.checkpoint_every=1", "cf.embed_dim=4")  # fmt: skip
    whole = run(pair_table, tmp_path / "whole", *keys)
    assert whole["steps"] > 4
    train_step = RankingTrainer.train_step
    count = 0

    def stopping(self: RankingTrainer, batch: Triples) -> Any:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(RankingTrainer, "train_step", stopping)
        with pytest.raises(Interrupted, match=r"trainer\.resume=auto"):
            run(pair_table, tmp_path / "parts", *keys)
    assert not (tmp_path / "parts" / "result.json").exists()
    count = 10**9
    again = run(pair_table, tmp_path / "parts", *keys, "trainer.resume=auto")
    assert again["metrics"] == whole["metrics"]
    assert (again["epochs"], again["steps"]) == (whole["epochs"], whole["steps"])


def test_selection_by_the_test_pairs_says_so(
    pair_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(
        pair_table, tmp_path, "cf=bprmf", "selection=test", "trainer.epochs=4",
        "trainer.eval_every=1", "trainer.batch_size=128", "console=plain",
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "epochs chosen by the test pairs" in printed
    data = interactions(path=pair_table)
    assert data.counts() in printed
    assert result["selection"] == "test"
    assert set(result["metrics"]) == {"test"}
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["metrics"] == result["metrics"]


@pytest.mark.parametrize("stem", ["popularity", "ease"])
def test_closed_forms_are_computed(stem: str, pair_table: Path, tmp_path: Path) -> None:
    result = run(pair_table, tmp_path, f"cf={stem}")
    assert set(result["metrics"]) == {"val", "test"}
    assert result["epochs"] == 0
    saved = SavedCF.load(tmp_path / "model")
    data = interactions(path=pair_table)
    assert data.test is not None
    again = FullRanking(data.test, data.train, ks=(5, 10)).of_scores(saved.model.scores)
    assert again.metrics["recall_at_10"] == result["metrics"]["test"]["recall_at_10"]
    assert saved.recommend(["p3"], 5).num_rows == 5


def test_pairs_without_a_test_part_are_learnt_all_the_same(
    pair_table: Path, tmp_path: Path
) -> None:
    result = run(pair_table, tmp_path, "cf=ease", "data.test_fraction=0")
    assert set(result["metrics"]) == {"val"}


@pytest.mark.parametrize("stem", ["popularity", "bprmf"])
def test_new_pairs_are_ranked_by_the_saved_model(
    stem: str, pair_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ("trainer.epochs=2", "trainer.eval_every=1") if stem == "bprmf" else ()
    run(pair_table, tmp_path / "run", f"cf={stem}", *keys)
    new = pl.DataFrame({"who": ["p1", "p2", "nobody"], "what": ["i3", "i4", "i5"]})
    new.write_csv(tmp_path / "new.csv")
    overrides = [
        f"run={tmp_path / 'run'}", f"data.path={tmp_path / 'new.csv'}", "data.user=who",
        "data.item=what", "ks=[3,7]", f"output_dir={tmp_path / 'out'}", "console=plain",
    ]  # fmt: skip
    result = evaluate(config.compose("evaluate", overrides))
    assert "1 new pairs of unknown users or items are left out" in capsys.readouterr().out
    assert result["counts"]["data"]["num_test_users"] == 2
    assert 0 <= result["metrics"]["data"]["recall_at_7"] <= 1
    lists = pl.read_parquet(tmp_path / "out" / "recommendations.parquet")
    assert lists["user"].to_list() == ["p1"] * 7 + ["p2"] * 7
    data = interactions(path=pair_table)
    codes = {name: code for code, name in enumerate(data.user_ids.to_pylist())}
    items = {name: code for code, name in enumerate(data.item_ids.to_pylist())}
    for user, item in lists.select("user", "item").rows():
        assert items[item] not in data.train.of_user(codes[user])
    for column, ids, message in (
        ("who", ["x", "y", "z"], "none of the 3 new pairs"),
        ("who", [1, 2, 3], "by strings and strings, but the new pairs have integers"),
    ):
        new.with_columns(pl.Series(column, ids)).write_csv(tmp_path / "new.csv")
        with pytest.raises(SchemaError, match=message):
            evaluate(config.compose("evaluate", overrides))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["selection=tset"], "selection=tset; allowed are validation and test"),
        (["val_fraction=1.0"], "val_fraction=1.0"),
        (["ks=[0]"], "ks"),
        (["ks=[]"], "at least one length"),
        (["trainer.monitor=recall_at_50"], "judged at none of ks"),
        (["trainer.monitor=auk"], "not a metric to stop on"),
        (["optimizer=lazy_adam"], "optimizer=lazy_adam is for the tables"),
        (["optimizer.embedding_l2=0.1"], "embedding_l2=0.1 is nothing for cf"),
        (["gate=optfs"], "gate is nothing for cf"),
        (["selection=test", "data.test_fraction=0"], "no test pairs"),
        (["ks=[41]", "trainer.monitor=recall_at_41"], "k=41 items of a catalogue of 40"),
    ],
)
def test_bad_input_is_named(
    pair_table: Path, tmp_path: Path, keys: list[str], message: str
) -> None:
    with pytest.raises((ConfigError, SchemaError), match=message):
        run(pair_table, tmp_path, "cf=popularity", *keys)


def test_data_without_pairs_is_refused() -> None:
    with pytest.raises(ConfigError, match="no user-item pairs"):
        train(config.compose("train", ["cf=popularity", "data=criteo", "console=none"]))


@pytest.mark.parametrize("family", ["cf=lightgcn", "towers=twotower"])
def test_several_processes_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"one process, got 2: .*without torchrun"):
        RankingRun(config.compose("train", [family, "data=gowalla"]), family.partition("=")[0])
