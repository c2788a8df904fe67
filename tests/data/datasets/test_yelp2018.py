"""The published pairs, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.datasets import yelp2018
from recsys.errors import SchemaError


def test_the_real_files(shared: Callable[[str], Path]) -> None:
    data = yelp2018.interactions(source=shared("yelp2018"))
    assert data.test is not None
    assert (data.num_users, data.num_items) == (31_668, 38_048)
    assert (len(data.train), len(data.test)) == (1_237_259, 324_147)
    assert data.notes == ()
    assert data.train.user_degrees.min() >= 1


def test_other_files_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / f"{part}.txt").write_text("0 1\n1 0\n")
    with pytest.raises(SchemaError, match="data=yelp2018 has 2 train pairs, published are"):
        yelp2018.interactions(source=tmp_path)
