"""The published pairs, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.datasets import lastfm
from recsys.errors import SchemaError


def test_the_real_files(shared: Callable[[str], Path]) -> None:
    data = lastfm.interactions(source=shared("lastfm-lightgcn"))
    assert data.test is not None
    assert len(data.train) == 42_135
    assert data.num_items == 4_489
    # Pairs of people without a training pair are not tested.
    assert len(data.test) + sum("test" in note for note in data.notes) > 10_000


def test_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data1.txt").write_text("1\t10\t99\n2\t11\t5\n")
    (tmp_path / "test1.txt").write_text("1\t11\t3\n")
    with pytest.raises(SchemaError, match=r"2 pairs in data1\.txt, published are 42,135"):
        lastfm.interactions(source=tmp_path)
    monkeypatch.setattr(lastfm, "PUBLISHED", {"data1.txt": 2, "test1.txt": 1})
    data = lastfm.interactions(source=tmp_path)
    assert data.counts() == "2 users, 2 items, 2 train pairs, 1 test pairs"
    assert data.user_ids.to_pylist() == [1, 2]
    (tmp_path / "data1.txt").write_text("one\tten\t99\n")
    with pytest.raises(SchemaError, match=r"is not the data1\.txt of Last\.FM"):
        lastfm.interactions(source=tmp_path)
