"""Limits are numbers above 0."""

from dataclasses import fields

import pytest
import yaml

from recsys.errors import ConfigError
from recsys.serving.limits import Limits
from tests.contract import ROOT


@pytest.mark.parametrize("name", [one.name for one in fields(Limits)])
def test_zero_is_no_limit(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}=0"):
        Limits(**{name: 0})


def test_the_configuration_has_the_same_defaults() -> None:
    node = yaml.safe_load((ROOT / "configs/serve.yaml").read_text())["limits"]
    assert Limits(**node) == Limits()
    assert list(node) == [one.name for one in fields(Limits)]
