"""Candidates ranked by a click model: the rows it sees, and the order it gives."""

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from recsys.errors import ConfigError, SchemaError
from recsys.models.saved import SavedModel
from recsys.models.saved_cf import SavedCF
from recsys.retrieval.candidates import Candidates
from recsys.retrieval.feature_table import FeatureTable
from recsys.retrieval.rank import Ranker
from tests.retrieval.conftest import NUM_ITEMS, NUM_USERS


def tables() -> tuple[FeatureTable, FeatureTable]:
    people = pl.DataFrame(
        {
            "who": [f"u{n}" for n in range(NUM_USERS)],
            "city": [f"c{n % 5}" for n in range(NUM_USERS)],
        }
    )
    films = pl.DataFrame(
        {"film": range(NUM_ITEMS - 3), "price": np.linspace(-2, 2, NUM_ITEMS - 3), "x": 0}
    )
    return (
        FeatureTable(people, "who", pa.array(people["who"].to_list())),
        FeatureTable(films, "film", pa.array(films["film"].to_list())),
    )


def test_the_order_is_that_of_scoring_row_by_row(
    saved_cf: SavedCF, saved_click: SavedModel
) -> None:
    users = pa.array(["u4", "u0", "u29"])
    codes = np.array([saved_cf.data.user_ids.to_pylist().index(one) for one in users.to_pylist()])
    lists = Candidates(saved_cf).lists(codes, 12)
    ranker = Ranker(saved_click, tables(), ("user", "item"))
    best, before = ranker.ranked(lists, users, 5)
    people, films = tables()
    cities = dict(people.frame.select("who", "city").iter_rows())
    prices = dict(films.frame.select("film", "price").iter_rows())
    for row in range(3):
        user = users[row].as_py()
        items = [i for i, r in zip(lists.items.to_pylist(), lists.rows, strict=True) if r == row]
        scored = []
        for item in items:
            raw = {"user": [user], "item": [item], "city": [cities[user]],
                   "price": [prices.get(item)]}  # fmt: skip
            scored.append(
                float(
                    saved_click.predict(pl.DataFrame(raw, schema_overrides={"price": pl.Float64}))[
                        0
                    ]
                )
            )
        order = sorted(range(12), key=lambda at: -scored[at])[:5]
        mine = best.rows == row
        assert best.items.filter(pa.array(mine)).to_pylist() == [items[at] for at in order]
        np.testing.assert_allclose(best.scores[mine], [scored[at] for at in order], rtol=1e-5)
        np.testing.assert_array_equal(before[mine], lists.scores[lists.rows == row][order])
        assert best.ranks[mine].tolist() == [1, 2, 3, 4, 5]


def test_columns_that_are_nowhere_or_twice(saved_click: SavedModel) -> None:
    people, films = tables()
    with pytest.raises(SchemaError, match=r"rank_by reads city, price, which no table has"):
        Ranker(saved_click, (None, None), ("user", "item"))
    with pytest.raises(SchemaError, match=r"rank_by reads item, which no table has"):
        Ranker(saved_click, (people, films), ("user", "film"))
    both = FeatureTable(films.frame.with_columns(city=pl.lit("c1")), "film", films.ids)
    with pytest.raises(SchemaError, match="column city is in the tables of both"):
        Ranker(saved_click, (people, both), ("user", "item"))


def test_one_of_several_labels(saved_click: SavedModel) -> None:
    import dataclasses

    class TwoLabels(SavedModel):
        """Stands for a model of two labels."""

        def predict(self, table: object) -> np.ndarray:
            rows = len(table)  # type: ignore[arg-type]
            return np.stack([np.zeros(rows), np.arange(rows)], axis=1).astype(np.float32)

    pipeline = saved_click.pipeline
    made = TwoLabels(saved_click.model, type(pipeline)(
        dataclasses.replace(pipeline.schema, labels=("click", "buy")), pipeline.vocabularies,
        pipeline.scales), saved_click.spec)  # fmt: skip
    with pytest.raises(ConfigError, match=r"rank_label=None: the model predicts 2 labels"):
        Ranker(made, tables(), ("user", "item"))
    with pytest.raises(ConfigError, match="Did you mean click"):
        Ranker(made, tables(), ("user", "item"), "clik")
    ranker = Ranker(made, tables(), ("user", "item"), "buy")
    assert ranker.scores(pa.array(["u1", "u2"]), pa.array([3, 4])).tolist() == [0.0, 1.0]
