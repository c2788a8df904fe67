"""The loader: every row once, the same batches for any number of ranks, exact continuation."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.batch import Batch
from recsys.data.encode import EncodedTable
from recsys.data.loader import BLOCKS_PER_WINDOW, Loader, Order
from recsys.data.schema import Field, Schema
from recsys.data.store import Store, StoreWriter
from recsys.errors import CheckpointError, ConfigError

ROWS = 1000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Row r has the codes (r, 2 r), r % 4 events all equal to r, and label r % 2."""
    schema = Schema(
        (
            Field(name="a", kind="categorical", encoding="vocabulary", size=ROWS),
            Field(name="b", kind="categorical", encoding="vocabulary", size=2 * ROWS),
            Field(name="seen", kind="history", encoding="vocabulary", size=ROWS),
        ),
        ("click",),
    )
    row = np.arange(ROWS, dtype=np.int32)
    lengths = row % 4
    table = EncodedTable(
        ids=np.stack([row, 2 * row], axis=1),
        dense=np.empty((ROWS, 0), np.float32),
        ragged={"seen": (np.repeat(row, lengths), np.r_[0, np.cumsum(lengths)].astype(np.int64))},
        label=(row % 2).astype(np.float32),
    )
    folder: Path = tmp_path_factory.mktemp("loader") / "store"
    with StoreWriter(folder, schema, digest="d1", files=[("rows", ROWS)]) as writer:
        writer.append(table)
    return Store.open(folder)


class Fake:
    """A store that counts what it is asked for and can fail at a batch."""

    def __init__(self, num_rows: int, fail_at: int | None = None) -> None:
        self.num_rows = num_rows
        self.digest = "fake"
        self.fail_at = fail_at
        self.gathered = 0
        self.used = 0
        self.most_ahead = 0
        self.announced = np.empty((0, 2), np.int64)

    def will_need(self, starts: np.ndarray, stops: np.ndarray) -> None:
        self.announced = np.vstack([self.announced, np.stack([starts, stops], axis=1)])

    def gather(self, rows: np.ndarray) -> Batch:
        if self.gathered == self.fail_at:
            raise OSError("the disk is gone")
        self.gathered += 1
        self.most_ahead = max(self.most_ahead, self.gathered - self.used)
        row = torch.from_numpy(rows)
        return Batch(row[:, None], torch.empty(len(rows), 0), row.float(), row=row)


def rows_of(loader: Loader) -> list[list[int]]:
    return [batch.row.tolist() for batch in loader]


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "recsys-loader"]


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("prefetch", [0, 1, 5])
@pytest.mark.parametrize("shuffle_rows", [64, 300, 5000])
def test_every_row_comes_once_with_its_own_values(
    store: Store, shuffle: bool, prefetch: int, shuffle_rows: int
) -> None:
    loader = Loader(store, 96, shuffle=shuffle, prefetch=prefetch, shuffle_rows=shuffle_rows)
    batches = list(loader)
    assert len(batches) == len(loader) == 11
    assert [len(b) for b in batches] == [96] * 10 + [40]
    rows = torch.cat([b.row for b in batches])
    assert sorted(rows.tolist()) == list(range(ROWS))
    assert (rows.tolist() == list(range(ROWS))) is not shuffle
    for batch in batches:
        assert torch.equal(batch.ids, torch.stack([batch.row, 2 * batch.row], 1).int())
        assert torch.equal(batch.label, (batch.row % 2).float())
        assert torch.equal(batch.ragged["seen"].lengths, batch.row % 4)
        expected = torch.repeat_interleave(batch.row, batch.row % 4)
        assert torch.equal(batch.ragged["seen"].values.long(), expected)


def test_order_depends_on_seed_and_epoch_alone(store: Store) -> None:
    def order(seed: int, epoch: int, **keys: int) -> list[int]:
        loader = Loader(store, keys.pop("batch_size", 100), shuffle=True, seed=seed, **keys)
        loader.set_epoch(epoch)
        return list(itertools.chain(*rows_of(loader)))

    reference = order(3, 1)
    assert order(3, 1, prefetch=0) == reference
    assert order(3, 1, batch_size=7) == reference
    assert order(3, 2) != reference
    assert order(4, 1) != reference


def test_order_is_fixed_for_good() -> None:
    # Written down once: a change would break every checkpoint that stops within an epoch.
    assert Order(12, 12, (0, 0)).rows(0, 12).tolist() == [7, 6, 4, 5, 3, 9, 1, 0, 2, 8, 10, 11]
    assert Order(12, 4, (7, 3)).rows(0, 12).tolist() == [2, 11, 10, 4, 3, 5, 1, 7, 6, 0, 9, 8]


