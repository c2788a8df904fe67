"""Files by address: a stand-in for S3, fsspec's memory, and what is said when nothing answers."""

import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from recsys.data.readers import Source
from recsys.data.remote import Place, expand, is_address
from recsys.errors import ConfigError, SchemaError
from tests.data.object_store import ObjectStore, object_store

FRAME = pl.DataFrame({"id": [3, 1, None, 7], "name": ["a", None, "c", "d"]})


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with object_store() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield server


def put(address: str, frame: pl.DataFrame, tmp_path: Path) -> None:
    frame.write_parquet(tmp_path / "t.parquet")
    Place.of(address).write((tmp_path / "t.parquet").read_bytes())


def test_parquet_is_read_where_it_is(bucket: ObjectStore, tmp_path: Path) -> None:
    for number in range(3):
        put(f"s3://b/log/day={number}/p.parquet", FRAME.with_columns(day=number), tmp_path)
    put("s3://b/log/_hidden.parquet", FRAME, tmp_path)
    Place.of("s3://b/log/notes.txt").write(b"no table")
    source = Source.open("s3://b/log")
    assert [name for name, _ in source.files] == [
        f"s3://b/log/day={number}/p.parquet" for number in range(3)
    ]
    again = pickle.loads(pickle.dumps(source))  # as it travels to workers
    for one in (source, again):
        assert [row["day"] for row in one.head(99).to_pylist()] == [0] * 4 + [1] * 4 + [2] * 4
        assert one.head(99)["name"].to_pylist() == FRAME["name"].to_list() * 3
    assert source.digest() == Source.open("s3://b/log").digest()
    assert Source.open("s3://b/log/day=*/p.parquet").num_rows == 12
    assert Source.open(["s3://b/log/day=1/p.parquet"]).num_rows == 4
    put("s3://b/log/day=1/p.parquet", FRAME.head(3).with_columns(day=1), tmp_path)
    assert source.digest() != Source.open("s3://b/log").digest()


def test_the_file_systems_of_fsspec_and_local_addresses(tmp_path: Path) -> None:
    for folder in ("memory://shelf/log", f"file://{tmp_path}/log"):
        put(f"{folder}/a.parquet", FRAME, tmp_path)
        put(f"{folder}/b.parquet", FRAME, tmp_path)
        source = Source.open(folder)
        assert source.num_rows == 8
        assert source.files[1][0] == f"{folder}/b.parquet"


def test_what_is_not_there_is_said(bucket: ObjectStore, tmp_path: Path) -> None:
    put("s3://b/log/a.parquet", FRAME, tmp_path)
    with pytest.raises(SchemaError, match=r"no data file at s3://b/lag; .*Check data\.path"):
        Source.open("s3://b/lag")
    with pytest.raises(SchemaError, match=r"no data file at s3://b/log/\*\.pq"):
        Source.open("s3://b/log/*.pq")
    Place.of("s3://b/log/a.parquet").write(b"PAR1 but not really")
    with pytest.raises(SchemaError, match=r"s3://b/log/a\.parquet cannot be read as Parquet"):
        Source.open("s3://b/log")
    put("s3://b/log/a.csv", FRAME, tmp_path)
    with pytest.raises(SchemaError, match=r"s3://b/log/a\.csv is of a format"):
        Source.open("s3://b/log/a.csv")
    with pytest.raises(ConfigError, match=r"begins with shelf://.*Allowed: s3, "):
        Source.open("shelf://b/log")


def test_nothing_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    start = time.monotonic()
    with pytest.raises(SchemaError, match=r"s3://b/log cannot be reached") as error:
        Source.open("s3://b/log")
    assert time.monotonic() - start < 60
    assert "hush" not in str(error.value)


def test_credentials_in_an_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match=r"s3://\.\.\.@b/log holds credentials") as error:
        Place.of("s3://key:hush-hush@b/log")
    assert "hush" not in str(error.value)


def test_places(tmp_path: Path) -> None:
    assert not is_address(tmp_path)
    place = Place.of("memory://room/") / "a" / "b.txt"
    assert (place.address, place.name) == ("memory://room/a/b.txt", "b.txt")
    place.write(b"text")
    assert place.read() == b"text"
    assert [one.address for one in expand("memory://room", (".txt",))] == [place.address]
