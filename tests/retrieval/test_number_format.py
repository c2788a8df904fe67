"""Numbers of a vector in fewer bytes: how much is lost."""

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.retrieval.number_format import DTYPES, check_dtype, restored, stored


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_lost_is_bounded(dtype: str) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    vectors[3] = 0.0
    vectors[4] *= 1e-6
    numbers, scale = stored(vectors, dtype)
    assert str(numbers.dtype) == dtype
    back = restored(numbers, scale)
    assert back.dtype == np.float32
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    bound = {"float32": 0.0, "float16": 2**-11, "int8": 0.5 / 127}[dtype]
    # Below the least normal float16 what is lost no longer shrinks with the number.
    floor = 2**-25 if dtype == "float16" else 1e-12
    assert (np.abs(back - vectors) <= bound * largest * (1 + 1e-4) + floor).all()
    np.testing.assert_array_equal(back[3], 0.0)


def test_what_does_not_fit_is_refused() -> None:
    large = np.array([[1.0, 7e4]], np.float32)
    with pytest.raises(ConfigError, match=r"up to 65,504, but one is 70000"):
        stored(large, "float16")
    assert restored(*stored(large, "int8"))[0, 1] == pytest.approx(7e4)
    with pytest.raises(ConfigError, match="Did you mean float16"):
        check_dtype("float61")


def test_no_rows() -> None:
    for dtype in DTYPES:
        assert stored(np.empty((0, 3), np.float32), dtype)[0].shape == (0, 3)
