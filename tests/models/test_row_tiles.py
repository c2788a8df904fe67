"""The score of a row does not depend on the rows that come with it."""

import numpy as np
import pytest
import torch

from recsys.data.encode import EncodedTable, FeaturePipeline
from recsys.data.schema import MISSING, Field, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import DenseStorage
from recsys.models.recommender import Recommender
from recsys.models.row_tiles import TILE, largest_difference, probe_rows, whole_tiles
from recsys.models.saved import ModelSpec, SavedModel
from tests import contract

OF_STEPS = {"dien", "dtrn"}
"""Models whose products have as many rows as histories have a given step."""


def schema(tasks: bool = False) -> Schema:
    fields = [
        *(Field(name=f"c{i}", kind="categorical", encoding="vocabulary", size=50) for i in (0, 1)),
        *(Field(name=f"n{i}", kind="numeric", encoding="standard") for i in (0, 1)),
        Field(name="tags", kind="multivalued", encoding="vocabulary", size=20),
        *(
            Field(name=f"h{i}", kind="history", encoding="vocabulary", size=50, shares=f"c{i}")
            for i in (0, 1)
        ),
    ]
    labels = contract.TASKS.names if tasks else ("click",)
    nested = {"conversion": "click"} if tasks else {}
    return Schema(fields=tuple(fields), labels=labels, nested=nested)


def model(stem: str) -> SavedModel:
    family = contract.family_of(stem)
    options = contract.options(stem)
    spec = ModelSpec(family, options.pop("_target_"), options)
    fitted = schema(family == "mtl")
    torch.manual_seed(0)
    network = Recommender.build(
        fitted, EmbeddingOptions(dim=8, init_std=0.3), spec.make, DenseStorage,
        spec.pools_histories, spec.needs_fields, None, spec.separate_tables,
    )  # fmt: skip
    return SavedModel(network, FeaturePipeline(fitted, {}, {}), spec)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33])
def test_rows_and_values_of_lists_come_in_whole_tiles(rows: int) -> None:
    given = probe_rows(schema(), rows, seed=rows)
    whole = whole_tiles(given)
    assert len(whole) % TILE == 0
    assert len(whole) - rows <= TILE
    np.testing.assert_array_equal(whole.ids[:rows], given.ids)
    np.testing.assert_array_equal(whole.dense[:rows], given.dense)
    for name, (values, offsets) in whole.ragged.items():
        assert len(values) % TILE == 0
        assert len(offsets) == len(whole) + 1
        assert offsets[-1] == len(values)
        before, ends = given.ragged[name]
        np.testing.assert_array_equal(values[: len(before)], before)
        np.testing.assert_array_equal(offsets[: rows + 1], ends)
        assert (values[len(before) :] == MISSING).all()
    lengths = {name: np.diff(offsets).tolist() for name, (_, offsets) in whole.ragged.items()}
    assert lengths["h0"] == lengths["h1"]  # they are read together


def test_whole_tiles_stay_what_they_are() -> None:
    given = EncodedTable(np.zeros((32, 2), np.int32), np.zeros((32, 0), np.float32))
    assert whole_tiles(given) is given
    nothing = EncodedTable(np.zeros((0, 2), np.int32), np.zeros((0, 0), np.float32))
    assert whole_tiles(nothing) is nothing


def test_probe_rows_have_codes_of_their_tables() -> None:
    rows = probe_rows(schema(), 400)
    assert rows.ids.min() == MISSING
    assert rows.ids.max() == 49
    assert rows.ragged["tags"][0].max() == 19


@pytest.mark.parametrize("stem", [*contract.stems("ctr"), *contract.stems("mtl")])
def test_a_row_has_one_score_in_any_company(stem: str) -> None:
    saved = model(stem)
    found = largest_difference(saved.logits_of, probe_rows(saved.pipeline.schema, 333))
    assert found == 0 if stem not in OF_STEPS else found < 1e-6


def test_a_difference_is_found() -> None:
    def by_place(encoded: EncodedTable) -> np.ndarray:
        return np.arange(len(encoded), dtype=np.float32)

    assert largest_difference(by_place, probe_rows(schema(), 200)) > 0
