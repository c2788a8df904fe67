"""Trainer options: defaults equal the YAML's, values out of range are refused."""

import dataclasses

import pytest

from recsys import config
from recsys.errors import ConfigError
from recsys.training.options import TrainerOptions


def test_defaults_are_those_of_the_yaml() -> None:
    node = config.plain(config.compose("train", []).trainer)
    assert node == dataclasses.asdict(TrainerOptions())


@pytest.mark.parametrize(
    ("key", "value"), [("epochs", 0), ("batch_size", -1), ("eval_every", 0), ("block_rows", 0)]
)
def test_sizes_must_be_positive(key: str, value: int) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.{key}={value}"):
        TrainerOptions(**{key: value})


def test_precision_and_monitor_are_choices() -> None:
    with pytest.raises(ConfigError, match="float16"):
        TrainerOptions(precision="float16")
    with pytest.raises(ConfigError, match="Did you mean logloss"):
        TrainerOptions(monitor="log_loss").plateau()
