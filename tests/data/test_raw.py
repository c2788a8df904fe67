"""What a recipe may return."""

import polars as pl
import pytest

from recsys.data.infer import infer_schema
from recsys.data.raw import RandomSplit, RawDataset
from recsys.data.readers import Source
from recsys.errors import SchemaError

SOURCE = Source.from_frame(pl.DataFrame({"a": ["x"], "click": [1]}))
SCHEMA = infer_schema(SOURCE, "click")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "has the parts none"),
        (["val"], "give either `all`, or `train`"),
        (["train", "dev"], "has the parts train, dev"),
        (["all", "test"], "has `all` beside"),
    ],
)
def test_wrong_parts_are_refused(parts: list[str], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        RawDataset("d", dict.fromkeys(parts, SOURCE), SCHEMA)


@pytest.mark.parametrize("parts", [["all"], ["train"], ["train", "val", "test"]])
def test_right_parts_are_taken(parts: list[str]) -> None:
    raw = RawDataset("d", dict.fromkeys(parts, SOURCE), SCHEMA, RandomSplit())
    assert list(raw.files) == parts
