"""The map of ids to rows against a slow reference that searches for everything."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.schema import NUM_RESERVED, UNSEEN
from recsys.embedding import id_map
from recsys.embedding.id_map import EVICTIONS, IdMap, search


class Reference:
    """One record per id; what to evict is looked for among all of them."""

    def __init__(self, capacity: int, min_count: int, evict: str) -> None:
        self.capacity, self.min_count, self.evict = capacity, min_count, evict
        self.rows: dict[int, dict[str, int]] = {}
        self.ring: list[list[int] | None] = [None] * (capacity if min_count > 1 else 0)
        self.hand = self.clock = self.evicted = 0

    def find(self, ids: list[int]) -> list[int]:
        known = {i: one["row"] + NUM_RESERVED for i, one in self.rows.items()}
        return [known.get(i, UNSEEN) if i >= NUM_RESERVED else max(i, -1) % 3 for i in ids]

    def key(self, one: dict[str, int]) -> tuple[int, int]:
        counted = self.evict in ("least_frequent", "fading")
        return one["count"].bit_length() if counted else 0, one["last"]

    def first_to_go(self, one: dict[str, int]) -> tuple[float, ...]:
        times, last = self.key(one)
        if self.evict != "fading":
            return times, last
        return -(self.clock - last) / 2.0**times, times

    def use(self, one: dict[str, int], began: int) -> None:
        before = self.key(one)[0]
        one["count"] += 1
        if one["last"] <= began or self.key(one)[0] != before:
            self.clock += 1
            one["last"] = self.clock

    def free_row(self, began: int) -> int | None:
        if len(self.rows) < self.capacity:
            return len(self.rows)
        allowed = [i for i, one in self.rows.items() if one["last"] <= began]
        if self.evict == "never" or not allowed:
            return None
        self.evicted += 1
        return self.rows.pop(min(allowed, key=lambda i: self.first_to_go(self.rows[i])))["row"]

    def waiting(self, id_: int) -> list[int] | None:
        return next((one for one in self.ring if one is not None and one[0] == id_), None)

    def admit(self, ids: list[int]) -> tuple[list[int], list[int]]:
        began, fresh = self.clock, []
        new = [i for i in ids if i >= NUM_RESERVED and i not in self.rows]
        for i in ids:
            if i in self.rows:
                self.use(self.rows[i], began)
            elif i >= NUM_RESERVED and self.ring:
                if (found := self.waiting(i)) is not None:
                    found[1] += 1
                else:
                    self.ring[self.hand] = [i, 1]
                    self.hand = (self.hand + 1) % len(self.ring)
        results: dict[int, list[int]] = {}
        for i in new:
            if i in self.rows:
                if not self.ring:
                    self.use(self.rows[i], began)
            else:
                found = self.waiting(i)
                uses = 1 if not self.ring else found[1] if found else 0
                row = self.free_row(began) if uses >= self.min_count else None
                if row is not None:
                    if found is not None:
                        self.ring[self.ring.index(found)] = None
                    self.clock += 1
                    self.rows[i] = {"row": row, "count": uses, "last": self.clock}
                    fresh.append(row)
            results.setdefault(i, []).append(self.find([i])[0])
        codes = self.find(ids)
        return [
            results[i].pop(0) if i in results else c for i, c in zip(ids, codes, strict=True)
        ], fresh


BATCHES = st.lists(st.lists(st.integers(-1, 40), max_size=14), max_size=25)


@pytest.fixture(params=["native", "plain"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(id_map, "id_map_kernel", lambda: None)
    elif id_map.id_map_kernel() is None:
        pytest.skip("no C++ compiler")
    return str(request.param)


def check(batches: list[list[int]], capacity: int, min_count: int, evict: str) -> None:
    mine, slow = IdMap(capacity, min_count, evict), Reference(capacity, min_count, evict)
    everything = list(range(-1, 41))
    for number, batch in enumerate(batches):
        codes, fresh = mine.admit(torch.tensor(batch, dtype=torch.int64))
        assert (codes.tolist(), fresh.tolist()) == slow.admit(batch), (number, batch)
        assert mine.find(torch.tensor(everything)).tolist() == slow.find(everything)
        assert (mine.num_rows_used, mine.num_evicted) == (len(slow.rows), slow.evicted)
        found = search(torch.tensor(everything), *mine.sorted())
        assert found.tolist() == slow.find(everything)
        if number % 3 == 2:  # what is not state is made again, as after a checkpoint
            copy = IdMap(capacity, min_count, evict)
            for name, tensor in copy.state().items():
                tensor.copy_(mine.state()[name])
            copy.rebuild()
            mine = copy


@settings(max_examples=150, deadline=None)
@given(BATCHES, st.integers(1, 12), st.integers(1, 4), st.sampled_from(EVICTIONS))
def test_any_stream_against_the_reference(
    batches: list[list[int]], capacity: int, min_count: int, evict: str
) -> None:
    check(batches, capacity, min_count, evict)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("evict", EVICTIONS)
@pytest.mark.parametrize("min_count", [1, 3])
def test_long_streams_against_the_reference(evict: str, min_count: int) -> None:
    generator = torch.Generator().manual_seed(min_count)
    batches = [
        (torch.rand(12, generator=generator) ** 2 * 20 + 3 + day // 8).long().tolist()
        for day in range(160)
    ]
    check(batches, 9, min_count, evict)


def test_large_ids_and_a_crowded_index_lose_nothing() -> None:
    ids = torch.randint(2**62, 2**63 - 1, (20_000,), generator=torch.Generator().manual_seed(0))
    mine = IdMap(20_000)
    codes, fresh = mine.admit(ids)
    assert fresh.tolist() == list(range(20_000))
    assert torch.equal(codes, fresh + NUM_RESERVED)
    assert torch.equal(mine.find(ids.flip(0)), codes.flip(0))
    assert (mine.find(ids ^ 1) == UNSEEN).all()
    shape = ids[:6].view(2, 3)
    assert mine.find(shape).shape == shape.shape
    mine.admit(ids ^ 1)  # every row changes hands
    assert (mine.find(ids) == UNSEEN).all()
    assert mine.num_evicted == 20_000
    assert (mine.generations == 2).all()


def test_a_batch_with_more_ids_than_rows_leaves_the_last_ones_without() -> None:
    mine = IdMap(2)
    assert mine.admit(torch.tensor([10, 11, 12, 10, 12]))[0].tolist() == [3, 4, 2, 3, 2]
    assert mine.admit(torch.tensor([11, 12, 13]))[0].tolist() == [4, 3, 2]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("name", "at", "value"),
    [("ids", 0, 0), ("ids", 1, 50), ("progress", 1, 9), ("counts", 0, 0), ("last", 0, 99)],
)
def test_a_damaged_state_is_noticed(name: str, at: int, value: int) -> None:
    mine = IdMap(4)
    mine.admit(torch.tensor([50, 51]))
    mine.rebuild()
    mine.state()[name][at] = value
    with pytest.raises(ValueError, match="damaged"):
        mine.rebuild()


@pytest.mark.parametrize("wrong", [{"capacity": 0}, {"capacity": 2**31}, {"min_count": 0}])
def test_impossible_maps_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"capacity|min_count"):
        IdMap(**{"capacity": 3, **wrong})
