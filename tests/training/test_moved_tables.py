"""Tables by name and the one matrix of them are each other's inverse, state included."""

import pytest
import torch

from recsys.embedding.lookup import EmbeddingLookup, EmbeddingOptions
from recsys.embedding.storage import SparseStorage
from recsys.training.moved_tables import (
    PLAIN_STATE,
    plain_state,
    plain_tables,
    sharded_state,
)
from tests.embedding.test_lookup import make_schema


def make_lookup(layout: str, dim: int) -> EmbeddingLookup:
    return EmbeddingLookup(
        make_schema(), EmbeddingOptions(layout=layout, dim=dim, ratio=0.5), SparseStorage
    )


def whole(lookup: EmbeddingLookup, by_row: bool) -> dict[str, torch.Tensor]:
    """What a checkpoint of sharded tables gives: the physical width, no padding row."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for table in lookup.layout.ranges:
        found[f"{table.name}.weight"] = torch.randn(table.rows, 8, generator=generator)
        shape = (table.rows,) if by_row else (table.rows, 8)
        found[f"{table.name}.sum_of_squares"] = torch.rand(shape, generator=generator)
    return found


@pytest.mark.parametrize("layout", ["full", "multiplexed"])
def test_weights_lie_where_the_layout_reads_them(layout: str) -> None:
    lookup = make_lookup(layout, 6)
    tables = whole(lookup, by_row=True)
    lookup.load_tables_state(plain_tables(lookup, tables))
    for table in lookup.layout.ranges:
        rows = lookup.storage.table()[table.start : table.start + table.rows]
        assert torch.equal(rows, tables[f"{table.name}.weight"][:, :6])
    assert not lookup.storage.table()[0].any()


@pytest.mark.parametrize("layout", ["full", "multiplexed"])
@pytest.mark.parametrize("by_row", [True, False])
def test_state_goes_there_and_back(layout: str, by_row: bool) -> None:
    lookup = make_lookup(layout, 6)
    tables = whole(lookup, by_row)
    state = plain_state(lookup, tables)
    assert state[PLAIN_STATE].shape[0] == lookup.layout.num_rows
    back = sharded_state(lookup, state)
    for name, tensor in back.items():
        expected = tables[name] if by_row else tables[name][:, :6]
        torch.testing.assert_close(tensor, expected)
    if by_row:  # a mean over 6 columns is 8/6 of one that counts two more, of zeros
        first = lookup.layout.ranges[0]
        ratio = state[PLAIN_STATE][first.start] / tables[f"{first.name}.sum_of_squares"][0]
        assert float(ratio) == pytest.approx(8 / 6)


def test_no_state_is_no_state() -> None:
    lookup = make_lookup("full", 4)
    weights = {k: v for k, v in whole(lookup, True).items() if k.endswith("weight")}
    assert plain_state(lookup, weights) == {}
    assert sharded_state(lookup, {"dense.0.step": torch.zeros(())}) == {}
    weights.popitem()
    with pytest.raises(KeyError, match="is not among"):
        plain_tables(lookup, weights)
