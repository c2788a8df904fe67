"""Row gates against float64 loops over the paper's equations, and what is left after pruning."""

import math

import pytest
import torch
from torch import Tensor

from recsys.embedding.embedded import Embedded
from recsys.embedding.lookup import EmbeddingLookup
from recsys.embedding.row_gates import RowGates
from recsys.embedding.storage import DenseStorage
from recsys.errors import CheckpointError
from tests.embedding.test_lookup import build, make_batch


def gated_lookup(
    pool: bool = True, temperature: float = 1.0, seed: int = 3
) -> tuple[EmbeddingLookup, RowGates]:
    lookup = build(linear=True, second=True, pool_histories=pool)
    gates = RowGates(lookup.layout.num_rows, init=0.5)
    lookup.gates = gates
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        gates.logits.add_(torch.randn(lookup.layout.num_rows, generator=generator))
    gates.temperature = temperature
    return lookup, gates


def tensors(embedded: Embedded) -> list[Tensor]:
    assert embedded.linear is not None
    assert embedded.second is not None
    found = [embedded.fields, embedded.linear, embedded.second]
    return found + [history.values for history in embedded.history.values()]


def test_every_gate_starts_at_exactly_one() -> None:
    for init in (0.1, 0.5, 2.0):
        gates = RowGates(7, init=init)
        assert torch.equal(gates(torch.arange(7)), torch.ones(7))
    assert RowGates(2).scale == pytest.approx(1 + math.exp(-0.5))
    with pytest.raises(ValueError, match="above 0"):
        RowGates(2, init=0.0)


@pytest.mark.parametrize("temperature", [1.0, 30.0])
def test_gate_and_gradient_equal_the_equations(temperature: float) -> None:
    """e' = e * s * sigmoid(tau c), d(loss)/dc by hand, and the penalty over ALL rows."""
    rows, width, weight = 6, 3, 0.02
    generator = torch.Generator().manual_seed(0)
    storage = DenseStorage(rows, width)
    storage.initialize(1.0)
    gates = RowGates(rows)
    with torch.no_grad():
        gates.logits.copy_(0.1 * torch.randn(rows, generator=generator))
    gates.temperature = temperature
    read = torch.tensor([1, 4, 4, 2, 0])
    towards = torch.randn(5, width, generator=generator)
    vectors, _ = gates.read(storage, read)
    (vectors * towards).sum().backward()
    gates.add_penalty_gradient(weight)

    c, w, t = gates.logits.double().tolist(), storage.table().double(), towards.double()
    s = 1 + math.exp(-0.5)
    gate = [1 / (1 + math.exp(-temperature * one)) for one in c]
    for i, row in enumerate(read.tolist()):
        expected = w[row] * s * gate[row]
        torch.testing.assert_close(vectors[i].double(), expected, rtol=1e-5, atol=1e-6)
    for row in range(1, rows):
        slope = temperature * gate[row] * (1 - gate[row])
        data = sum(
            float((t[i] * w[row]).sum()) * s for i, one in enumerate(read.tolist()) if one == row
        )
        assert gates.logits.grad is not None
        assert float(gates.logits.grad[row]) == pytest.approx(slope * (data + weight), rel=1e-4)
        mine = sum((t[i] * s * gate[row] for i, one in enumerate(read.tolist()) if one == row))
        if not isinstance(mine, int):
            grad = storage.weight.grad
            assert grad is not None
            torch.testing.assert_close(grad[row].double(), mine, rtol=1e-5, atol=1e-6)
    assert float(gates.logits.grad[0]) == 0.0


def test_the_gate_becomes_a_step() -> None:
    gates = RowGates(4)
    with torch.no_grad():
        gates.logits.copy_(torch.tensor([0.0, 0.02, -0.02, 0.5]))
    gates.temperature = 1000.0
    soft = gates(torch.arange(1, 4)) / gates.scale
    torch.testing.assert_close(soft, torch.tensor([1.0, 0.0, 1.0]), atol=1e-6, rtol=0)
    gates.harden(torch.ones(4, dtype=torch.bool))
    hard = gates(torch.arange(1, 4)) / gates.scale
    torch.testing.assert_close(hard, torch.tensor([1.0, 0.0, 1.0]))
    assert not gates.logits.requires_grad


