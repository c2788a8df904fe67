"""The published pairs, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.datasets import amazon_electronics
from recsys.errors import SchemaError


def test_the_real_files(shared: Callable[[str], Path]) -> None:
    data = amazon_electronics.interactions(source=shared("amazon-electronics-ultragcn"))
    assert data.test is not None
    assert (data.num_users, data.num_items) == (1_435, 1_522)
    assert (len(data.train), len(data.test)) == (31_887, 4_044)
    assert data.notes == ()
    assert data.train.user_degrees.min() >= 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text("0 1\n1 0\n")
    with pytest.raises(SchemaError, match="has 2 train pairs, published are"):
        amazon_electronics.interactions(source=tmp_path)
