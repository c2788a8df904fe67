"""The lookup against slow per-row references, and its state against its layouts."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recsys.data.batch import Batch, Ragged
from recsys.data.schema import Field, Schema
from recsys.embedding.layout import LAYOUTS
from recsys.embedding.lookup import EmbeddingLookup, EmbeddingOptions, check_memory
from recsys.embedding.storage import DenseStorage, FusedStorage, SparseStorage, Storage
from recsys.errors import ConfigError, SchemaError

STORAGES: dict[str, Callable[[int, int], Storage]] = {
    "dense": DenseStorage,
    "sparse": SparseStorage,
    "fused": lambda rows, width: FusedStorage(rows, width, optimizer="rowwise_adagrad", lr=0.1),
}


def make_schema() -> Schema:
    """History before its target, a list, and numbers between, so that slot order is put to work."""
    vocabulary = {"encoding": "vocabulary"}
    return Schema(
        fields=(
            Field(name="past", kind="history", shares="item", size=30, **vocabulary),
            Field(name="user", kind="categorical", size=10, **vocabulary),
            Field(name="price", kind="numeric", encoding="standard"),
            Field(name="item", kind="categorical", size=30, **vocabulary),
            Field(name="tags", kind="multivalued", size=8, **vocabulary),
            Field(name="age", kind="numeric", encoding="log"),
        ),
        labels=("click",),
    )


def make_batch(rows: int = 5, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def ragged(size: int, longest: int) -> Ragged:
        lengths = torch.randint(0, longest + 1, (rows,), generator=generator)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        total = int(offsets[-1])
        values = torch.randint(1, size, (total,), generator=generator, dtype=torch.int32)
        return Ragged(values, offsets)

    users = torch.randint(1, 10, (rows,), generator=generator)
    items = torch.randint(1, 30, (rows,), generator=generator)
    return Batch(
        ids=torch.stack([users, items], 1).int(),
        dense=torch.randn(rows, 2, generator=generator),
        label=torch.zeros(rows),
        ragged={"past": ragged(30, 4), "tags": ragged(8, 3)},
    )


def build(layout: str = "full", storage: str = "dense", **options: object) -> EmbeddingLookup:
    torch.manual_seed(0)
    keys = {k: options.pop(k) for k in ("linear", "second", "pool_histories") if k in options}
    lookups = 3 if layout == "unified" else 1
    chosen = EmbeddingOptions(
        layout=layout,
        dim=4,
        lookups=lookups,
        init_std=1.0,
        **options,  # type: ignore[arg-type]
    )
    return EmbeddingLookup(make_schema(), chosen, STORAGES[storage], **keys)  # type: ignore[arg-type]


def vector(lookup: EmbeddingLookup, table: str, code: int, k: int = 0) -> Tensor:
    row = lookup.layout.rows_of(torch.tensor([code]), table, k)
    return lookup.storage.table()[row][0]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("linear", [False, True])
def test_pooled_lookup_equals_a_loop(layout: str, storage: str, linear: bool) -> None:
    lookup = build(layout, storage, linear=linear, ratio=1.0 if layout == "full" else 0.5)
    batch = make_batch()
    embedded = lookup(batch)
    assert embedded.fields.shape == (5, lookup.plan.num_fields, 4)
    assert embedded.dense.shape == (5, 0)
    for b in range(5):
        expected = []
        for field in lookup.schema:
            table = field.shares or field.name
            if not field.is_coded:
                column = [f.name for f in lookup.schema.dense].index(field.name)
                expected.append(batch.dense[b, column] * lookup.numeric[column])
                continue
            for k in range(lookup.layout.table(table).lookups):
                if field.is_ragged:
                    lists = batch.ragged[field.name]
                    codes = lists.values[lists.offsets[b] : lists.offsets[b + 1]].tolist()
                    vectors = [vector(lookup, table, code, k) for code in codes]
                    total = torch.zeros(4 + linear)
                    for one in vectors:
                        total = total + one
                    expected.append(total / max(len(codes), 1))
                else:
                    column = ["user", "item"].index(field.name)
                    expected.append(vector(lookup, table, int(batch.ids[b, column]), k))
        stacked = torch.stack(expected)
        torch.testing.assert_close(embedded.fields[b], stacked[:, :4])
        if linear:
            torch.testing.assert_close(embedded.linear[b], stacked[:, 4])
        else:
            assert embedded.linear is None


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("layout", ["full", "unified"])
def test_histories_keep_their_order_and_share_the_target_table(storage: str, layout: str) -> None:
    lookup = build(layout, storage, pool_histories=False)
    batch = make_batch()
    embedded = lookup(batch)
    past, lists = embedded.history["past"], batch.ragged["past"]
    lookups = lookup.layout.table("item").lookups
    assert past.values.shape[1] == 4 * lookups
    assert torch.equal(past.lengths, lists.lengths)
    assert past.longest == max(1, int(lists.lengths.max()))
    padded, mask = past.padded()
    for b in range(5):
        codes = lists.values[lists.offsets[b] : lists.offsets[b + 1]].tolist()
        assert mask[b].sum() == len(codes)
        for t, code in enumerate(codes):
            expected = torch.cat([vector(lookup, "item", code, k) for k in range(lookups)])
            torch.testing.assert_close(padded[b, t], expected)
        target = [vector(lookup, "item", int(batch.ids[b, 1]), k) for k in range(lookups)]
        torch.testing.assert_close(embedded.target["past"][b], torch.cat(target))
    assert "past" not in "".join(lookup.plan.names)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_table_stands_beside_the_first(layout: str, linear: bool) -> None:
    batch = make_batch()
    lookup = build(layout, second=True, linear=linear)
    assert lookup.storage.table().shape[1] == 8 + linear
    embedded = lookup(batch)
    assert embedded.second is not None
    assert embedded.second.shape == embedded.fields.shape
    slot = next(i for i, name in enumerate(lookup.plan.names) if name in ("user", "user.0"))
    for b in range(5):
        both = vector(lookup, "user", int(batch.ids[b, 0]))
        assert torch.equal(embedded.fields[b, slot], both[:4])
        assert torch.equal(embedded.second[b, slot], both[4:8])
        if embedded.linear is not None:
            assert torch.equal(embedded.linear[b, slot], both[8])


def test_storages_give_equal_gradients() -> None:
    """SGD by hand on dense and sparse gradients, SGD fused: the same table after a step."""
    batch, tables = make_batch(), []
    for make in (
        DenseStorage,
        SparseStorage,
        lambda rows, width: FusedStorage(rows, width, optimizer="sgd", lr=0.1),
    ):
        torch.manual_seed(0)
        options = EmbeddingOptions(dim=4, init_std=1.0)
        lookup = EmbeddingLookup(make_schema(), options, make, pool_histories=False)
        embedded = lookup(batch)
        loss = (embedded.fields**2).sum() + (embedded.history["past"].values ** 3).sum()
        loss.backward()
        if isinstance(lookup.storage, DenseStorage):
            with torch.no_grad():
                lookup.storage.weight -= 0.1 * lookup.storage.weight.grad.to_dense()
        tables.append(lookup.storage.table().clone())
    torch.testing.assert_close(tables[0], tables[1])
    torch.testing.assert_close(tables[0], tables[2])


def test_numbers_can_stay_dense() -> None:
    lookup = build(numeric="dense")
    batch = make_batch()
    embedded = lookup(batch)
    assert lookup.plan.num_dense == 2
    assert torch.equal(embedded.dense, batch.dense)
    assert lookup.plan.names == ("past", "user", "item", "tags")


def test_slots_follow_the_schema() -> None:
    assert build().plan.names == ("past", "user", "price", "item", "tags", "age")
    assert list(build("unified").plan.names) == [
        "past.0", "past.1", "past.2", "user", "price", "item.0", "item.1", "item.2", "tags", "age",
    ]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("storage", STORAGES)
def test_state_by_table_name_round_trips(layout: str, storage: str) -> None:
    lookup = build(layout, storage)
    state = {name: tensor.clone() for name, tensor in lookup.tables_state().items()}
    other = build(layout, storage)
    other.storage.initialize(1.0)
    other.load_tables_state(state)
    batch = make_batch()
    other.numeric.data.copy_(lookup.numeric)
    assert torch.equal(lookup(batch).fields, other(batch).fields)
    if layout == "full":
        assert {name.split(".")[0] for name in state} == {"user", "item", "tags"}


def test_a_state_of_other_tables_is_refused() -> None:
    lookup = build()
    state = dict(lookup.tables_state())
    state["shop.weight"] = state.pop("user.weight")
    with pytest.raises(KeyError, match=r"missing \['user.weight'\], unexpected \['shop.weight'\]"):
        lookup.load_tables_state(state)
    state = dict(lookup.tables_state())
    state["user.weight"] = state["user.weight"][:3]
    with pytest.raises(ValueError, match=r"user.weight is \[3, 4\]"):
        lookup.load_tables_state(state)


@pytest.mark.parametrize("code", [-1, 30, 70000])
def test_ids_out_of_range_name_field_and_remedy(code: int) -> None:
    lookup, batch = build(), make_batch()
    batch.ids[3, 1] = code
    with pytest.raises(SchemaError, match=rf'field "item" has id {code} .*\[0, 30\).*rebuild'):
        lookup(batch)


def test_a_history_without_target_field_is_refused() -> None:
    field = Field(name="past", kind="history", encoding="vocabulary", size=9)
    schema = Schema(fields=(field,), labels=("y",))
    options = EmbeddingOptions(dim=4)
    EmbeddingLookup(schema, options, DenseStorage)
    with pytest.raises(SchemaError, match=r'history "past" has no target.*shares'):
        EmbeddingLookup(schema, options, DenseStorage, pool_histories=False)


def test_field_vectors_are_the_tokens_in_code_order() -> None:
    lookup = build("unified")
    vectors = lookup.field_vectors("item")
    assert vectors.shape == (27, 12)
    expected = torch.cat([vector(lookup, "item", 3, k) for k in range(3)])
    torch.testing.assert_close(vectors[0], expected)


def test_memory_counts_weights_state_and_serving_copy() -> None:
    lookup = build("full", "fused")
    rows = lookup.layout.num_rows
    assert lookup.memory() == {"weights": rows * 16, "optimizer": rows * 4, "serving": rows * 16}
    lookup = build("full", "dense")
    assert lookup.memory(optimizer_floats=2)["optimizer"] == rows * 32


def test_options_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"embedding\.dim=0"):
        EmbeddingOptions(dim=0)
    with pytest.raises(ConfigError, match="Did you mean vector"):
        EmbeddingOptions(numeric="vectors")


def test_tables_larger_than_memory_are_refused_with_a_ratio_that_fits() -> None:
    check_memory(1000, "full", available=1000)
    with pytest.raises(
        ConfigError, match=r"need 40\.0 GiB and 10\.0 GiB.*multiplexed.*ratio=0\.062"
    ):
        check_memory(40 * 2**30, "full", available=10 * 2**30)
    with pytest.raises(ConfigError, match=r"Use embedding\.ratio"):
        check_memory(40 * 2**30, "hashed", available=10 * 2**30)
