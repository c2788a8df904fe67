"""Modules whose buffers are computed from data, with sizes that only the data tell."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError


class Fitted(nn.Module):
    """Buffers of unknown size: empty until they are computed or loaded.

    `load_state_dict` gives them the sizes of what it loads, where those agree with what is known.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._shapes: dict[str, tuple[int | None, ...]] = {}

    def register_fitted(
        self, name: str, shape: tuple[int | None, ...], dtype: torch.dtype = torch.float32
    ) -> None:
        """Declare a buffer, with None for each size that only the data tell."""
        self._shapes[name] = shape
        self.register_buffer(name, torch.empty([0] * len(shape), dtype=dtype))

    def set_fitted(self, name: str, value: Tensor) -> None:
        """Give a declared buffer what was computed for it."""
        old = self.get_buffer(name)
        assert self._fits(name, value.shape), (name, tuple(value.shape), self._shapes[name])
        setattr(self, name, value.to(old).contiguous())

    def check_fitted(self) -> None:
        """Raise ConfigError where nothing was computed yet, nor loaded."""
        for name in self._shapes:
            if not self._fits(name, self.get_buffer(name).shape):
                raise ConfigError(
                    f"{type(self).__name__} knows nothing yet: call fit(train), or load a state."
                )

    def _fits(self, name: str, shape: torch.Size) -> bool:
        known = self._shapes[name]
        return len(known) == len(shape) and all(
            expected in (None, found) for expected, found in zip(known, shape, strict=True)
        )

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in self._shapes:
            loaded = state_dict.get(prefix + name)
            if loaded is not None and self._fits(name, loaded.shape):
                setattr(self, name, self.get_buffer(name).new_empty(loaded.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