@pytest.mark.parametrize("world_size", [2, 3, 7])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("drop_last", [False, True])
def test_ranks_share_the_batches_of_one_process(
    store: Store, world_size: int, shuffle: bool, drop_last: bool
) -> None:
    keys = {"shuffle": shuffle, "seed": 5, "drop_last": drop_last}
    whole = rows_of(Loader(store, 99, **keys))
    parts = [
        rows_of(Loader(store, 99, rank=rank, world_size=world_size, **keys))
        for rank in range(world_size)
    ]
    assert {len(part) for part in parts} == {len(whole)}
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts]
        assert list(itertools.chain(*shares)) == batch
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_short_last_batch_can_leave_a_rank_without_rows() -> None:
    loaders = [Loader(Fake(5), 4, shuffle=False, rank=r, world_size=2) for r in range(2)]
    assert [rows_of(loader) for loader in loaders] == [[[0, 1], []], [[2, 3], [4]]]


def test_drop_last_leaves_out_the_short_batch(store: Store) -> None:
    loader = Loader(store, 300, shuffle=False, drop_last=True)
    assert [len(batch) for batch in loader] == [300] * 3 == [300] * len(loader)
    assert len(Loader(store, 250, shuffle=False, drop_last=True)) == 4


@pytest.mark.parametrize("stop", [0, 1, 4, 10, 11])
@pytest.mark.parametrize("shuffle_rows", [128, 5000])
@pytest.mark.parametrize("prefetch", [0, 3])
def test_resumes_where_it_stopped(
    store: Store, stop: int, shuffle_rows: int, prefetch: int
) -> None:
    def make() -> Loader:
        return Loader(store, 96, shuffle=True, seed=1, shuffle_rows=shuffle_rows, prefetch=prefetch)

    loader = make()
    loader.set_epoch(2)
    whole = rows_of(loader)

    loader = make()
    loader.set_epoch(2)
    before = [batch.row.tolist() for batch in itertools.islice(loader, stop)]
    state = loader.state()
    assert (state["epoch"], state["step"]) == (2, stop)

    resumed = make()
    resumed.load_state(state)
    resumed.set_epoch(2)  # as the training loop does at the start of each epoch
    assert before + rows_of(resumed) == whole
    assert resumed.state()["step"] == len(resumed)
    assert rows_of(resumed) == whole  # the position held once


def test_resumes_with_another_number_of_ranks(store: Store) -> None:
    whole = rows_of(Loader(store, 100, shuffle=True))
    first = Loader(store, 100, shuffle=True)
    list(itertools.islice(first, 3))
    second = [Loader(store, 100, shuffle=True, rank=r, world_size=2) for r in range(2)]
    for loader in second:
        loader.load_state(first.state())
    left, right = (rows_of(loader) for loader in second)
    assert [a + b for a, b in zip(left, right, strict=True)] == whole[3:]


def test_a_new_epoch_forgets_the_position(store: Store) -> None:
    loader = Loader(store, 96, shuffle=True)
    list(itertools.islice(loader, 4))
    again = Loader(store, 96, shuffle=True)
    again.load_state(loader.state())
    again.set_epoch(1)
    assert again.state()["step"] == 0
    assert len(rows_of(again)) == 11


def test_looking_at_the_first_batch_loses_nothing(store: Store) -> None:
    loader = Loader(store, 96, shuffle=True)
    first = next(iter(loader)).row.tolist()
    assert rows_of(loader)[0] == first


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"batch_size": 50}, "batch_size was 100 and is 50"),
        ({"seed": 9}, "seed was 0 and is 9"),
        ({"shuffle": False}, "shuffle was True and is False"),
        ({"shuffle_rows": 10}, "shuffle_rows was 4194304 and is 10"),
    ],
)
def test_a_position_of_other_settings_is_refused(store: Store, change: dict, told: str) -> None:
    state = Loader(store, 100, shuffle=True).state()
    other = Loader(store, **({"batch_size": 100, "shuffle": True} | change))
    with pytest.raises(CheckpointError, match=told):
        other.load_state(state)


def test_a_position_in_other_rows_is_refused(store: Store) -> None:
    state = Loader(store, 100, shuffle=True).state()
    with pytest.raises(CheckpointError, match="digest was 'd1' and is 'fake'"):
        Loader(Fake(ROWS), 100, shuffle=True).load_state(state)


