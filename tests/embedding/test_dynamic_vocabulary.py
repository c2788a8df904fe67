"""A lookup whose ids get rows while training, against one whose vocabulary knows them."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.data.batch import Batch, Ragged
from recsys.data.hashing import OPEN_SIZE
from recsys.data.schema import MISSING, NUM_RESERVED, UNSEEN, Field, Schema
from recsys.embedding.dynamic_vocabulary import DynamicVocabularies
from recsys.embedding.lookup import EmbeddingLookup, EmbeddingOptions
from recsys.embedding.storage import DenseStorage, FusedStorage, SparseStorage, Storage
from recsys.training.optimizers import OptimizerOptions, Optimizers

ROWS = 6


def schema(dynamic: bool) -> Schema:
    ids: dict[str, Any] = {"encoding": "vocabulary", "size": ROWS + NUM_RESERVED}
    if dynamic:
        ids = {"encoding": "dynamic", "size": OPEN_SIZE}
    return Schema(
        fields=(
            Field(name="past", kind="history", shares="item", **ids),
            Field(name="shop", kind="categorical", encoding="vocabulary", size=9),
            Field(name="item", kind="categorical", **ids),
        ),
        labels=("click",),
    )


def batch(items: list[int], past: list[list[int]]) -> Batch:
    lengths = torch.tensor([len(one) for one in past])
    return Batch(
        ids=torch.stack([torch.full((len(items),), 4), torch.tensor(items)], 1),
        dense=torch.zeros(len(items), 0),
        label=torch.zeros(len(items)),
        ragged={
            "past": Ragged(
                torch.tensor([i for one in past for i in one], dtype=torch.int64),
                torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
            )
        },
    )


def lookup(
    dynamic: bool = True,
    storage: Callable[[int, int], Storage] = DenseStorage,
    seed: int = 0,
    **keys: Any,
) -> EmbeddingLookup:
    torch.manual_seed(seed)
    chosen: dict[str, Any] = {"vocabulary": "dynamic", "capacity": ROWS, **keys} if dynamic else {}
    options = EmbeddingOptions(dim=3, init_std=1.0, **chosen)
    return EmbeddingLookup(schema(dynamic), options, storage, linear=True, pool_histories=False)


def vocabularies(one: EmbeddingLookup) -> DynamicVocabularies:
    assert one.vocabularies is not None
    return one.vocabularies


FIRST = batch([10**12, 77, 10**12, MISSING], [[77], [], [88, 10**12], [MISSING, 99]])
CODES = batch([3, 4, 3, MISSING], [[4], [], [5, 3], [MISSING, 6]])


def test_admitted_ids_read_what_codes_of_a_vocabulary_read() -> None:
    mine, plain = lookup(), lookup(dynamic=False)
    born = mine.admit(FIRST)
    start = mine.layout.range_of("item").start
    assert born is not None
    assert born.tolist() == [start + NUM_RESERVED - 1 + row for row in range(4)]
    plain.storage.table().copy_(mine.storage.table())
    for mode in (mine.train(), mine.eval()):
        found, expected = mode(FIRST), plain(CODES)
        assert torch.equal(found.fields, expected.fields)
        assert torch.equal(found.history["past"].values, expected.history["past"].values)
        assert torch.equal(found.target["past"], expected.target["past"])


def test_reading_changes_nothing_and_unknown_ids_share_a_row() -> None:
    mine = lookup()
    mine.admit(FIRST)
    assert mine.admit(FIRST) is None, "no row begins a second time"
    before = {name: one.clone() for name, one in mine.tables_state().items()}
    other = batch([5000, 5001], [[5002], [77]])
    found = mine.train()(other)
    row = mine.layout.rows_of(torch.tensor([UNSEEN]), "item")
    assert torch.equal(found.fields[0, 1], mine.storage.table()[row][0, :3])
    assert torch.equal(found.fields[0], found.fields[1])
    after = mine.tables_state()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in after)


def test_a_row_is_drawn_from_seed_row_and_generation_alone() -> None:
    one, other, third = lookup(), lookup(), lookup(seed=1)
    for many in (one, other, third):
        many.admit(FIRST)
    state, same, different = (many.tables_state()["item.weight"] for many in (one, other, third))
    assert torch.equal(state, same)
    assert not torch.isclose(state[2:6], different[2:6]).any()
    newcomers = batch([200, 201, 202, 203], [[204], [205], [], []])
    before = state.clone()
    one.admit(newcomers)
    now = one.tables_state()["item.weight"]
    assert not torch.isclose(now[2:], before[2:]).any(), "six ids, six rows: all begin anew"
    assert vocabularies(one).report() == {"item": {"rows": 6, "capacity": 6, "evicted": 4}}
    other.admit(batch([1000 + i for i in range(2)], [[], []]))
    other.admit(newcomers)  # other neighbours, another order: the row and its generation decide
    assert torch.equal(one.tables_state()["item.weight"][2], other.tables_state()["item.weight"][2])


def test_rows_are_drawn_from_the_normal_distribution() -> None:
    table = next(iter(vocabularies(lookup(capacity=20_000))))
    table.ids.generations += 1
    drawn = table.drawn(torch.arange(20_000), 4).double()
    assert drawn.mean().abs() < 0.02
    assert (drawn.std() - 1).abs() < 0.02
    assert ((drawn**4).mean() - 3).abs() < 0.15
    assert torch.corrcoef(drawn.T).fill_diagonal_(0).abs().max() < 0.03
    assert (drawn.flatten().sort().values[-10:] > 3.3).all()
    again = table.drawn(torch.tensor([7, 3]), 4)
    assert torch.equal(again, table.drawn(torch.arange(20_000), 4)[[7, 3]])


def train_step(one: EmbeddingLookup, optimizers: Optimizers, rows: Batch) -> Tensor | None:
    optimizers.zero_grad()
    born = one.admit(rows)
    if born is not None:
        optimizers.forget_rows(born)
    embedded = one(rows)
    parts = [embedded.fields, embedded.linear, embedded.history["past"].values]
    torch.stack([part.square().sum() for part in parts if part is not None]).sum().backward()
    optimizers.step()
    return born


@pytest.mark.parametrize("name", ["adam", "lazy_adam", "rowwise_adagrad", "adagrad", "sgd"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_row_that_changes_hands_forgets_its_past(name: str, fused: bool) -> None:
    if fused and name in ("adam", "lazy_adam"):
        pytest.skip("never fused")
    options = OptimizerOptions(name=name, lr=0.1)
    plain = DenseStorage if name == "adam" else SparseStorage

    def make(rows: int, width: int) -> Storage:
        if fused:
            return FusedStorage(rows, width, optimizer=name, lr=0.1)
        return plain(rows, width)

    used, unused = lookup(storage=make), lookup(storage=make)
    one, fresh = (Optimizers(many, torch.nn.Linear(1, 1), options) for many in (used, unused))
    everybody = batch([20, 21, 22], [[23], [24], [25]])
    newcomers = batch([30, 31, 32], [[33], [34], [35]])
    for _ in range(3):
        train_step(used, one, everybody)
    table = next(iter(vocabularies(unused)))
    train_step(unused, fresh, everybody)
    start = used.layout.range_of("item").start + NUM_RESERVED - 1
    born = used.admit(newcomers)
    assert born is not None
    one.forget_rows(born)
    tensors = {**used.storage.optimizer_state(), **one.state_tensors()}
    states = [one for one in tensors.values() if one.ndim and len(one) == used.layout.num_rows]
    assert len(states) == {"sgd": 0, "adam": 2, "lazy_adam": 2}.get(name, 1)
    for state in states:
        assert not state[start : start + 6].any()
        assert state[1:9].any(), "the rows of the shop keep theirs"
    rows = torch.arange(6)
    assert table.ids.generations.tolist() == [1] * 6
    table.ids.generations += 1
    drawn = table.drawn(rows, used.storage.width)
    assert torch.equal(used.storage.table()[start : start + 6], drawn)


def test_state_goes_through_names_and_is_checked() -> None:
    one, other = lookup(seed=3), lookup(seed=4)
    one.admit(FIRST)
    state = {name: tensor.clone() for name, tensor in one.tables_state().items()}
    assert {f"item.vocabulary.{n}" for n in ("ids", "counts", "last", "seed")} < state.keys()
    other.load_tables_state(state)
    newcomers = batch([10**12, 200, 201, 202], [[203], [204], [], [77]])
    for many in (one, other):
        many.admit(newcomers)
    assert torch.equal(one(newcomers).fields, other(newcomers).fields)
    after = other.tables_state()
    assert all(torch.equal(tensor, after[name]) for name, tensor in one.tables_state().items())
    damaged = dict(state)
    damaged["item.vocabulary.ids"] = torch.full_like(state["item.vocabulary.ids"], 9)
    with pytest.raises(ValueError, match="damaged"):
        other.load_tables_state(damaged)
    with pytest.raises(ValueError, match=r"item\.vocabulary\.ids is"):
        lookup(capacity=5).load_tables_state(
            {k: v for k, v in state.items() if k != "item.weight"}
            | {"item.weight": lookup(capacity=5).tables_state()["item.weight"]}
        )


def test_the_batch_admitted_last_is_not_read_again_but_its_copy_is() -> None:
    one = lookup()
    one.admit(FIRST)
    whole = vocabularies(one)
    assert whole(FIRST) is whole(FIRST)
    copy = dataclasses.replace(FIRST)
    assert whole(copy) is not whole(FIRST)
    assert torch.equal(whole(copy).ids, whole(FIRST).ids)
    assert torch.equal(FIRST.ids[:, 1], torch.tensor([10**12, 77, 10**12, MISSING])), "untouched"


def test_memory_counts_the_map() -> None:
    small, large = lookup(capacity=10), lookup(capacity=1000)
    extra = [one.memory()["serving"] - one.memory()["weights"] for one in (small, large)]
    assert 0 < extra[0] < extra[1]
    assert extra[1] >= 32 * 1000
