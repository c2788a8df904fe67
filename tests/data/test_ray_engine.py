"""Preparation by two workers of a local Ray: the bytes of the local engine, whatever dies."""

import dataclasses
import os
import signal
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data import ray_engine
from recsys.data.infer import infer_schema
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.raw import RawDataset
from recsys.data.readers import Chunk, Source
from recsys.data.split import LeaveLastOut, RandomSplit, TimeSplit
from recsys.errors import ConfigError, SchemaError, WorkerError
from tests.data.test_prepare import FRAME, OPTIONS, contents, raw

ON_RAY = dataclasses.replace(OPTIONS, engine="ray", ray_address="local")


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many spans out of few rows."""
    monkeypatch.setattr("recsys.data.fit.CHUNK_ROWS", 250)


def write(folder: Path, frame: pl.DataFrame = FRAME, files: int = 3) -> Source:
    folder.mkdir(exist_ok=True)
    for number, part in enumerate(frame.iter_slices(-(-len(frame) // files))):
        # A row group that is short, several that are read together, one that is cut in pieces.
        part.write_parquet(
            folder / f"part-{number}.parquet", row_group_size=(100, 300, 900)[number]
        )
    return Source.open(folder)


@pytest.mark.parametrize(
    "split", [RandomSplit((0.6, 0.3, 0.1), 3), TimeSplit("ts"), LeaveLastOut("user", "ts")]
)
def test_the_bytes_are_those_of_the_local_engine(
    two_workers: object, small_chunks: None, tmp_path: Path, split: object
) -> None:
    data = raw(write(tmp_path / "raw"), split=split)
    assert len(data.files["all"].spans(375, 250)) > 5
    local = prepare(data, OPTIONS, tmp_path / "local")
    told: list[tuple[int, int, str]] = []
    other = prepare(data, ON_RAY, tmp_path / "ray", lambda *one: told.append(one))
    assert contents(other.folder) == contents(local.folder)
    assert other.folder.name == local.folder.name
    for stage in ("read", "write"):
        done = [one[0] for one in told if one[2] == stage]
        assert done == sorted(done)
        assert (done[0], done[-1]) == (0, len(FRAME))
        assert len(done) > 5


def test_given_files_and_a_schema_of_every_kind(
    two_workers: object, small_chunks: None, tmp_path: Path
) -> None:
    """Files for each split, a hashed and a dynamic column, two labels with gaps."""
    frame = FRAME.with_columns(
        buy=pl.when(pl.col("click") == 1).then(pl.col("ts") % 2),
        shop=pl.col("user") % 70,
        heavy=pl.col("age") + 1,
    )
    files = {name: write(tmp_path / name, frame[at : at + 1000])
             for name, at in (("train", 0), ("val", 1000), ("test", 2000))}  # fmt: skip
    schema = infer_schema(files["train"], ["click", "buy"], weight="heavy", timestamp="ts")
    data = RawDataset("three", files, schema)
    kinds = {"age": {"encoding": "quantile"}, "user": {"encoding": "hash", "hash_size": 50}}
    kinds["shop"] = {"encoding": "dynamic"}
    keys = {"fields": kinds, "numeric": "standard"}
    local = prepare(data, DataOptions(**keys), tmp_path / "local")
    on_ray = DataOptions(**keys, engine="ray")
    other = prepare(data, on_ray, tmp_path / "ray")
    assert contents(other.folder) == contents(local.folder)
    assert list(other.stores) == ["train", "val", "test"]
    again = prepare(data, on_ray, tmp_path / "ray again", pipeline=local.pipeline)
    reread = prepare(data, DataOptions(**keys), tmp_path / "reread", pipeline=local.pipeline)
    assert contents(again.folder) == contents(reread.folder)


@dataclasses.dataclass(frozen=True)
class Fatal:
    """A split rule whose worker is killed when it reaches a row, so often."""

    at: int
    times: int
    folder: Path

    def __call__(self, chunk: Chunk) -> np.ndarray:
        if chunk.start <= self.at < chunk.start + chunk.num_rows:
            before = len(list(self.folder.glob("death-*")))
            if before < self.times:
                (self.folder / f"death-{before}").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
        return (np.arange(chunk.start, chunk.start + chunk.num_rows) % 5 == 0).astype(np.uint8)


def test_a_worker_that_is_killed_is_replaced_and_nothing_changes(
    two_workers: object, small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = raw(write(tmp_path / "raw"), split=RandomSplit())
    rule = Fatal(1500, 0, tmp_path)
    monkeypatch.setattr("recsys.data.passes.assign", lambda source, split: rule)
    local = prepare(data, OPTIONS, tmp_path / "local")
    rule = Fatal(1500, 1, tmp_path)
    other = prepare(data, ON_RAY, tmp_path / "ray")
    assert int((tmp_path / "death-0").read_text()) != os.getpid()
    assert contents(other.folder) == contents(local.folder)
    left = [path.name for path in (tmp_path / "ray").iterdir() if not path.name.endswith(".lock")]
    assert left == [other.folder.name]


def test_workers_that_die_again_and_again_are_an_error_that_names_the_rows(
    two_workers: object, small_chunks: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "RETRIES", 0)
    data = raw(write(tmp_path / "raw"), split=RandomSplit())
    rule = Fatal(2500, 9, tmp_path)
    monkeypatch.setattr("recsys.data.passes.assign", lambda source, split: rule)
    where = r"part-1\.parquet row group 3 to .*part-2\.parquet row group 0: its worker died 1 times"
    with pytest.raises(WorkerError, match=where):
        prepare(data, ON_RAY, tmp_path / "ray")
    assert [p for p in (tmp_path / "ray").iterdir() if not p.name.endswith(".lock")] == []


def test_a_bad_value_names_its_file_and_row_and_leaves_nothing(
    two_workers: object, small_chunks: None, tmp_path: Path
) -> None:
    frame = FRAME.with_columns(click=pl.when(pl.int_range(pl.len()) == 1234).then(7).otherwise(1))
    data = raw(write(tmp_path / "raw", frame), split=RandomSplit())
    with pytest.raises(SchemaError, match=r'label "click" is 7 in .*part-1\.parquet row 234'):
        prepare(data, ON_RAY, tmp_path / "ray")
    assert [p for p in (tmp_path / "ray").iterdir() if not p.name.endswith(".lock")] == []


def test_without_ray_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'recsys\[ray\]'.*data\.engine=local"):
        prepare(raw(), ON_RAY, tmp_path)
    assert [path for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []
