"""The two passes over a span, one after the other, make the rows of the whole."""

from pathlib import Path

import pytest

from recsys.data.passes import (
    Work,
    check_once,
    first_pass,
    inputs_of,
    second_pass,
    splits_of,
    writers_for,
)
from recsys.data.split import RandomSplit
from recsys.data.spool import Spool
from recsys.data.store import Store
from recsys.errors import SchemaError
from tests.data.test_prepare import FRAME, raw


def work(folder: Path) -> Work:
    data = raw(split=RandomSplit((0.5, 0.3, 0.2)))
    return Work(inputs_of(data), data.schema, False, None, folder, "digest")


def test_spans_merge_to_what_the_whole_learns_and_join_to_its_stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.data.fit.CHUNK_ROWS", 200)
    all_of_it = work(tmp_path)
    one = all_of_it.inputs[0]
    whole = all_of_it.fitter()
    spool = Spool(tmp_path / "whole")
    splits = first_pass(whole, one, spool)
    finish = whole.finish()
    names = splits_of(one, splits)
    assert names == ["train", "val", "test"]
    with writers_for(all_of_it, one, names, finish.pipeline.schema, tmp_path / "w") as writers:
        second_pass(spool.read(), splits, finish, writers)

    merged = all_of_it.fitter()
    spans = one.source.spans(700, merged.chunk_rows)
    assert len(spans) == 4
    assert sum(span.num_rows for span in spans) == len(FRAME)
    parts = {}
    for index in (2, 0, 3, 1):  # in any order
        fitter = all_of_it.fitter()
        part = Spool(tmp_path / f"part-{index}")
        found = first_pass(fitter, one, part, spans[index], threads=1)
        parts[index] = part, found, merged.merge(fitter.learnt())
    again = merged.finish()
    assert again.pipeline.digest() == finish.pipeline.digest()
    assert again.missing == finish.missing
    schema = again.pipeline.schema
    with writers_for(all_of_it, one, names, schema, tmp_path / "joined") as joined:
        for index, span in enumerate(spans):
            part, found, codes = parts[index]
            folder = tmp_path / f"shard-{index}"
            with writers_for(all_of_it, one, splits_of(one, found), schema, folder) as writers:
                own = again.of_other(codes)
                second_pass(part.read(), found, own, writers, span.start, threads=1)
            for name, writer in joined.items():
                writer.append_store(Store.open(folder / name))
    for name in names:
        for path in (tmp_path / "w" / name).iterdir():
            assert path.read_bytes() == (tmp_path / "joined" / name / path.name).read_bytes()


def test_rows_of_one_split_come_from_one_input() -> None:
    assert check_once([["test"], ["train", "val"]]) == ["train", "val", "test"]
    with pytest.raises(SchemaError, match="makes val rows, but such a file is given"):
        check_once([["train", "val"], ["val"]])
