"""Nested labels: what is refused, and what a parent that does not hold makes of its labels."""

from __future__ import annotations

import pickle
from itertools import product

import numpy as np
import pytest

from recsys.data.nested import Nested, fill_nested, parents_first
from recsys.data.readers import Chunk
from recsys.errors import SchemaError

LABELS = ("click", "cart", "pay")
CHAIN = {"pay": "cart", "cart": "click"}
NAN = float("nan")


def chunk(rows: int) -> Chunk:
    return Chunk(lambda name: pytest.fail(name), rows, "t.parquet", 100, 0)


def filled(rows: list[list[float]], labels: tuple[str, ...] = LABELS) -> list[list[float]]:
    """Rows of labels in the order of `labels`, as they are read under `CHAIN`."""
    columns = list(np.array(rows, np.float32).T.copy())
    parents = [labels.index(CHAIN[name]) if name in CHAIN else -1 for name in labels]
    fill_nested(columns, labels, parents, chunk(len(rows)))
    return np.stack(columns, axis=1).tolist()


@pytest.mark.parametrize(
    ("nested", "told"),
    [
        ({"cart": "clik"}, r'data\.nested\.cart=clik: "clik" is no label\. Did you mean click\?'),
        ({"crt": "click"}, r'"crt" is no label\. Did you mean cart\?'),
        ({"cart": None}, r'"None" is no label\. Allowed: cart, click, pay'),
        ({"cart": "cart"}, "cannot be its own parent"),
        ({"cart": "pay", "pay": "cart"}, "in a circle: cart needs pay needs cart"),
        (
            {"pay": "click", "click": "cart", "cart": "click"},
            "circle: click needs cart needs click",
        ),
        (["cart"], r"must map labels to their parents: data\.nested\.<label>=<parent>"),
    ],
)
def test_what_does_not_fit_is_refused(nested: object, told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        Nested(nested, LABELS)


def test_it_is_a_mapping_without_an_order_of_its_own_that_can_be_hashed() -> None:
    one, other = Nested(CHAIN, LABELS), Nested(dict(reversed(CHAIN.items())), LABELS)
    assert one == other == CHAIN
    assert hash(one) == hash(other)
    assert list(one) == list(other) == ["cart", "pay"]  # as the labels are ordered
    assert len(Nested()) == 0
    assert Nested() == Nested(None, LABELS) == {}
    assert pickle.loads(pickle.dumps(one)) == one
    with pytest.raises(TypeError):
        one["click"] = "pay"


@pytest.mark.parametrize("parents", [[1, 2, -1], [-1, 0, 1], [2, 0, -1], [-1, -1, -1], []])
def test_parents_come_first(parents: list[int]) -> None:
    order = parents_first(parents)
    assert sorted(order) == [label for label, parent in enumerate(parents) if parent >= 0]
    assert all(parents[one] not in order[order.index(one) :] for one in order)


@pytest.mark.parametrize("labels", [LABELS, LABELS[::-1], ("cart", "pay", "click")])
def test_every_combination_of_a_chain(labels: tuple[str, ...]) -> None:
    """Brute force over 0, 1 and missing: a label under one that is 0 is 0, any other stays."""
    for values in product([0.0, 1.0, NAN], repeat=3):
        row = dict(zip(LABELS, values, strict=True))
        expected, wrong = dict(row), False
        for child in ("cart", "pay"):
            if expected[CHAIN[child]] == 0:
                wrong = wrong or expected[child] == 1
                expected[child] = 0.0
        if wrong:
            with pytest.raises(SchemaError, match="is nested in"):
                filled([[row[name] for name in labels]], labels)
            continue
        found = filled([[row[name] for name in labels]], labels)[0]
        np.testing.assert_array_equal(found, [expected[name] for name in labels])


def test_a_label_that_holds_without_its_parent_is_named_with_its_row() -> None:
    rows = [[1, 1, 1], [1, 0, NAN], [1, 0, 1], [0, NAN, NAN], [0, NAN, 1]]
    told = (
        r'label "pay" is 1 where "cart" is 0 in t\.parquet row 102 \(2 such rows.*'
        r"Set data\.nested\.pay to the label"
    )
    with pytest.raises(SchemaError, match=told):
        filled(rows)
