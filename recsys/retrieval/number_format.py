"""How the numbers of a vector are stored: exactly, in half the bytes, or in a quarter of them.

    float32   as they are
    float16   11 significant bits; numbers up to 65,504
    int8      whole numbers from -127 to 127, times a scale for each row: its largest number / 127

Letters   n rows, D width.
"""

from __future__ import annotations

import numpy as np

from recsys.errors import ConfigError, did_you_mean

DTYPES = ("float32", "float16", "int8")
_INT8_MOST = 127


def check_dtype(dtype: str) -> None:
    """Raise ConfigError for a format that does not exist."""
    if dtype not in DTYPES:
        raise ConfigError(f'dtype="{dtype}" does not exist.{did_you_mean(dtype, DTYPES)}')


def stored(vectors: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Numbers as they are stored, and the scale of each row where there is one.

    Shape:
        vectors  [n, D]  float32, finite
        return   [n, D]  of the type, and [n] float32 or None

    Raises:
        ConfigError: a number is too large for the type.

    Example:
        >>> numbers, scale = stored(np.array([[25.0, -63.5]], np.float32), "int8")
        >>> numbers.tolist(), scale.tolist()
        ([[50, -127]], [0.5])
    """
    if dtype == "int8":
        scale = (np.abs(vectors).max(axis=1, initial=0.0) / _INT8_MOST).astype(np.float32)
        numbers = vectors / np.where(scale > 0, scale, 1.0)[:, None]
        return np.clip(np.rint(numbers), -_INT8_MOST, _INT8_MOST).astype(np.int8), scale
    if dtype == "float16":
        largest = float(np.abs(vectors).max(initial=0.0))
        if largest > float(np.finfo(np.float16).max):
            raise ConfigError(
                f"dtype=float16 holds numbers up to 65,504, but one is {largest:g}. Use "
                "dtype=float32 or dtype=int8."
            )
        return vectors.astype(np.float16), None
    check_dtype(dtype)
    return np.ascontiguousarray(vectors, np.float32), None


def restored(numbers: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    """The vectors [n, D] float32 that `stored` was given, as near as the format allows.

    Example:
        >>> restored(np.array([[50, -127]], np.int8), np.array([0.5], np.float32)).tolist()
        [[25.0, -63.5]]
    """
    vectors = numbers.astype(np.float32, copy=False)
    return vectors if scale is None else vectors * scale[:, None]
