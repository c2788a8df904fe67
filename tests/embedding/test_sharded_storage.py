"""Sharded storage on a group of one: the plain storage's answers, one by one.

What two processes do is in `tests/training/test_sharded_training.py`.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.embedding.layout import LAYOUTS, TableRange
from recsys.embedding.lookup import EmbeddingLookup, EmbeddingOptions
from recsys.embedding.sharded_storage import Sharding, normal_at
from recsys.embedding.storage import SparseStorage
from recsys.errors import ConfigError, SchemaError
from recsys.training.ranks import Ranks
from tests.embedding.test_lookup import make_batch, make_schema

CPU = torch.device("cpu")
MIXED = {"item": "data_parallel", "user": "row_wise"}


@pytest.fixture(autouse=True, scope="module")
def group() -> Iterator[None]:
    ranks = Ranks.join(CPU, needs_group=True)
    yield
    ranks.leave()


def make_sharding(kind: str | dict[str, str], optimizer: str = "sgd", lr: float = 0.1) -> Sharding:
    return Sharding(kind, optimizer, lr, 1e-8, CPU, 8)


def make_pair(
    kind: str | dict[str, str], layout: str = "full", pool: bool = True, linear: bool = False
) -> tuple[EmbeddingLookup, EmbeddingLookup]:
    """A sharded lookup and a plain one with its weights."""
    torch.manual_seed(0)
    options = EmbeddingOptions(
        layout=layout, dim=6, lookups=2 if layout == "unified" else 1, init_std=1.0,
        ratio=1.0 if layout == "full" else 0.5,
    )  # fmt: skip
    keys = {"pool_histories": pool, "linear": linear}
    plain = EmbeddingLookup(make_schema(), options, SparseStorage, **keys)
    sharded = EmbeddingLookup(make_schema(), options, make_sharding(kind), **keys)
    sharded.load_tables_state(plain.tables_state())
    with torch.no_grad():
        sharded.numeric.copy_(plain.numeric)
    return sharded, plain


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("linear", [True, False])
def test_reads_what_a_plain_storage_reads(layout: str, pool: bool, linear: bool) -> None:
    sharded, plain = make_pair("row_wise", layout, pool, linear)
    for seed in range(2):
        found, expected = sharded(make_batch(seed=seed)), plain(make_batch(seed=seed))
        torch.testing.assert_close(found.fields, expected.fields)
        torch.testing.assert_close(found.linear, expected.linear)
        for name, history in expected.history.items():
            torch.testing.assert_close(found.history[name].values, history.values)
            torch.testing.assert_close(found.target[name], expected.target[name])


@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize(
    "kind",
    ["table_wise", "column_wise", MIXED, {"item": "row_wise", "tags": "data_parallel"}],
    ids=str,
)
def test_trains_as_a_plain_storage(kind: str | dict[str, str], pool: bool) -> None:
    sharded, plain = make_pair(kind, pool=pool)
    batch = make_batch()
    for lookup in (sharded, plain):
        embedded = lookup(batch)
        loss = embedded.fields.square().sum()
        for history in embedded.history.values():
            loss = loss + history.values.square().sum()
        loss.backward()
    with torch.no_grad():
        plain.storage.weight -= 0.1 * plain.storage.weight.grad.to_dense()
        replicated = sharded.storage.local_part()
        if replicated is not None:
            replicated.weight -= 0.1 * replicated.weight.grad.to_dense()
    for name, part, _ in sharded.storage.local_parts():
        expected = plain.tables_state()[name]
        first = _[1]
        torch.testing.assert_close(part[:, : 6 - first], expected[:, first : first + part.shape[1]])


def test_padding_is_a_zero_vector() -> None:
    for kind in ("row_wise", MIXED):
        for pool in (True, False):
            sharded, _ = make_pair(kind, pool=pool)
            batch = make_batch()
            batch.ids[1, 0] = batch.ids[2, 1] = 0
            batch.ragged["past"].values[0] = 0
            embedded = sharded(batch)
            user, item = (sharded.plan.names.index(name) for name in ("user", "item"))
            assert not embedded.fields[1, user].any()
            assert not embedded.fields[2, item].any()
            assert embedded.fields[0, user].any()


def test_a_batch_without_rows() -> None:
    sharded, _ = make_pair("row_wise", pool=False)
    whole = make_batch()
    empty = Batch(
        whole.ids[:0], whole.dense[:0], whole.label[:0],
        {name: type(one)(one.values[:0], one.offsets[:1]) for name, one in whole.ragged.items()},
    )  # fmt: skip
    assert sharded(empty).fields.shape == (0, sharded.plan.num_fields, 6)


@pytest.mark.parametrize(("column", "name"), [("ids", "user"), ("past", "past"), ("tags", "tags")])
def test_an_id_outside_its_table_is_an_error_not_row_0(column: str, name: str) -> None:
    sharded, _ = make_pair("row_wise")
    batch = make_batch()
    if column == "ids":
        batch.ids[0, 0] = 10
    else:
        batch.ragged[column].values[0] = 1000
    with pytest.raises(SchemaError, match=f'field "{name}" has id'):
        sharded(batch)


def test_weights_start_by_width_and_the_same_however_they_are_split() -> None:
    found: list[dict[str, Tensor]] = []
    for kind in ("row_wise", "table_wise", {"b": "data_parallel"}):
        torch.manual_seed(3)
        storage = make_sharding(kind)(4011, 4)
        storage.arrange([TableRange("a", 1, 10), TableRange("b", 11, 4000)], ["a", "b"], [], [])
        storage.initialize(0.5)
        found.append({name: part.clone() for name, part, _ in storage.local_parts()})
        after = torch.rand(())
    for other in found[1:]:
        for name, part in found[0].items():
            assert torch.equal(part, other[name]), name
    assert found[0]["b.weight"].std() == pytest.approx(0.5, rel=0.05)
    torch.manual_seed(3)
    torch.randint(2**62, ())
    assert torch.equal(torch.rand(()), after)  # TorchRec's own draws are undone


def test_normal_numbers_are_normal() -> None:
    numbers = normal_at(torch.arange(50_000), torch.arange(4), key=7).double()
    assert abs(float(numbers.mean())) < 0.01
    assert float(numbers.var()) == pytest.approx(1, rel=0.02)
    assert float((numbers**4).mean()) == pytest.approx(3, rel=0.05)
    assert abs(float((numbers[1:] * numbers[:-1]).mean())) < 0.01
    assert abs(float((numbers[:, 1:] * numbers[:, :-1]).mean())) < 0.01


def test_the_learning_rate_reaches_the_kernels() -> None:
    sharded, _ = make_pair("row_wise")
    sharded.storage.set_learning_rate(0.0)
    before = {name: part.clone() for name, part, _ in sharded.storage.local_parts()}
    sharded(make_batch()).fields.sum().backward()
    for name, part, _ in sharded.storage.local_parts():
        assert torch.equal(part, before[name])


def test_optimisers_that_move_rows_later_are_refused() -> None:
    for name in ("adam", "lazy_adam"):
        with pytest.raises(ConfigError, match=r"sgd, adagrad or rowwise_adagrad.*data_parallel"):
            make_sharding("row_wise", name)


def test_the_plan_says_where_every_table_lies() -> None:
    sharded, _ = make_pair({"user": "data_parallel", "tags": "table_wise"})
    placed = {one.table: one for one in sharded.storage.placement}
    assert list(placed) == ["user", "item", "tags"]
    assert placed["user"].sharding == "data_parallel"
    assert placed["tags"].sharding == "table_wise"
    assert placed["tags"].parts == ((7, 8),)
    assert placed["tags"].mebibytes == pytest.approx(7 * 8 * 4 / 2**20)


def test_whole_tables_are_nowhere() -> None:
    sharded, _ = make_pair("row_wise")
    assert sharded.tables_state() == {}
    with pytest.raises(NotImplementedError, match="no process holds"):
        sharded.storage.table()


@pytest.mark.parametrize("sequences", [[], ["geo.country"]])
def test_names_of_columns_may_have_dots(sequences: list[str]) -> None:
    storage = make_sharding("row_wise", "adagrad")(13, 4)
    tables = [TableRange("geo.country", 1, 5), TableRange("geo", 6, 7)]
    storage.arrange(tables, ["geo.country", "geo"], [], sequences)
    storage.initialize(1.0)
    names = ["geo.country", "geo"]
    assert set(storage.parts()) == {
        f"{name}.{what}" for name in names for what in ("weight", "sum_of_squares")
    }
    assert [one.table for one in storage.placement] == names
    reads = [torch.tensor([1, 2, 3])] * len(sequences)
    found, _, _ = storage.read(torch.tensor([[1, 6], [5, 12]]), [], reads)
    parts = {name: part for name, part, _ in storage.local_parts()}
    assert torch.equal(found[1, 0], parts["geo.country.weight"][4])
    assert torch.equal(found[1, 1], parts["geo.weight"][6])
