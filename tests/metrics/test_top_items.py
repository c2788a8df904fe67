"""Lists of the best items against sorting every row, by the kernel and by torch."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys import native
from recsys.data.pairs import Pairs
from recsys.errors import ConfigError, NonFiniteError, SchemaError
from recsys.metrics import top_items
from recsys.metrics.top_items import (
    TopItems,
    block_users,
    bytes_per_score,
    default_block_bytes,
    top_items_kernel,
    top_of_scores,
    top_of_vectors,
)

INF = float("inf")
SIZES = [1, 2, 7, 16, 33, 64, 65, 130, 400]


def use(way: str, patch: pytest.MonkeyPatch) -> None:
    """Make the functions take one of their paths."""
    if way == "torch":
        patch.setattr(top_items, "runs_kernel", lambda *_: False)
        return
    if way == "kernel without AVX":
        patch.setattr(native, "FLAGS", (*native.FLAGS, "-mno-avx"))
        patch.setattr(top_items, "top_items_kernel", functools.cache(top_items_kernel.__wrapped__))
    if top_items.top_items_kernel() is None:
        pytest.skip(f"no C++ compiler that builds this: {way}")


@pytest.fixture(params=["kernel", "kernel without AVX", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use(request.param, monkeypatch)
    return request.param


def draw_pairs(rng: np.random.Generator, num_users: int, num_items: int, share: float) -> Pairs:
    users, items = np.nonzero(rng.random((num_users, num_items)) < share)
    return Pairs.of(users, items, num_users, num_items)


def slow_top(scores: Tensor, users: list[int], k: int, excluded: Pairs | None) -> list[list[int]]:
    """Items by descending score, then by number; what remains of k is -1."""
    lists = []
    for row, user in enumerate(users):
        barred = set() if excluded is None else set(excluded.of_user(user).tolist())
        score = scores[row].double().tolist()
        allowed = [i for i in range(len(score)) if i not in barred and score[i] != -INF]
        best = sorted(allowed, key=lambda i: (-score[i], i))[:k]
        lists.append(best + [-1] * (k - len(best)))
    return lists


def check(top: TopItems, scores: Tensor, expected: list[list[int]]) -> None:
    assert top.items.dtype == torch.int32
    assert top.scores.dtype == torch.float32
    assert top.items.tolist() == expected
    for row, items in enumerate(expected):
        found = [float(scores[row, item]) if item >= 0 else -INF for item in items]
        assert top.scores[row].tolist() == found


@pytest.mark.parametrize("num_items", SIZES)
@pytest.mark.parametrize("kind", ["ties", "distinct", "equal", "ascending"])
def test_lists_equal_sorted_rows(num_items: int, kind: str, way: str) -> None:
    rng = np.random.default_rng(num_items)
    num_users, rows = 9, [3, 3, 0, 8, 1]
    values = {
        "ties": rng.integers(-2, 3, (len(rows), num_items)) / 2,
        "distinct": rng.normal(size=(len(rows), num_items)),
        "equal": np.full((len(rows), num_items), 0.25),
        "ascending": np.arange(len(rows) * num_items).reshape(len(rows), num_items) - 50.0,
    }[kind]
    values[rng.random(values.shape) < 0.1] = -INF
    values[rng.random(values.shape) < 0.02] = INF
    scores, users = torch.from_numpy(values).float(), torch.tensor(rows)
    before = scores.clone()
    for share in (0.0, 0.3, 0.95):
        excluded = draw_pairs(rng, num_users, num_items, share)
        for k in sorted({1, min(3, num_items), (num_items + 1) // 2, num_items}):
            expected = slow_top(scores, rows, k, excluded)
            check(top_of_scores(scores, users, k, excluded), scores, expected)
    check(top_of_scores(scores, users, 1), scores, slow_top(scores, rows, 1, None))
    assert torch.equal(scores, before)


@pytest.mark.parametrize(
    ("num_users", "num_items", "dim"),
    [(1, 1, 1), (5, 40, 3), (97, 70, 8), (130, 33, 17), (3, 9, 0)],
)
def test_products_of_whole_numbers_equal_sorted_rows(
    num_users: int, num_items: int, dim: int, way: str
) -> None:
    """Whole numbers have exact products, with many ties, in whatever order they are summed."""
    rng = np.random.default_rng(dim)
    vectors = torch.from_numpy(rng.integers(-2, 3, (num_users, dim))).float()
    items = torch.from_numpy(rng.integers(-2, 3, (num_items, dim))).float()
    excluded = draw_pairs(rng, num_users, num_items, 0.3)
    users = torch.from_numpy(rng.permutation(num_users))
    scores = vectors[users] @ items.T
    for k in sorted({1, (num_items + 1) // 2, num_items}):
        expected = slow_top(scores, users.tolist(), k, excluded)
        for block_bytes in (1, 1 << 20) if k == 1 else (10_000,):
            top = top_of_vectors(vectors, items, users, k, excluded, block_bytes)
            check(top, scores, expected)


def test_products_of_real_numbers_are_close(way: str) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors, items = (torch.randn(n, 24, generator=generator) for n in (60, 500))
    top = top_of_vectors(vectors, items, torch.arange(60), 10)
    exact = vectors.double() @ items.double().T
    found = exact.gather(1, top.items.long())
    torch.testing.assert_close(top.scores.double(), found, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, exact.topk(10).values, atol=1e-5, rtol=1e-5)


def test_kernel_does_not_depend_on_company_or_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    use("kernel", monkeypatch)
    generator = torch.Generator().manual_seed(1)
    vectors, items = (torch.randn(n, 19, generator=generator) for n in (300, 250))
    users = torch.randperm(300, generator=generator)
    together = top_of_vectors(vectors, items, torch.arange(300), 7)
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        apart = top_of_vectors(vectors, items, users, 7)
        assert torch.equal(apart.items, together.items[users])
        assert torch.equal(apart.scores, together.scores[users])
    torch.set_num_threads(before)
    alone = top_of_vectors(vectors, items, users[:1], 7)
    assert torch.equal(alone.scores, together.scores[users[:1]])
    scores = vectors @ items.T
    for threads in (1, 3):
        torch.set_num_threads(threads)
        assert torch.equal(top_of_scores(scores, torch.arange(300), 7).items, slow_items(scores, 7))
    torch.set_num_threads(before)


def slow_items(scores: Tensor, k: int) -> Tensor:
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k].int()


def test_zeros_of_both_signs_are_equal(way: str) -> None:
    scores = torch.tensor([[-0.0, 0.0, -0.0, 0.0]])
    top = top_of_scores(scores, torch.tensor([0]), 3)
    assert top.items.tolist() == [[0, 1, 2]]
    assert not torch.signbit(top.scores).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int64])
def test_other_types_are_compared_as_float32(dtype: torch.dtype, way: str) -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0]]).to(dtype)
    assert top_of_scores(scores, torch.tensor([0]), 2).items.tolist() == [[1, 2]]


def test_strides_do_not_matter(way: str) -> None:
    scores = torch.tensor([1.0, 3.0, 2.0])
    users = torch.tensor([0, 1, 2, 3])[::2]
    assert top_of_scores(scores.expand(2, 3), users, 2).items.tolist() == [[1, 2]] * 2
    wide = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    thin = top_of_vectors(wide[:, ::2], wide[:3, 1::2], users, 2)
    same = top_of_vectors(wide[:, ::2].contiguous(), wide[:3, 1::2].contiguous(), users, 2)
    assert torch.equal(thin.items, same.items)


def test_a_gradient_is_not_followed(way: str) -> None:
    vectors = torch.ones(2, 3, requires_grad=True)
    assert not top_of_vectors(vectors, vectors, torch.tensor([0]), 1).scores.requires_grad


def test_no_users_have_no_lists(way: str) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    assert top_of_scores(torch.zeros(0, 5), none, 2).items.shape == (0, 2)
    assert top_of_vectors(torch.zeros(4, 3), torch.zeros(5, 3), none, 2).items.shape == (0, 2)


@pytest.mark.parametrize("item", [0, 16, 39])
def test_a_nan_is_refused_wherever_it_is(item: int, way: str) -> None:
    scores = torch.arange(120.0).reshape(3, 40)
    scores[1, item] = scores[2, 0] = float("nan")
    everything = Pairs.of(np.full(40, 7), np.arange(40), num_users=9, num_items=40)
    for excluded in (None, everything):
        with pytest.raises(NonFiniteError, match=f"user 7 for item {item} is NaN"):
            top_of_scores(scores, torch.tensor([5, 7, 3]), 2, excluded)


def test_a_nan_of_a_product_is_refused(way: str) -> None:
    vectors, items = torch.ones(8, 3), torch.ones(50, 3)
    vectors[6, 1] = float("nan")
    with pytest.raises(NonFiniteError, match="user 6 for item 0 is NaN"):
        top_of_vectors(vectors, items, torch.tensor([2, 6, 1]), 2)
    top_of_vectors(vectors, items, torch.tensor([2, 1]), 2)
    items[49] = INF
    vectors[6] = torch.tensor([1.0, -1.0, 1.0])
    with pytest.raises(NonFiniteError, match="user 6 for item 49 is NaN"):
        top_of_vectors(vectors, items, torch.arange(8), 2)
    assert top_of_vectors(vectors, items, torch.tensor([0]), 2).items.tolist() == [[49, 0]]


def test_what_does_not_fit_is_refused(way: str) -> None:
    scores, users = torch.zeros(2, 3), torch.tensor([0, 1])
    for k in (0, 4):
        with pytest.raises(ConfigError, match=f"k={k} items of a catalogue of 3; allowed are 1"):
            top_of_scores(scores, users, k)
        with pytest.raises(ConfigError, match=f"k={k} items of a catalogue of 3; allowed are 1"):
            top_of_vectors(scores, torch.zeros(3, 3), users, k)
    with pytest.raises(SchemaError, match="one row of scores for each user"):
        top_of_scores(scores, torch.tensor([0]), 1)
    with pytest.raises(SchemaError, match=r"\[U, D\] and \[I, D\]"):
        top_of_vectors(scores, torch.zeros(3, 2), users, 1)
    pairs = Pairs.of(np.array([1]), np.array([2]), num_users=2, num_items=3)
    for wrong in (torch.tensor([0, 2]), torch.tensor([-1, 0])):
        with pytest.raises(SchemaError, match="there are 2: allowed are 0 to 1"):
            top_of_scores(scores, wrong, 1, pairs)
        with pytest.raises(SchemaError, match="there are 2: allowed are 0 to 1"):
            top_of_vectors(scores, torch.zeros(3, 3), wrong, 1)
    with pytest.raises(SchemaError, match="whole numbers"):
        top_of_scores(scores, users.float(), 1, pairs)
    other = Pairs.of(np.array([1]), np.array([2]), num_users=2, num_items=5)
    with pytest.raises(SchemaError, match="know 5 items, but 3 are scored"):
        top_of_scores(scores, users, 1, other)


def test_arrays_that_may_not_be_written_are_read() -> None:
    pairs = Pairs.of(np.array([0]), np.array([2]), num_users=1, num_items=3)
    pairs.items.flags.writeable = False
    assert top_of_scores(torch.ones(1, 3), torch.tensor([0]), 3, pairs).items.tolist() == [
        [0, 1, -1]
    ]


def test_blocks_fit_the_bytes(way: str) -> None:
    here, there = torch.device("cpu"), torch.device("meta")
    assert bytes_per_score(here) == (32 if way == "torch" else 4)
    assert bytes_per_score(there) == 32
    assert block_users(1000, num_items=10, score_bytes=4) == 25
    assert block_users(1, num_items=10, score_bytes=4) == 1
    assert default_block_bytes(here) < default_block_bytes(there)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_lists() -> None:
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.integers(0, 50, (64, 3000))).float()
    excluded, users = draw_pairs(rng, 64, 3000, 0.01), torch.arange(64)
    here = top_of_scores(scores, users, 20, excluded)
    there = top_of_scores(scores.cuda(), users.cuda(), 20, excluded)
    assert torch.equal(here.items, there.items.cpu())
    assert torch.equal(here.scores, there.scores.cpu())
