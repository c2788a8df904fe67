"""Occurrences of rows, counted value by value."""

import polars as pl
import pytest
import torch

from recsys.data.options import DataOptions
from recsys.data.prepare import Prepared, prepare
from recsys.data.raw import RandomSplit, RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.embedding import row_counts
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.row_counts import count_rows


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    items = [7, 8, 9, 7, 7, None, 8, 9, 9, 9, 7, 8, 9, 7, 8, 7, 9, 8, 7, 9]
    frame = pl.DataFrame(
        {
            "item": items,
            "past": [[7] * (i % 3) + [9] for i in range(20)],
            "tags": [["a"], ["b", "a"], []] * 6 + [["a"], []],
            "click": [0, 1] * 10,
        }
    )
    coded = {"encoding": "vocabulary"}
    schema = Schema(
        fields=(
            Field(name="item", kind="categorical", dtype="int", **coded),
            Field(name="past", kind="history", shares="item", dtype="int", max_length=5, **coded),
            Field(name="tags", kind="multivalued", max_length=5, **coded),
        ),
        labels=("click",),
    )
    raw = RawDataset(
        "counted", {"all": Source.from_frame(frame)}, schema, RandomSplit((0.8, 0.1, 0.1), 0)
    )
    return prepare(raw, DataOptions(), tmp_path_factory.mktemp("prepared"))


@pytest.mark.parametrize("layout", ["full", "hashed", "multiplexed", "unified"])
@pytest.mark.parametrize("block", [3, 65536])
def test_counts_equal_a_loop(
    data: Prepared, layout: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_counts, "BLOCK", block)
    options = EmbeddingOptions(
        layout=layout,
        ratio=1.0 if layout == "full" else 0.7,
        lookups=2 if layout == "unified" else 1,
    )
    made = options.build_layout(data.train.schema)
    expected = torch.zeros(made.num_rows, dtype=torch.int64)

    def add(table: str, code: int) -> None:
        for k in range(made.table(table).lookups):
            row = int(made.rows_of(torch.tensor([code]), table, k))
            expected[row] += int(row != 0)

    for code in data.train.ids[:, 0].tolist():
        add("item", code)
    for name, table in (("past", "item"), ("tags", "tags")):
        for code in data.train.ragged[name][0].tolist():
            add(table, code)
    counts = count_rows(data.train, made)
    assert torch.equal(counts, expected)
    assert counts[0] == 0
    assert counts.sum() > 40


def test_codes_that_training_never_has_count_nothing(data: Prepared) -> None:
    made = EmbeddingOptions().build_layout(data.train.schema)
    counts = count_rows(data.train, made)
    unseen = made.rows_of(torch.tensor([2]), "tags")
    assert counts[unseen] == 0
