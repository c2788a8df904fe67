"""CSV and TSV, plain and packed."""

import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from recsys.data.readers import Source
from recsys.errors import SchemaError

TEXT = "id,name,x\n1,a,0.5\n2,,\n10001868339616595934,c,1e3\n"


def table(source: Source) -> dict[str, list]:
    return source.head(1000).to_pydict()


def test_values_types_and_big_integers_survive(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TEXT)
    source = Source.open(tmp_path / "t.csv", types={"id": pa.uint64()})
    assert table(source) == {
        "id": [1, 2, 10001868339616595934],
        "name": ["a", None, "c"],
        "x": [0.5, None, 1000.0],
    }


def test_gz_tsv_without_a_header(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "t.tsv.gz", "wt") as handle:
        handle.write("1\t\tq\n0\t7\tr\n")
    source = Source.open(tmp_path / "t.tsv.gz", names=["label", "i", "c"])
    assert table(source) == {"label": [1, 0], "i": [None, 7], "c": ["q", "r"]}


def test_a_folder_of_csv_is_one_source(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("k,v\n1,x\n2,y\n")
    source = Source.open(tmp_path)
    assert table(source)["k"] == [1, 2, 1, 2]
    assert [Path(name).name for name, _ in source.files] == ["a.csv", "b.csv"]


def test_null_values_and_separator(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b\n1;?\n2;z\n")
    source = Source.open(tmp_path / "t.csv", separator=";", null_values=["?"])
    assert table(source) == {"a": [1, 2], "b": [None, "z"]}


def test_converted_once_in_a_given_folder(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TEXT)
    cache = tmp_path / "cache"
    types = {"id": pa.uint64()}
    Source.open(tmp_path / "t.csv", types=types, cache_dir=cache)
    (file,) = cache.iterdir()
    before = file.stat().st_mtime_ns
    Source.open(tmp_path / "t.csv", types=types, cache_dir=cache)
    assert [f.stat().st_mtime_ns for f in cache.iterdir()] == [before]
    Source.open(tmp_path / "t.csv", types={"id": pa.string()}, cache_dir=cache)
    assert len(list(cache.iterdir())) == 2


def test_repeated_header_empty_file_and_wrong_names(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,a\n1,2,3\n")
    with pytest.raises(SchemaError, match=r"t\.csv has these column names twice: a"):
        Source.open(path)
    path.write_text("")
    with pytest.raises(SchemaError, match=r"t\.csv is empty"):
        Source.open(path)
    path.write_text("a,b\n")
    with pytest.raises(SchemaError, match="no rows"):
        Source.open(path)
    path.write_text("1,2,3\n")
    with pytest.raises(SchemaError, match="has 3 columns, but 2 names were given"):
        Source.open(path, names=["a", "b"])
    with pytest.raises(SchemaError, match='no column "lable"'):
        Source.open(path, names=["label", "b", "c"], types={"lable": pa.int8()})


def test_a_value_that_does_not_parse_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\nx\n")
    cache = tmp_path / "cache"
    with pytest.raises(SchemaError, match=r"t\.csv cannot be read as CSV.*"):
        Source.open(tmp_path / "t.csv", types={"a": pa.int64()}, cache_dir=cache)
    assert list(cache.iterdir()) == []


def test_a_broken_gz_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wt") as handle:
        handle.write("a,b\n" + "1,2\n" * 50_000)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(SchemaError, match=r"t\.csv\.gz cannot be read"):
        Source.open(path)


def test_types_that_differ_between_csv_files_name_both(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("v\n1\n")
    (tmp_path / "b.csv").write_text("v\n1.5\n")
    with pytest.raises(SchemaError, match=r'"v" is int64 in .*a\.csv but double in .*b\.csv'):
        Source.open(tmp_path)
    both = Source.open(tmp_path, types={"v": pa.float64()})
    assert table(both) == {"v": [1.0, 1.5]}


def test_equals_polars_on_a_larger_file(tmp_path: Path) -> None:
    frame = pl.DataFrame({"a": range(30_000), "b": [f"s{i % 97}" for i in range(30_000)]})
    frame.write_csv(tmp_path / "t.csv")
    assert pl.from_arrow(Source.open(tmp_path / "t.csv").head(30_000)).equals(frame)
