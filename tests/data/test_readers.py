"""Sources: every format gives the same rows; bad files are named."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from recsys.data.formats import plain_type
from recsys.data.readers import Source
from recsys.errors import SchemaError

FRAME = pl.DataFrame(
    {
        "id": [3, 1, None, 4, 1, 5, 9],
        "name": ["a", None, "c", "a", "e", "", "g"],
        "x": [0.5, None, 1.5, 2.0, -1.0, 0.0, 3.0],
        "tags": [["p", "q"], [], None, ["r"], ["p"], ["q"], ["s", None]],
    }
)


def write(frame: pl.DataFrame, path: Path, row_group: int = 3) -> Path:
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=row_group)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(table, path, chunksize=row_group, compression="lz4")
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=row_group)
    return path


def rows(source: Source, rows_per_batch: int = 2) -> list[dict]:
    out = []
    for batch in source.batches(rows_per_batch=rows_per_batch):
        assert batch.start == len(out)
        out += batch.table.to_pylist()
    return out


@pytest.mark.parametrize("ending", ["parquet", "feather", "arrow", "frame"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_every_format_gives_the_same_rows(tmp_path: Path, ending: str, size: int) -> None:
    if ending == "frame":
        source = Source.from_frame(FRAME)
    else:
        source = Source.open(write(FRAME, tmp_path / f"t.{ending}"))
    assert source.num_rows == 7
    assert [str(kind) for kind in source.columns.values()] == [
        "int64", "string", "double", "list<item: string>",
    ]  # fmt: skip
    assert rows(source, size) == FRAME.to_dicts()


def test_columns_are_chosen_and_a_wrong_name_gets_a_suggestion(tmp_path: Path) -> None:
    source = Source.open(write(FRAME, tmp_path / "t.parquet"))
    batch = next(source.batches(["x", "id"], 100))
    assert batch.table.column_names == ["x", "id"]
    with pytest.raises(SchemaError, match=r't\.parquet has no column "nme"\. Did you mean name\?'):
        list(source.batches(["nme"]))


def test_folder_glob_and_list_are_read_in_name_order(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(FRAME.with_columns(name=pl.lit(name)), tmp_path / f"{name}.parquet")
    (tmp_path / "_SUCCESS").write_text("")
    (tmp_path / ".hidden.parquet").write_text("")
    for path in (tmp_path, str(tmp_path / "*.parquet")):
        source = Source.open(path)
        assert [r["name"] for r in rows(source)] == ["a"] * 7 + ["b"] * 7 + ["c"] * 7
    source = Source.open([tmp_path / "c.parquet", tmp_path / "a.parquet"])
    assert source.files == (
        (str(tmp_path / "c.parquet"), 7),
        (str(tmp_path / "a.parquet"), 7),
    )
    batches = list(source.batches(rows_per_batch=100))
    assert [(Path(b.file).stem, b.first_row, b.start) for b in batches] == [
        ("c", 0, 0),
        ("a", 0, 7),
    ]


def test_different_types_in_one_folder_name_file_column_and_both_types(tmp_path: Path) -> None:
    write(FRAME, tmp_path / "a.parquet")
    write(FRAME.with_columns(pl.col("id").cast(pl.String)), tmp_path / "b.parquet")
    with pytest.raises(SchemaError, match=r'"id" is int64 in .*a\.parquet but string in .*b\.parq'):
        Source.open(tmp_path)


def test_a_column_absent_from_one_file_is_named(tmp_path: Path) -> None:
    write(FRAME, tmp_path / "a.parquet")
    write(FRAME.drop("x"), tmp_path / "b.parquet")
    with pytest.raises(SchemaError, match=r'"x" is double in .*a\.parquet but absent in .*b\.parq'):
        Source.open(tmp_path)


def test_layout_of_texts_does_not_matter(tmp_path: Path) -> None:
    write(FRAME, tmp_path / "a.parquet")
    write(FRAME.with_columns(pl.col("name").cast(pl.Categorical)), tmp_path / "b.parquet")
    assert rows(Source.open(tmp_path)) == FRAME.to_dicts() * 2
    assert plain_type(pa.dictionary(pa.int8(), pa.large_string())) == pa.string()
    assert plain_type(pa.large_list(pa.string_view())) == pa.list_(pa.string())


def test_a_file_of_another_format_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SchemaError, match="of another format"):
        Source.open(path)
    path = tmp_path / "t.xlsx"
    path.write_text("")
    with pytest.raises(SchemaError, match=r"allowed endings: \.parquet"):
        Source.open(path)


def test_no_file_no_rows_and_repeated_names(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no data file at"):
        Source.open(tmp_path / "absent.parquet")
    with pytest.raises(SchemaError, match="no data file at"):
        Source.open(tmp_path)
    with pytest.raises(SchemaError, match=r"e\.parquet has no rows"):
        Source.open(write(FRAME.clear(), tmp_path / "e.parquet"))
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(SchemaError, match=r"d\.parquet has these column names twice: a"):
        Source.open(tmp_path / "d.parquet")


def test_an_empty_file_beside_a_full_one_is_fine(tmp_path: Path) -> None:
    write(FRAME.clear(), tmp_path / "a.parquet")
    write(FRAME, tmp_path / "b.parquet")
    assert rows(Source.open(tmp_path)) == FRAME.to_dicts()


def test_digest_follows_content(tmp_path: Path) -> None:
    path = write(FRAME, tmp_path / "t.parquet")
    first = Source.open(path).digest()
    assert Source.open(path).digest() == first
    write(FRAME.head(5), path)
    assert Source.open(path).digest() != first
    frame = Source.from_frame(FRAME).digest()
    assert Source.from_frame(FRAME.clone()).digest() == frame
    assert Source.from_frame(FRAME.with_columns(pl.col("x") + 1)).digest() != frame


def test_head_crosses_files(tmp_path: Path) -> None:
    for name in "ab":
        write(FRAME, tmp_path / f"{name}.parquet")
    assert Source.open(tmp_path).head(9, ["id"]).num_rows == 9
    assert Source.open(tmp_path).head(99).num_rows == 14
