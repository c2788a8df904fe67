"""Soups of finished runs: chosen on validation, tested, saved as any model; and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf

from pipelines.evaluate import evaluate
from pipelines.soup import soup
from pipelines.train import train
from recsys import config
from recsys.errors import ConfigError
from recsys.models.saved import SavedModel

SMALL = ("ctr.num_cross_layers=1", "ctr.hidden_dims=[8]", "ctr.batch_norm=true", "embedding.dim=4")


def run_train(clicks: Path, folder: Path, *keys: str) -> dict[str, Any]:
    model = () if any(key.startswith(("ctr=", "mtl=")) for key in keys) else ("ctr=dcnv2", *SMALL)
    overrides = [
        *model, "data=parquet", f"data.path={clicks}", "data.label=clicked", "trainer.epochs=1",
        "trainer.batch_size=512", "importance_rows=0", "tracking=none", "console=none",
        f"output_dir={folder}", *keys,
    ]  # fmt: skip
    return train(config.compose("train", overrides))


def run_soup(folder: Path, runs: list[Path], *keys: str) -> dict[str, Any]:
    overrides = [
        f"runs=[{','.join(map(str, runs))}]", "tracking=none", "console=none",
        f"output_dir={folder}", *keys,
    ]  # fmt: skip
    return soup(config.compose("soup", overrides))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("soup")


@pytest.fixture(scope="module")
def runs(
    clicks: Path, folder: Path, monkeypatch_module: pytest.MonkeyPatch
) -> dict[str, dict[str, Any]]:
    """One run, two that begin with it, and one of another seed."""
    monkeypatch_module.chdir(folder)
    made = {"base": run_train(clicks, folder / "base", "trainer.epochs=2")}
    for name, keys in {
        "one": ("seed=1",),
        "two": ("seed=2", "optimizer.lr=5.0e-3", "ctr.dropout=0.1"),
    }.items():
        made[name] = run_train(clicks, folder / name, f"init_from={folder / 'base'}", *keys)
    made["stranger"] = run_train(clicks, folder / "stranger", "seed=9")
    return made


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_runs_say_how_they_began(runs: dict[str, dict[str, Any]], folder: Path) -> None:
    digests = {name: one["initial_digest"] for name, one in runs.items()}
    assert digests["one"] == digests["two"]
    assert len(set(digests.values())) == 3
    for name, digest in digests.items():
        card = json.loads((folder / name / "model" / "model.json").read_text())
        assert card["facts"]["initial_digest"] == digest
        assert json.loads((folder / name / "result.json").read_text())["initial_digest"] == digest


@pytest.mark.slow
def test_a_run_begins_where_the_other_ended(
    runs: dict[str, dict[str, Any]], folder: Path, clicks: Path, tmp_path: Path
) -> None:
    """With a learning rate of nothing it stays there, batch norm's statistics aside."""
    begin = f"init_from={folder / 'base'}"
    run_train(clicks, tmp_path / "still", begin, "seed=4", "optimizer.lr=1e-12")
    here = SavedModel.load(tmp_path / "still" / "model").recommender.tensors()
    there = SavedModel.load(folder / "base" / "model").recommender.tensors()
    for name, tensor in there.items():
        if tensor.is_floating_point() and "running" not in name:
            torch.testing.assert_close(here[name], tensor, rtol=0, atol=1e-9)


def test_a_soup_is_a_mean_and_a_model(
    runs: dict[str, dict[str, Any]], folder: Path, clicks: Path, tmp_path: Path
) -> None:
    names = ["one", "two"]
    places = [folder / name for name in names]
    result = run_soup(tmp_path / "uniform", places, "keep=uniform")
    told = result["soup"]
    assert told["keep"] == "uniform"
    assert told["kept"] == [str(place) for place in places]
    for place, name in zip(places, names, strict=True):
        for split in ("val", "test"):  # every run scores what it scored
            for metric in ("auc", "logloss"):
                assert told["runs"][str(place)]["metrics"][split][metric] == pytest.approx(
                    runs[name]["metrics"][split][metric], abs=1e-6
                )
    saved = SavedModel.load(tmp_path / "uniform" / "model")
    tensors = [SavedModel.load(place / "model").recommender.tensors() for place in places]
    for name, tensor in saved.recommender.tensors().items():
        if "running" in name:  # taken anew, not averaged
            assert not torch.equal(tensor, torch.stack([one[name] for one in tensors]).mean(0))
        elif tensor.is_floating_point():
            mean = torch.stack([one[name].double() for one in tensors]).mean(0)
            torch.testing.assert_close(tensor, mean.float(), rtol=0, atol=1e-9)
    scored = evaluate(
        config.compose(
            "evaluate",
            [f"run={tmp_path / 'uniform'}", f"data.path={clicks}", "tracking=none", "console=none",
             f"output_dir={tmp_path / 'scored'}"],
        )
    )  # fmt: skip
    assert scored["model"] == "dcnv2"
    assert scored["metrics"]["data"]["auc"] > 0.5
    assert result["initial_digest"] == runs["one"]["initial_digest"]
    written = json.loads((tmp_path / "uniform" / "result.json").read_text())
    assert written["config"]["data"]["path"] == str(clicks)
    assert written["metrics"] == told["soups"]["uniform"]


