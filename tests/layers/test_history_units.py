"""Which histories become units, and what is said where there are none."""

from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded, History
from recsys.errors import ConfigError, SchemaError
from recsys.layers.history_units import HistoryUnits


def embedded(offsets: dict[str, list[int]], dim: int = 2) -> Embedded:
    out = Embedded.random(batch=2, fields=1, dim=dim)
    for index, (name, one) in enumerate(offsets.items()):
        values = torch.arange(one[-1] * dim).view(-1, dim) + 100.0 * index
        out.history[name] = History(values, torch.tensor(one), 3)
        out.target[name] = torch.full((2, dim), float(index))
    return out


def units(joint: bool, **histories: int) -> HistoryUnits:
    return HistoryUnits("DIN", 2, ("a",), histories, joint)


def test_one_unit_per_history() -> None:
    made = units(False, items=2, kinds=2)
    assert made.widths == {"items": 2, "kinds": 2}
    batch = embedded({"items": [0, 1, 3], "kinds": [0, 0, 2]})
    found = made.of(batch)
    assert all(h is batch.history[n] for n, (h, _) in zip(made.widths, found, strict=True))
    assert found[1][1] is batch.target["kinds"]


def test_joint_puts_events_side_by_side() -> None:
    made = units(True, items=2, kinds=2)
    assert made.widths == {"items": 4}
    ((history, target),) = made.of(embedded({"items": [0, 1, 3], "kinds": [0, 1, 3]}))
    assert history.values.tolist() == [
        [0, 1, 100, 101], [2, 3, 102, 103], [4, 5, 104, 105],
    ]  # fmt: skip
    assert history.offsets.tolist() == [0, 1, 3]
    assert target.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]


def test_histories_that_are_not_aligned_cannot_be_joint() -> None:
    with pytest.raises(SchemaError, match=r'"kinds" and "items" differ.*joint=false'):
        units(True, items=2, kinds=2).of(embedded({"items": [0, 1, 3], "kinds": [0, 2, 3]}))


def test_no_history_says_how_to_get_one() -> None:
    with pytest.raises(ConfigError, match=r"(?s)DIN reads histories.*kind=history.*data\.history"):
        HistoryUnits("DIN", 2, ("a",), {}, False)


def test_unread_data_is_supposed_to_have_one() -> None:
    assert HistoryUnits("DIN", 2, None, {}, True).widths == {"history": 2}


def test_a_batch_without_the_history_is_named() -> None:
    with pytest.raises(ValueError, match='no history "kinds"'):
        units(False, items=2, kinds=2).of(embedded({"items": [0, 1, 3]}))
