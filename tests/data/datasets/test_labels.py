"""Which labels a run learns: the first, those that were asked for, or an error."""

from __future__ import annotations

import pytest

from recsys.data.datasets.labels import choose_labels
from recsys.errors import ConfigError

EVERY = {"click": "is_click", "like": "is_like", "follow": "is_follow"}


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (None, ("click",)),
        (["like"], ("like",)),
        (["follow", "click"], ("follow", "click")),  # in the order that was asked for
        ("like", ("like",)),  # data.labels=like, without brackets
    ],
)
def test_choices(names: list[str] | str | None, chosen: tuple[str, ...]) -> None:
    assert choose_labels("videos", names, EVERY) == chosen


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["lik"], r"data\.labels has lik, which is not a label of videos\. Did you mean like"),
        ([None], r"data\.labels has None"),
        ([], r"data\.labels=\[\]; give one or more of click, like, follow, each once"),
        (["like", "like"], "each once"),
    ],
)
def test_others_are_refused(names: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        choose_labels("videos", names, EVERY)


def test_another_option_is_called_by_its_name() -> None:
    with pytest.raises(ConfigError, match=r"data\.behaviours has lik"):
        choose_labels("videos", ["lik"], EVERY, "behaviours")
