"""Ids as people give them."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from recsys.errors import SchemaError
from recsys.retrieval.external_ids import as_ids, positions_in, read_ids


def test_numbers_and_their_texts() -> None:
    assert as_ids(["7", "-2"], pa.int64(), "user").to_pylist() == [7, -2]
    assert as_ids(pa.array([7], pa.int32()), pa.string(), "user").to_pylist() == ["7"]
    big = 2**62 + 1  # not through floats
    assert as_ids([str(big)], pa.int64(), "user").to_pylist() == [big]
    for given, kind in ((["x"], pa.int64()), ([1.5], pa.int64()), ([1.0], pa.string())):
        with pytest.raises(SchemaError, match="ids of users are"):
            as_ids(given, kind, "user")  # type: ignore[arg-type]
    with pytest.raises(SchemaError, match="1 of the items have no id"):
        as_ids(pa.array([1, None]), pa.int64(), "item")


def test_positions() -> None:
    known = pa.array([30, 10, 20])
    assert positions_in(known, pa.array([10, 99, 30, 10])).tolist() == [1, -1, 0, 1]
    assert positions_in(known, pa.array([], pa.int64())).tolist() == []


def test_ids_of_a_table(tmp_path: Path) -> None:
    pl.DataFrame({"film": [3, 5], "x": [1, 2]}).write_parquet(tmp_path / "two.parquet")
    pl.DataFrame({"anything": [3, 5]}).write_csv(tmp_path / "one.csv")
    assert read_ids(tmp_path / "two.parquet", "film", pa.string(), "item").to_pylist() == ["3", "5"]
    assert read_ids(tmp_path / "one.csv", "film", pa.int64(), "item").to_pylist() == [3, 5]
    with pytest.raises(SchemaError, match=r'no column "films".*Did you mean film'):
        read_ids(tmp_path / "two.parquet", "films", pa.int64(), "item")
