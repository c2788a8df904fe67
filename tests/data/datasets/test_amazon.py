"""Amazon sequences: every position is predicted from what stands before it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.datasets import amazon
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.schema import Kind
from recsys.errors import ConfigError, SchemaError

SEQUENCES = {1: [1, 2, 3, 4, 5], 2: [6, 1, 7, 3], 3: [2, 8, 9, 10, 5, 1]}
ATTRIBUTES = {str(item): [90 + item % 2, 50 + item % 3] for item in range(1, 11)}
ROWS = {
    "beauty": (262_826, 44_726),
    "sports": (379_086, 71_196),
    "toys": (218_722, 38_824),
}
"""Training rows, and those of each of the other splits: two for every position."""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = [" ".join(map(str, (user, *items))) for user, items in SEQUENCES.items()]
    (tmp_path / "Beauty.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "Beauty_item2attributes.json").write_text(json.dumps(ATTRIBUTES))
    monkeypatch.setitem(amazon.SETS, "beauty", amazon.Published("Beauty", 3, 10, 15))
    return tmp_path


def tables(raw: amazon.RawDataset) -> dict[str, pl.DataFrame]:
    return {split: pl.DataFrame(source.head(10**6)) for split, source in raw.files.items()}


@pytest.mark.parametrize("name", list(amazon.SETS))
def test_the_real_files(shared: Callable[[str], Path], name: str) -> None:
    raw = amazon.build(name=name, source=shared("s3rec-sequences"))
    train, rest = ROWS[name]
    rows = {split: source.num_rows for split, source in raw.files.items()}
    assert rows == {"train": train, "val": rest, "test": rest}
    published = amazon.SETS[name]
    assert rest == 2 * published.users
    assert train == 2 * (published.actions - 3 * published.users)
    test = tables(raw)["test"]
    assert test["label"].sum() == published.users
    assert test["category"].null_count() == 0
    assert not test.filter(pl.col("item").is_in(pl.col("history"))).height  # no item twice
    last = amazon.build(name=name, source=shared("s3rec-sequences"), positions="last")
    assert last.files["train"].num_rows == rest


def test_positions_labels_and_histories(small: Path) -> None:
    found = tables(amazon.build(source=small))
    positives = {
        split: [
            tuple(row) for row in frame.filter(label=1).select("user", "item", "history").rows()
        ]
        for split, frame in found.items()
    }
    assert positives == {
        "train": [
            (1, 2, [1]), (1, 3, [1, 2]), (2, 1, [6]), (3, 8, [2]), (3, 9, [2, 8]),
            (3, 10, [2, 8, 9]),
        ],
        "val": [(1, 4, [1, 2, 3]), (2, 7, [6, 1]), (3, 5, [2, 8, 9, 10])],
        "test": [(1, 5, [1, 2, 3, 4]), (2, 3, [6, 1, 7]), (3, 1, [2, 8, 9, 10, 5])],
    }  # fmt: skip
    for frame in found.values():
        assert frame["label"].to_list() == [1, 0] * (frame.height // 2)
        pairs = frame.rows(named=True)
        for positive, negative in zip(pairs[::2], pairs[1::2], strict=True):
            assert negative["item"] not in SEQUENCES[positive["user"]]
            assert 1 <= negative["item"] <= 10
            for key in ("user", "history", "category_history"):
                assert positive[key] == negative[key]
        for row in pairs:  # categories are the last attribute, and aligned with the items
            assert row["category"] == ATTRIBUTES[str(row["item"])][-1]
            assert row["category_history"] == [ATTRIBUTES[str(i)][-1] for i in row["history"]]


def test_options(small: Path) -> None:
    raw = amazon.build(source=small, positions="last", user=True, history_length=2)
    train = tables(raw)["train"].filter(label=1)
    assert train["item"].to_list() == [3, 1, 10]
    assert train["history"].to_list() == [[1, 2], [6], [8, 9]]
    assert raw.schema.names == ("user", "item", "category", "history", "category_history")
    raw = amazon.build(source=small)
    assert raw.schema.names == ("item", "category", "history", "category_history")
    assert raw.schema.group == "user"
    for name, shares in (("history", "item"), ("category_history", "category")):
        assert raw.schema[name].kind is Kind.HISTORY
        assert raw.schema[name].shares == shares
    items = [tables(amazon.build(source=small, seed=s))["train"]["item"] for s in (0, 0, 1)]
    assert items[0].equals(items[1])
    assert not items[0].equals(items[2])


def test_it_is_prepared_with_the_item_and_its_history_in_one_table(
    small: Path, tmp_path: Path
) -> None:
    data = prepare(amazon.build(source=small), DataOptions(), tmp_path / "prepared")
    assert {split: len(store) for split, store in data.stores.items()} == {
        "train": 12, "val": 6, "test": 6,
    }  # fmt: skip
    values, offsets = data.train.ragged["history"]
    item = data.train.ids[:, 0]
    second = values[offsets[2] : offsets[3]]  # the pair after (1, item 2, [1])
    assert second[-1] == item[0]
    np.testing.assert_array_equal(offsets[:5], [0, 1, 2, 4, 6])


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"name": "beuty"}, r"data\.name=beuty.*Did you mean beauty"),
        ({"positions": "first"}, r"data\.positions=first is not a choice"),
        (
            {"source": None},
            r"data=amazon_beauty is not downloaded. Put Beauty\.txt and Beauty_item2",
        ),
        ({"source": "/no/such/folder"}, "is not a folder"),
        ({"history_length": 0}, "at least 1"),
    ],
)
def test_wrong_options(small: Path, keys: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        amazon.build(**({"source": small} | keys))


def test_other_files_are_refused(small: Path) -> None:
    file = small / "Beauty.txt"
    text = file.read_text()
    file.write_text(text + "4 1 2 3 4\n")
    with pytest.raises(SchemaError, match="has 4 people, published are 3"):
        amazon.build(source=small)
    file.write_text(text + "4 1 2\n")
    with pytest.raises(
        SchemaError, match="1 people with fewer than 4 reviews, the first in line 4"
    ):
        amazon.build(source=small)
    file.write_text("1 a b c d\n")
    with pytest.raises(SchemaError, match="is no file of sequences"):
        amazon.build(source=small)
    file.write_text(text)
    (small / "Beauty_item2attributes.json").write_text("[]")
    with pytest.raises(SchemaError, match="is no file of item attributes"):
        amazon.build(source=small)
    file.unlink()
    with pytest.raises(SchemaError, match=r"needs Beauty\.txt \(or \.gz\)"):
        amazon.build(source=small)
