"""Suggestions in error messages."""

import pytest

from recsys.errors import CheckpointError, ConfigError, NonFiniteError, SchemaError, did_you_mean


@pytest.mark.parametrize(
    ("name", "allowed", "expected"),
    [
        ("num_head", ["num_heads", "dropout"], " Did you mean num_heads?"),
        ("zzz", ["b", "a", "a"], " Allowed: a, b."),
        ("x", [], ""),
    ],
)
def test_the_nearest_or_the_list(name: str, allowed: list[str], expected: str) -> None:
    assert did_you_mean(name, allowed) == expected


def test_each_error_can_be_caught_as_what_it_is() -> None:
    assert issubclass(SchemaError, ValueError)
    assert issubclass(ConfigError, ValueError)
    assert issubclass(CheckpointError, RuntimeError)
    assert issubclass(NonFiniteError, FloatingPointError)
