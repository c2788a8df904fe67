"""The published pairs, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.datasets import gowalla
from recsys.errors import SchemaError


def test_the_real_files(shared: Callable[[str], Path]) -> None:
    data = gowalla.interactions(source=shared("gowalla"))
    assert data.test is not None
    assert (data.num_users, data.num_items) == (29_858, 40_981)
    assert (len(data.train), len(data.test)) == (810_128, 217_242)
    assert data.notes == ()
    assert data.train.user_degrees.min() >= 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text("0 1\n1 0\n")
    with pytest.raises(SchemaError, match="data=gowalla has 2 train pairs, published are"):
        gowalla.interactions(source=tmp_path)
