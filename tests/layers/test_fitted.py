"""Buffers whose sizes come with the data."""

from __future__ import annotations

import pytest
import torch

from recsys.errors import ConfigError
from recsys.layers.fitted import Fitted


class Known(Fitted):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_fitted("rows", (None, width))
        self.register_fitted("total", (width,), torch.float64)


def computed(rows: int, width: int) -> Known:
    made = Known(width)
    made.set_fitted("rows", torch.rand(rows, width))
    made.set_fitted("total", torch.rand(width))
    return made


@pytest.mark.parametrize("before", [0, 3])
def test_loading_takes_over_sizes(before: int) -> None:
    made = computed(5, 4)
    loaded = computed(before, 4) if before else Known(4)
    loaded.load_state_dict(made.state_dict())
    assert torch.equal(loaded.rows, made.rows)
    assert loaded.total.dtype == torch.float64
    loaded.check_fitted()


def test_known_sizes_must_agree() -> None:
    with pytest.raises(RuntimeError, match="size mismatch for rows"):
        Known(3).load_state_dict(computed(5, 4).state_dict())


def test_nothing_is_known_at_first() -> None:
    with pytest.raises(ConfigError, match="Known knows nothing yet"):
        Known(4).check_fitted()
