"""Files by columns and in pieces: row groups, dictionaries, damage."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.readers import Source
from recsys.errors import SchemaError

FRAME = pl.DataFrame({"id": [3, 1, None], "name": ["a", None, "c"]})


def write(frame: pl.DataFrame, path: Path, row_group: int = 3) -> Path:
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=row_group)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return path


def test_a_long_row_group_is_read_in_pieces(tmp_path: Path) -> None:
    frame = pl.DataFrame({"s": [f"v{i % 50}" for i in range(5000)], "i": range(5000)})
    source = Source.open(write(frame, tmp_path / "t.parquet", row_group=5000))
    chunks = list(source.chunks(rows_per_chunk=700))
    assert max(chunk.num_rows for chunk in chunks) <= 700
    assert [c.start for c in chunks] == list(np.cumsum([0, *(c.num_rows for c in chunks)]))[:-1]
    found = [v for c in chunks for v in c.column("s").to_pylist()]
    assert found == frame["s"].to_list()


def test_short_row_groups_are_read_together(tmp_path: Path) -> None:
    frame = pl.DataFrame({"s": [f"v{i}" for i in range(1000)]})
    source = Source.open(write(frame, tmp_path / "t.parquet", row_group=10))
    chunks = list(source.chunks(rows_per_chunk=500))
    assert [c.num_rows for c in chunks] == [500, 500]
    assert [v for c in chunks for v in c.column("s").to_pylist()] == frame["s"].to_list()


def test_long_dictionaries_are_read_as_texts(tmp_path: Path) -> None:
    frame = pl.DataFrame({"few": ["a", "b"] * 5000, "many": [f"{i:012d}" for i in range(10_000)]})
    source = Source.open(write(frame, tmp_path / "t.parquet", row_group=10_000))
    chunk = next(source.chunks())
    assert pa.types.is_dictionary(chunk.column("few").type)
    assert not pa.types.is_dictionary(chunk.column("many").type)


@pytest.mark.parametrize("keep", [0, 4, 200])
@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_truncated_file_is_named(tmp_path: Path, ending: str, keep: int) -> None:
    path = write(FRAME, tmp_path / f"t.{ending}")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SchemaError, match=rf"t\.{ending} cannot be read as"):
        Source.open(path)


def test_a_file_damaged_inside_is_named_when_read(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    frame = pl.DataFrame({"x": np.random.default_rng(0).normal(size=5000)})
    pq.write_table(frame.to_arrow(), path, compression="zstd", use_dictionary=False)
    data = bytearray(path.read_bytes())
    data[100:20_000] = bytes(19_900)
    path.write_bytes(bytes(data))
    with pytest.raises(SchemaError, match=r"t\.parquet is corrupted"):
        list(Source.open(path).batches())


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    path = write(FRAME, tmp_path / "t.parquet")
    source = Source.open(path)
    path.unlink()
    with pytest.raises(SchemaError, match=r"t\.parquet is gone, or not on this machine"):
        list(source.batches())


@pytest.mark.parametrize("ending", ["parquet", "arrow", "frame"])
def test_reads_cover_the_rows_and_give_the_chunks_of_the_whole(tmp_path: Path, ending: str) -> None:
    frame = pl.DataFrame({"i": range(1000)})
    source = Source.from_frame(frame)
    if ending != "frame":
        source = Source.open(write(frame, tmp_path / f"t.{ending}", row_group=70))
    whole = [(chunk.start, chunk.first_row, chunk.num_rows) for chunk in source.chunks(None, 150)]
    spans = source.spans(300, 150)
    assert [span.start for span in spans] == list(np.cumsum([0, *(s.num_rows for s in spans)]))[:-1]
    parts = [chunk for span in spans for chunk in source.chunks(None, 9, span)]
    assert [(chunk.start, chunk.first_row, chunk.num_rows) for chunk in parts] == whole
    values = [value for chunk in parts for value in chunk.column("i").to_pylist()]
    assert values == list(range(1000))