@pytest.mark.parametrize("step", [-1, 12, "4", None])
def test_a_damaged_position_is_refused(store: Store, step: object) -> None:
    loader = Loader(store, 96, shuffle=True)
    with pytest.raises(CheckpointError, match="an epoch here has 11 steps"):
        loader.load_state(loader.state() | {"step": step})


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"prefetch": -1}, "prefetch is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"shuffle_rows": 0}, "shuffle_rows is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2"),
        ({"batch_size": 2, "world_size": 4}, "at least 4"),
        ({"batch_size": 5000, "drop_last": True}, "drop_last=true leaves nothing"),
    ],
)
def test_bad_settings_are_refused(store: Store, keys: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Loader(store, **({"batch_size": 10, "shuffle": True} | keys))


def test_stopping_early_ends_the_thread(store: Store) -> None:
    for take in (1, 3):
        iterator = iter(Loader(store, 10, shuffle=True, prefetch=2))
        for _ in range(take):
            next(iterator)
        assert len(loader_threads()) == 1
        iterator.close()
        assert loader_threads() == []


def test_finishing_ends_the_thread(store: Store) -> None:
    for _ in Loader(store, 10, shuffle=True, prefetch=2):
        pass
    assert loader_threads() == []


def test_an_error_of_the_consumer_ends_the_thread(store: Store) -> None:
    def train() -> None:
        for _ in Loader(store, 10, shuffle=True, prefetch=2):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train()
    assert loader_threads() == []


@pytest.mark.parametrize("prefetch", [0, 2])
def test_an_error_while_reading_reaches_the_consumer(prefetch: int) -> None:
    loader = Loader(Fake(100, fail_at=3), 10, shuffle=False, prefetch=prefetch)
    seen = []
    with pytest.raises(OSError, match="the disk is gone") as caught:
        seen.extend(batch.row for batch in loader)
    assert seen == [] or len(seen) == 3
    assert "gather" in [entry.name for entry in caught.traceback]  # where it happened
    assert loader.state()["step"] == 3
    assert loader_threads() == []


def test_reads_no_further_ahead_than_asked() -> None:
    store = Fake(1000)
    for _ in Loader(store, 10, shuffle=False, prefetch=3):
        store.used += 1
    # Three may wait while one is in the consumer's hands.
    assert 1 <= store.most_ahead <= 4


@settings(max_examples=60, deadline=None)
@given(
    num_rows=st.integers(0, 3000),
    shuffle_rows=st.integers(1, 4000),
    cuts=st.lists(st.integers(0, 3000), max_size=6),
)
def test_order_is_a_permutation_readable_in_any_pieces(
    num_rows: int, shuffle_rows: int, cuts: list[int]
) -> None:
    order = Order(num_rows, shuffle_rows, (1, 2))
    whole = order.rows(0, num_rows)
    assert whole.dtype == np.int64
    assert np.array_equal(np.sort(whole), np.arange(num_rows))
    edges = sorted({0, num_rows, *(cut for cut in cuts if cut < num_rows)})
    pieces = [
        Order(num_rows, shuffle_rows, (1, 2)).rows(a, b) for a, b in itertools.pairwise(edges)
    ]
    assert np.array_equal(np.concatenate([np.empty(0, np.int64), *pieces]), whole)


def test_blocks_are_announced_once_each_and_cover_the_store() -> None:
    store = Fake(5000)
    list(Loader(store, 100, shuffle=True, shuffle_rows=1024))
    blocks = store.announced[np.argsort(store.announced[:, 0])]
    assert blocks[0, 0] == 0
    assert blocks[-1, 1] == 5000
    assert np.array_equal(blocks[1:, 0], blocks[:-1, 1])


def test_a_store_takes_the_hint(store: Store) -> None:
    store.will_need(np.array([0, 500, 7]), np.array([10, ROWS, 7]))
    assert store.gather(np.array([999])).ids.tolist() == [[999, 1998]]


def test_windows_are_bounded_and_made_of_blocks_from_everywhere() -> None:
    num_rows, shuffle_rows = 100_000, 10_240
    order = Order(num_rows, shuffle_rows, (0, 0))
    sizes = np.diff(order.window_starts)
    assert sizes.max() <= shuffle_rows
    assert sizes.sum() == num_rows
    block = shuffle_rows // BLOCKS_PER_WINDOW
    window = order.rows(0, int(sizes[0]))
    blocks = np.unique(window // block)
    assert len(blocks) == BLOCKS_PER_WINDOW  # so the disk is read block by block
    assert blocks.max() - blocks.min() > 0.9 * num_rows / block
    # Inside the window, neighbours come from different blocks.
    assert np.mean(window[1:] // block == window[:-1] // block) < 0.05


def test_small_permutations_are_uniform() -> None:
    # Chi-square over the 24 orders of four rows; 44.2 is the 0.995 quantile of 23 degrees.
    counts = dict.fromkeys(itertools.permutations(range(4)), 0)
    draws = 4800
    for epoch in range(draws):
        counts[tuple(Order(4, 4, (11, epoch)).rows(0, 4).tolist())] += 1
    expected = draws / 24
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 44.2


def test_positions_are_uniform_in_windows() -> None:
    # Where row 0 of a store of two windows lands over many epochs: anywhere alike.
    at = [int(np.flatnonzero(Order(40, 20, (e, 0)).rows(0, 40) == 0)[0]) for e in range(2000)]
    counts = np.bincount(at, minlength=40)
    assert np.sum((counts - 50) ** 2 / 50) < 65.5  # 0.995 quantile of 39 degrees
