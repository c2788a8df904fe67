"""Options of a search: bounds and choices."""

import pytest

from recsys import config
from recsys.errors import ConfigError
from recsys.tuning.options import SearchOptions


def test_the_configured_defaults_are_those_of_the_class() -> None:
    node = config.plain(config.compose("tune", ["ctr=fm"]).search)
    assert SearchOptions(**{**node, "space": {}}) == SearchOptions()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trials", 0, "1 or more, or null"),
        ("minutes", 0.0, "above 0"),
        ("sampler", "tpo", "Did you mean tpe?"),
        ("pruner", "asha", "hyperband"),
        ("final_seeds", 1, "2 or more"),
        ("heartbeat", 0, "1 or more"),
        ("trials", None, "no end"),
    ],
)
def test_wrong_values(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        SearchOptions(**{key: value})
    assert message in str(error.value)
