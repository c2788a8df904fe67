"""Experiment files: read from any place, and written so that they make the very configuration."""

from pathlib import Path

import pytest

from recsys import config
from recsys.errors import ConfigError
from recsys.experiment_file import as_experiment, literal, read_experiment, write_experiment


def wanted(values: dict) -> dict:
    return {k: v for k, v in values.items() if k not in config.NOT_IDENTITY}


@pytest.mark.parametrize(
    "overrides",
    [
        ["ctr=autoint", "ctr.hidden_dims=[400,400]", "optimizer.lr=0.00123456789", "seed=7"],
        ["ctr=dcnv2", "data=amazon_toys", "data.source=folder/a b", "embedding=multiplexed"],
        ["ctr=fm", "data=parquet", "data.path=[a.parquet,b.parquet]", "data.label=clicked",
         "data.fields.price.encoding=quantile", "gate=optfs",
         "data.null_values=['',NA,'a\\'b\"c']"],
        ["mtl=mmoe", "data=synthetic_tasks", "optimizer=lazy_adam", "tasks.weights.first=2"],
        ["ctr=lightgbm", "trainer=overfit", "data.features=[user,item]"],
        ["experiment=frappe_autoint", "ctr.num_heads=2"],
        ["ctr=lr", "optimizer.name=lazy_adam", "trainer.clip_norm=null"],
    ],
)  # fmt: skip
def test_what_is_written_composes_to_the_same(tmp_path: Path, overrides: list[str]) -> None:
    cfg = config.compose("train", overrides)
    path = tmp_path / "best.yaml"
    write_experiment(path, *as_experiment(config.plain(cfg)), ["found by a test", "of many"])
    again = config.compose("train", [f"experiment={path}"])
    assert wanted(config.plain(again)) == wanted(config.plain(cfg))
    assert config.identity(again) == config.identity(cfg)
    assert path.read_text().startswith("# @package _global_\n# found by a test\n# of many\n")


def test_a_copy_among_the_experiments_is_chosen_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    cfg = config.compose("train", ["ctr=fm", "optimizer.lr=0.5"])
    configs = tmp_path / "configs"
    shutil.copytree(config.CONFIGS, configs)
    write_experiment(configs / "experiment" / "mine.yaml", *as_experiment(config.plain(cfg)), [])
    monkeypatch.setattr(config, "CONFIGS", configs)
    again = config.compose("train", ["experiment=mine"])
    assert wanted(config.plain(again)) == wanted(config.plain(cfg))


def test_what_is_said_beside_it_wins(tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("defaults:\n  - override /ctr: fm\n  - _self_\noptimizer: {lr: 0.5}\nseed: 3\n")
    cfg = config.compose("train", ["ctr=lr", f"experiment={path}", "seed=4"])
    assert config.chosen_model(cfg) == ("ctr", "lr")
    assert (cfg.optimizer.lr, cfg.seed) == (0.5, 4)
    assert config.compose("tune", [f"experiment={path}"]).optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("just text", "is no experiment"),
        ("a: [", "cannot be read"),
        ("defaults: [ctr]\n", "write `- override /ctr: autoint`"),
        ("defaults: [{override /ctr: fmm}]\n", "Did you mean fm"),
        ("defaults: [{override /ctr: fm}]\noptimizer: {lrr: 1}\n", "Did you mean optimizer.lr"),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        config.compose("train", [f"experiment={path}"])
    assert message in str(error.value)


def test_a_missing_file_is_told() -> None:
    with pytest.raises(ConfigError, match=r"experiment=nowhere/best\.yaml cannot be read"):
        read_experiment(Path("nowhere/best.yaml"))


def test_what_no_choice_has_is_refused() -> None:
    values = config.plain(config.compose("train", ["ctr=fm"]))
    values["optimizer"]["extra"] = 1
    with pytest.raises(ConfigError, match="no choice of optimizer has the keys"):
        as_experiment(values)


def test_literals_are_read_as_they_were() -> None:
    for value in (None, True, 3, 1e-5, "a, b", 'say "x"', "it's", [1, "a b", []], {"k": [1.5]}, ""):
        cfg = config.compose("train", ["ctr=fm", f"tracking.tags={{v:{literal(value)}}}"])
        assert config.plain(cfg.tracking.tags)["v"] == value