@pytest.mark.slow
def test_greedy_is_never_worse_than_the_best_on_validation(
    runs: dict[str, dict[str, Any]], folder: Path, tmp_path: Path
) -> None:
    places = [folder / name for name in ("two", "one")]
    for monitor, sign in (("auc", 1), ("logloss", -1)):
        result = run_soup(tmp_path / monitor, places, f"monitor={monitor}")
        told = result["soup"]
        alone = {name: sign * one["metrics"]["val"][monitor] for name, one in told["runs"].items()}
        best = max(alone, key=alone.__getitem__)
        assert told["kept"][0] == best
        assert sign * result["metrics"]["val"][monitor] >= alone[best]
        if len(told["kept"]) == 1:  # then it is that run, to the bit
            kept = SavedModel.load(tmp_path / monitor / "model").recommender.tensors()
            own = SavedModel.load(Path(best) / "model").recommender.tensors()
            assert all(torch.equal(kept[name], own[name]) for name in own)
        table = pl.read_csv(tmp_path / monitor / "plots" / "soup.csv")
        assert len(table) == 4
        assert table["val_difference"].abs().min() == 0
        assert np.isfinite(table["test_difference"].to_numpy()).all()
        assert (tmp_path / monitor / "plots" / "calibration.png").exists() or list(
            (tmp_path / monitor / "plots").glob("test_calibration*.png")
        )


@pytest.mark.slow
def test_a_soup_can_be_begun_from_and_averaged_again(
    runs: dict[str, dict[str, Any]], folder: Path, clicks: Path, tmp_path: Path
) -> None:
    run_soup(tmp_path / "first", [folder / "one", folder / "two"], "keep=uniform")
    again = run_soup(tmp_path / "again", [tmp_path / "first", folder / "two"])
    assert again["soup"]["kept"]
    tuned = run_train(clicks, tmp_path / "tuned", f"init_from={tmp_path / 'first'}")
    assert tuned["initial_digest"] not in {one["initial_digest"] for one in runs.values()}


def test_what_must_not_be_averaged_is_refused(
    runs: dict[str, dict[str, Any]], folder: Path, clicks: Path, tmp_path: Path
) -> None:
    def ask(*places: Path, keys: tuple[str, ...] = ()) -> None:
        run_soup(tmp_path / "out", list(places), *keys)

    one, two = folder / "one", folder / "two"
    with pytest.raises(ConfigError, match=r"began with different weights.*init_from=<run id>"):
        ask(one, folder / "stranger")
    with pytest.raises(ConfigError, match="needs two or more different runs"):
        ask(one)
    with pytest.raises(ConfigError, match="needs two or more different runs"):
        ask(one, one)
    with pytest.raises(ConfigError, match=r"keep=best does not exist.*greedy, uniform"):
        ask(one, two, keys=("keep=best",))
    with pytest.raises(ConfigError, match="norm_batches=0; it must be a whole number, 1 or more"):
        ask(one, two, keys=("norm_batches=0",))
    with pytest.raises(ConfigError, match="monitor"):
        ask(one, two, keys=("monitor=happiness",))
    shutil.copytree(two / "model", tmp_path / "lost" / "model")
    with pytest.raises(ConfigError, match="its output folder is not on this disk"):
        ask(one, tmp_path / "lost")
    shutil.copytree(two, tmp_path / "moved")
    card = tmp_path / "moved" / "model" / "model.json"
    card.write_text(card.read_text().replace(runs["two"]["data_digest"], "0" * 16))
    with pytest.raises(ConfigError, match="judged on other rows than there are now"):
        ask(one, tmp_path / "moved")
    assert not (tmp_path / "out").exists()


def test_other_codes_cannot_begin_with_it(
    runs: dict[str, dict[str, Any]], folder: Path, clicks: Path, tmp_path: Path
) -> None:
    frame = pl.read_parquet(clicks).with_columns(pl.col("item").str.replace("item-1$", "new"))
    frame.write_parquet(tmp_path / "later.parquet")
    begin = f"init_from={folder / 'base'}"
    with pytest.raises(ConfigError, match="gives values other codes than this data does"):
        run_train(tmp_path / "later.parquet", tmp_path / "a", begin)
    with pytest.raises(ConfigError, match=r"is another model.*\(DCNv2\)"):
        run_train(clicks, tmp_path / "b", begin, "ctr.hidden_dims=[16]")
    for keys, message in (
        (("ctr=lightgbm",), "lightgbm cannot begin with another run's weights"),
        (("gate=optfs",), "gates are learnt from the beginning"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_train(clicks, tmp_path / "c", begin, *keys)
    with pytest.raises(ConfigError, match="ease cannot begin with another run's weights"):
        train(config.compose("train", ["cf=ease", "data=gowalla", begin]))


@pytest.mark.slow
def test_resumed_runs_keep_their_beginning(
    runs: dict[str, dict[str, Any]], folder: Path, clicks: Path, tmp_path: Path
) -> None:
    """The run it began with may be gone by then."""
    shutil.copytree(folder / "base", tmp_path / "base")
    keys = (f"init_from={tmp_path / 'base'}", "seed=1", "trainer.epochs=3")
    part = run_train(clicks, tmp_path / "part", *keys, "trainer.patience=0")
    (tmp_path / "part" / "result.json").unlink()
    shutil.rmtree(tmp_path / "base")
    again = run_train(clicks, tmp_path / "part", *keys, "trainer.patience=0", "trainer.resume=auto")
    assert again["initial_digest"] == part["initial_digest"]
    assert part["initial_digest"] == runs["one"]["initial_digest"]


def test_identity_of_older_runs_is_what_it_was() -> None:
    cfg = config.compose("train", ["ctr=fm"])
    begun = config.compose("train", ["ctr=fm", "init_from=x"])
    assert config.identity(begun) != config.identity(cfg)
    older = OmegaConf.create({k: v for k, v in config.plain(cfg).items() if k != "init_from"})
    assert config.identity(older) == config.identity(cfg)
