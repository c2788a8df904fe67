"""Both kinds of models have what a server needs."""

import inspect

import pytest

from recsys.serving.listing import Listing
from recsys.serving.scoring import Scoring
from recsys.serving.served import Served


@pytest.mark.parametrize("kind", [Scoring, Listing])
def test_every_method_is_there(kind: type) -> None:
    wanted = [n for n, f in vars(Served).items() if inspect.isfunction(f) and n[0] != "_"]
    assert {"read", "answer", "example", "facts"} <= set(wanted)
    for name in wanted:
        ours, theirs = (inspect.signature(getattr(one, name)) for one in (kind, Served))
        assert list(ours.parameters) == list(theirs.parameters)