def test_rows_that_training_never_saw_are_closed_whatever_their_gate_says() -> None:
    gates = RowGates(4)
    seen = torch.tensor([False, True, False, True])
    assert gates.open_rows(seen).tolist() == [False, True, False, True]
    gates.harden(seen)
    assert (gates(torch.arange(4)) > 0).tolist() == [False, True, False, True]


@pytest.mark.parametrize("pool", [True, False])
def test_gates_multiply_every_id_before_lists_are_pooled(pool: bool) -> None:
    """The same as reading a table whose rows were multiplied beforehand."""
    lookup, gates = gated_lookup(pool, temperature=2.0)
    plain = build(linear=True, second=True, pool_histories=pool)
    with torch.no_grad():
        factor = gates(torch.arange(lookup.layout.num_rows)).unsqueeze(1)
        plain.storage.table().copy_(lookup.storage.table() * factor)
        plain.numeric.copy_(lookup.numeric)
    batch = make_batch()
    for one, other in zip(tensors(lookup(batch)), tensors(plain(batch)), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("pool", [True, False])
def test_pruning_leaves_every_output_as_it_was(pool: bool) -> None:
    lookup, gates = gated_lookup(pool)
    everything = torch.ones(lookup.layout.num_rows, dtype=torch.bool)
    gates.harden(everything)
    assert gates.kept is not None
    kept = int(gates.kept.sum())
    assert 0 < kept < lookup.layout.num_rows - 1
    batches = [make_batch(rows=50, seed=seed) for seed in range(3)]
    before = [tensors(lookup(batch)) for batch in batches]
    lookup.prune()
    assert lookup.gates is None
    assert lookup.storage.num_rows == kept + 1
    assert not lookup.storage.table()[0].any()
    for batch, expected in zip(batches, before, strict=True):
        for one, other in zip(tensors(lookup(batch)), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_a_pruned_lookup_survives_its_state() -> None:
    lookup, gates = gated_lookup()
    gates.harden(torch.ones(lookup.layout.num_rows, dtype=torch.bool))
    full = lookup.memory()
    lookup.prune()
    state = {name: value.clone() for name, value in lookup.tables_state().items()}
    masks = {k.removesuffix(".kept"): v for k, v in state.items() if k.endswith(".kept")}
    assert masks.keys() == {"user", "item", "tags"}
    other = EmbeddingLookup(
        lookup.schema, lookup.options, DenseStorage, linear=True, second=True, kept=masks
    )
    other.load_tables_state(state)
    with torch.no_grad():
        other.numeric.copy_(lookup.numeric)
    batch = make_batch()
    for one, two in zip(tensors(lookup(batch)), tensors(other(batch)), strict=True):
        assert torch.equal(one, two)
    memory = lookup.memory()
    kept = lookup.layout.num_rows
    assert memory["weights"] == kept * 9 * 4 < full["weights"]
    assert memory["serving"] == memory["weights"] + 4 * gates.logits.shape[0]
    dropped = (~masks["item"]).nonzero().squeeze(1) + 1
    assert not lookup.storage.table()[lookup.layout.rows_of(dropped, "item")].any()


def test_masks_of_another_model_are_refused() -> None:
    lookup = build()
    masks = {"user": torch.ones(9, dtype=torch.bool), "item": torch.ones(5, dtype=torch.bool)}
    with pytest.raises(CheckpointError, match="Export the model again"):
        EmbeddingLookup(lookup.schema, lookup.options, DenseStorage, kept=masks)


def test_gates_are_saved_by_table() -> None:
    lookup, gates = gated_lookup()
    state = {name: value.clone() for name, value in lookup.tables_state().items()}
    assert state["user.gate"].shape == (9,)
    with torch.no_grad():
        gates.logits.zero_()
    lookup.load_tables_state(state)
    start = lookup.layout.starts[0]
    assert torch.equal(gates.logits[start : start + 3], state["user.gate"][:3])
