"""Layouts: every code has a row, padding has row 0, salts depend on names alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.schema import Field, Schema
from recsys.embedding.layout import LAYOUTS, Layout, TableSpec, lookups_by_size, mix64, table_specs
from recsys.errors import ConfigError

TABLES = (TableSpec("user", 50), TableSpec("item", 1000), TableSpec("hour", 27))


def reference_mix64(value: int) -> int:
    """splitmix64 with Python's unbounded integers."""
    mask = (1 << 64) - 1
    z = (value + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return z - (1 << 64) if z >> 63 else z


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_mix64_equals_the_integer_reference(values: list[int]) -> None:
    assert mix64(torch.tensor(values)).tolist() == [reference_mix64(v) for v in values]


def test_full_gives_every_code_its_own_row() -> None:
    layout = Layout.build("full", TABLES)
    rows = [layout.rows_of(torch.arange(1, t.size), t.name) for t in TABLES]
    flat = torch.cat(rows)
    assert flat.sort().values.tolist() == list(range(1, layout.num_rows))


@pytest.mark.parametrize("name", LAYOUTS)
def test_padding_is_row_zero_and_nothing_else_is(name: str) -> None:
    layout = Layout.build(name, TABLES, ratio=0.1)
    for table in TABLES:
        rows = layout.rows_of(torch.arange(table.size), table.name)
        assert rows[0] == 0
        assert rows[1:].min() >= 1
        assert rows.max() < layout.num_rows


@pytest.mark.parametrize("name", LAYOUTS)
def test_matrix_and_single_field_paths_agree(name: str) -> None:
    tables = TABLES
    if name == "unified":
        tables = (TableSpec("user", 50, 2), TableSpec("item", 1000, 3), TableSpec("hour", 27))
    layout = Layout.build(name, tables, ratio=0.5)
    generator = torch.Generator().manual_seed(0)
    names = ["item", "user", "hour"]
    codes = torch.stack(
        [torch.randint(0, layout.table(n).size, (40,), generator=generator) for n in names], 1
    )
    expected = [
        layout.rows_of(codes[:, i], n, k)
        for i, n in enumerate(names)
        for k in range(layout.table(n).lookups)
    ]
    assert torch.equal(layout.rows(codes.int(), names), torch.stack(expected, 1))


def test_adding_or_moving_a_field_keeps_the_rows_of_the_others() -> None:
    before = Layout.build("multiplexed", TABLES)
    sizes = sum(t.size - 1 for t in TABLES)
    more = (TableSpec("new", 100), *reversed(TABLES))
    after = Layout.build("multiplexed", more, ratio=sizes / (sizes + 99))
    assert after.num_rows == before.num_rows
    codes = torch.arange(50)
    assert torch.equal(before.rows_of(codes, "user"), after.rows_of(codes, "user"))


def test_fields_and_lookups_hash_independently() -> None:
    layout = Layout.build("unified", (TableSpec("a", 2000, 2), TableSpec("b", 2000)), ratio=0.1)
    codes = torch.arange(1, 2000)
    draws = [
        layout.rows_of(codes, "a", 0),
        layout.rows_of(codes, "a", 1),
        layout.rows_of(codes, "b"),
    ]
    expected = 1999 / (layout.num_rows - 1)
    for i in range(3):
        for j in range(i):
            same = (draws[i] == draws[j]).sum().item()
            assert abs(same - expected) < 6 * expected**0.5


def test_hashing_is_uniform() -> None:
    layout = Layout.build("hashed", (TableSpec("a", 100_001),), ratio=0.001)
    counts = torch.bincount(layout.rows_of(torch.arange(1, 100_001), "a"), minlength=101)[1:]
    chi_square = ((counts - 1000.0) ** 2 / 1000.0).sum().item()
    assert chi_square < 99 + 6 * (2 * 99) ** 0.5


def test_lookups_grow_with_the_vocabulary() -> None:
    def field(name: str, size: int) -> Field:
        return Field(name=name, kind="categorical", encoding="vocabulary", size=size)

    schema = Schema(fields=(field("a", 10), field("b", 1000), field("c", 100_000)), labels=("y",))
    assert lookups_by_size(schema, 3) == {"a": 1, "b": 2, "c": 3}
    assert [t.lookups for t in table_specs(schema, {"c": 3})] == [1, 1, 3]


def test_errors_name_the_key_and_the_remedy() -> None:
    with pytest.raises(ConfigError, match="Did you mean multiplexed"):
        Layout.build("multiplex", TABLES)
    with pytest.raises(ConfigError, match=r"embedding\.ratio=0"):
        Layout.build("hashed", TABLES, ratio=0)
    with pytest.raises(ConfigError, match="embedding=unified"):
        Layout.build("full", (TableSpec("a", 9, 2),))
