"""The engine of this process: both passes, sources in turn, its spools gone when it is done."""

from pathlib import Path

from recsys.data.local_engine import run_locally
from recsys.data.passes import Work, inputs_of
from recsys.data.readers import Source
from recsys.data.split import RandomSplit
from recsys.data.store import Store
from tests.data.test_prepare import FRAME, raw


def test_both_passes_over_every_source(tmp_path: Path) -> None:
    files = {"train": Source.from_frame(FRAME.head(2000)), "test": Source.from_frame(FRAME[2000:])}
    data = raw(files, split=RandomSplit((0.9, 0.1, 0)))
    work = Work(inputs_of(data), data.schema, False, None, tmp_path, "digest")
    assert [(one.name, one.rule is None) for one in work.inputs] == [
        ("train", False),
        ("test", True),
    ]
    told: list[tuple[int, int, str]] = []
    finish, splits = run_locally(work, lambda *one: told.append(one))
    assert splits == ["train", "val", "test"]
    assert [told[0], told[-1]] == [(0, 3000, "read"), (3000, 3000, "write")]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(splits)
    rows = {name: len(Store.open(tmp_path / name)) for name in splits}
    assert rows["train"] + rows["val"] == 2000
    assert rows["test"] == 1000
    assert finish.pipeline.schema["item"].size is not None
