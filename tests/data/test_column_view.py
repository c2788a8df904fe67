"""Some columns of prepared data: the very rows that preparing those columns writes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.data.column_view import select_columns, view_bytes
from recsys.data.datasets.synthetic import build
from recsys.data.loader import Loader
from recsys.data.options import DataOptions
from recsys.data.prepare import Prepared, prepare
from recsys.errors import SchemaError
from recsys.models.tree_features import stored_rows

NAMES = ["price", "user", "history", "color"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Prepared:
    return prepare(build(rows=3000), DataOptions(numeric="log"), folder)


def test_it_is_what_preparing_these_columns_gives(whole: Prepared, folder: Path) -> None:
    view = select_columns(whole, NAMES)
    other = prepare(build(rows=3000), DataOptions(numeric="log", features=NAMES), folder)
    assert view.pipeline.schema == other.pipeline.schema
    assert "item" in view.pipeline.schema.names  # the history shares its table
    assert view.stores.keys() == other.stores.keys()
    for split, store in view.stores.items():
        for mine, theirs in zip(
            Loader(store, 512, shuffle=True, seed=3),
            Loader(other.stores[split], 512, shuffle=True, seed=3), strict=True,
        ):  # fmt: skip
            for name in ("ids", "dense", "label", "group"):
                assert torch.equal(getattr(mine, name), getattr(theirs, name)), name
            assert mine.ragged.keys() == theirs.ragged.keys()
            for name, ragged in mine.ragged.items():
                assert torch.equal(ragged.values, theirs.ragged[name].values)
                assert torch.equal(ragged.offsets, theirs.ragged[name].offsets)
    rows, same = (stored_rows(one.train, 10, 20) for one in (view, other))
    assert np.array_equal(rows.ids, same.ids)
    encoded = view.pipeline.transform(
        build(rows=3000).files["val"].head(5, view.pipeline.schema.names)
    )
    again = other.pipeline.transform(
        build(rows=3000).files["val"].head(5, other.pipeline.schema.names)
    )
    assert np.array_equal(encoded.ids, again.ids)
    assert view.digest != whole.digest
    assert [row["column"] for row in view.summary] == list(view.pipeline.schema.names)


def test_all_columns_are_the_data_itself(whole: Prepared) -> None:
    assert select_columns(whole, whole.pipeline.schema.names) is whole


def test_memory_is_told_before_it_is_taken(whole: Prepared) -> None:
    view = select_columns(whole, NAMES)
    taken = sum(store.ids.nbytes + store.dense.nbytes for store in view.stores.values())
    assert view_bytes(whole, NAMES) == taken


def test_an_unknown_column_is_named(whole: Prepared) -> None:
    with pytest.raises(SchemaError, match="Did you mean price"):
        select_columns(whole, ["prise"])
