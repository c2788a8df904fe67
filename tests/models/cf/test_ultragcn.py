"""UltraGCN's losses against slow loops of the paper's equations; its switches; what it learns."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import TripleSampler
from recsys.data.triples import Triples
from recsys.errors import ConfigError
from recsys.models.cf.ultragcn import STARTS, UltraGCN
from recsys.models.saved import ModelSpec
from recsys.models.saved_cf import check_cf

YAML = Path(__file__).parents[3] / "configs" / "cf" / "ultragcn.yaml"
NUM_USERS, NUM_ITEMS = 9, 13
WEIGHTS = {"w1": 0.1, "w2": 0.9, "w3": 0.2, "w4": 0.7}


def draw(seed: int = 0, count: int = 40) -> Pairs:
    """User 8 and item 12 have nothing."""
    rng = np.random.default_rng(seed)
    users, items = rng.integers(NUM_USERS - 1, size=count), rng.integers(NUM_ITEMS - 1, size=count)
    return Pairs.of(users, items, NUM_USERS, NUM_ITEMS)


def build(train: Pairs, **options: Any) -> UltraGCN:
    torch.manual_seed(0)
    settings = {"embed_dim": 6, "num_negatives": 5, "num_neighbors": 4, "init_std": 0.7}
    return UltraGCN(train, **{**settings, **WEIGHTS, **options})


def batch_of(train: Pairs, rows: int = 11, n: int = 5, seed: int = 0) -> Triples:
    """Rows with repeated users, and negatives that may be train items."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.randint(len(train), (rows,), generator=generator).numpy()
    negatives = torch.randint(NUM_ITEMS, (rows, n), generator=generator)
    users, positives = train.users[at].astype(np.int64), train.items[at].astype(np.int64)
    return Triples(torch.from_numpy(users), torch.from_numpy(positives), negatives)


def bce(score: float, label: int) -> float:
    probability = 1 / (1 + math.exp(-score))
    return -math.log(probability if label else 1 - probability)


def slow_losses(model: UltraGCN, train: Pairs, batch: Triples) -> dict[str, float]:
    """Eq. 5-14 in nested loops, from the pairs alone."""
    users, items = model.users.detach().double(), model.items.detach().double()
    ratings = np.zeros((train.num_users, train.num_items))
    ratings[train.users, train.items] = 1
    d_user, d_item = ratings.sum(1), ratings.sum(0)
    shared = ratings.T @ ratings
    sums = shared.sum(1)

    def score(user: int, item: int) -> float:
        return float(users[user] @ items[item])

    def beta(user: int, item: int) -> float:
        return float(1 / d_user[user] * math.sqrt((d_user[user] + 1) / (d_item[item] + 1)))

    totals = {"positive": 0.0, "negative": 0.0, "items": 0.0}
    for row, (user, item) in enumerate(
        zip(batch.users.tolist(), batch.positives.tolist(), strict=True)
    ):
        totals["positive"] += (model.w1 + model.w2 * beta(user, item)) * bce(score(user, item), 1)
        others = range(NUM_ITEMS) if model.negatives == "all" else batch.negatives[row].tolist()
        drawn = [(model.w3 + model.w4 * beta(user, j)) * bce(score(user, j), 0) for j in others]
        totals["negative"] += model.negative_weight * sum(drawn) / len(drawn)
        omega = [
            shared[item, j] / sums[item] * math.sqrt((sums[item] + 1) / (sums[j] + 1))
            for j in range(NUM_ITEMS)
        ]
        best = sorted(range(NUM_ITEMS), key=lambda j: (-omega[j], j))[: model.neighbors.shape[1]]
        totals["items"] += model.item_weight * sum(omega[j] * bce(score(user, j), 1) for j in best)
    squares = float((users**2).sum() + (items**2).sum())
    return {**totals, "l2": model.decay * squares / 2}


@pytest.mark.parametrize("negatives", ["sampled", "all"])
@pytest.mark.parametrize("seed", range(3))
def test_losses_equal_the_papers_equations(negatives: str, seed: int) -> None:
    train = draw(seed)
    model = build(train, negatives=negatives, item_weight=0.3, decay=0.01)
    batch = batch_of(train, seed=seed)
    found = {name: loss.item() for name, loss in model.losses(batch).items()}
    assert found == pytest.approx(slow_losses(model, train, batch), rel=1e-5)


def dense_losses(model: UltraGCN, batch: Triples, users: Tensor, items: Tensor) -> Tensor:
    """The same in torch, for gradients: all items as negatives."""
    softplus = torch.nn.functional.softplus
    scores = users[batch.users] @ items.T
    beta = model.user_scales[batch.users].double().unsqueeze(1) * model.item_scales.double()
    rows = torch.arange(len(batch))
    positive = (model.w1 + model.w2 * beta) * softplus(-scores)
    negative = (model.w3 + model.w4 * beta) * softplus(scores)
    neighbors = model.neighbors[batch.positives].long()
    omega = model.neighbor_weights[batch.positives].double()
    graph = omega * softplus(-scores.gather(1, neighbors))
    return (
        positive[rows, batch.positives].sum()
        + model.negative_weight * negative.mean(1).sum()
        + model.item_weight * graph.sum()
        + model.decay / 2 * (users.square().sum() + items.square().sum())
    )


def test_gradients_of_all_items_equal_autograd_of_the_dense_form() -> None:
    train = draw()
    model = build(train, negatives="all", item_weight=0.3, decay=0.01)
    batch = batch_of(train)
    users, items = (t.detach().double().requires_grad_() for t in (model.users, model.items))
    dense_losses(model, batch, users, items).backward()
    total(model, batch).backward()
    for found, expected in ((model.users.grad, users.grad), (model.items.grad, items.grad)):
        assert found is not None
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def total(model: UltraGCN, batch: Triples) -> Tensor:
    return torch.stack(list(model.losses(batch).values())).sum()


def gradient(model: UltraGCN, batch: Triples) -> Tensor:
    found = torch.autograd.grad(model.losses(batch)["negative"], [model.users, model.items])
    return torch.cat([part.flatten() for part in found])


def test_expected_gradient_of_sampled_negatives_is_that_of_all() -> None:
    """Every set of one negative has the same chance: the mean over them is exact, and the mean
    over n independent ones has the same expectation."""
    train = draw()
    every, sampled = build(train, negatives="all"), build(train, num_negatives=1)
    batch = batch_of(train)
    wanted = gradient(every, batch)
    found = torch.zeros_like(wanted)
    for item in range(NUM_ITEMS):
        drawn = torch.full((len(batch), 1), item)
        found += gradient(sampled, Triples(batch.users, batch.positives, drawn)) / NUM_ITEMS
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("group_rows", [1, 4, 11])
def test_expected_gradient_of_grouped_negatives_is_that_of_all(group_rows: int) -> None:
    """The mean of many draws lies within 5 standard errors, in every coordinate."""
    train, draws = draw(), 300
    every = build(train, negatives="all")
    grouped = build(train, negatives="grouped", group_rows=group_rows, num_negatives=40)
    batch = batch_of(train)
    torch.manual_seed(1)
    found = torch.stack([gradient(grouped, batch) for _ in range(draws)]).double()
    error = found.std(0) / math.sqrt(draws)
    distance = (found.mean(0) - gradient(every, batch)).abs()
    assert (distance <= 5 * error + 1e-6).all()
    scale = gradient(every, batch).abs().mean()
    assert error.mean() < 0.1 * scale  # the bound means something


def test_grouped_rows_share_and_groups_do_not() -> None:
    train = draw()
    model = build(train, negatives="grouped", group_rows=4)
    assert model._drawn(batch_of(train, rows=11)).shape == (3, 5)


@pytest.mark.parametrize("negatives", ["sampled", "grouped", "all"])
def test_batches_as_the_model_wants_them(negatives: str) -> None:
    train = draw()
    model = build(train, negatives=negatives)
    assert model.sampling.draw == "pairs"
    assert model.sampling.negatives == (5 if negatives == "sampled" else 0)
    for batch in TripleSampler(train, model.sampling, batch_size=7):
        assert all(loss.isfinite() for loss in model.losses(batch).values())


def test_switches_of_the_item_graph() -> None:
    train = draw()
    kept, without = build(train), build(train, keep_diagonal=False)
    own = torch.arange(NUM_ITEMS).unsqueeze(1)
    has_users = torch.from_numpy(train.item_degrees > 0)
    assert ((kept.neighbors == own) & (kept.neighbor_weights > 0)).any(1)[has_users].all()
    assert not ((without.neighbors == own) & (without.neighbor_weights > 0)).any()


def all_pairs(train: Pairs) -> Triples:
    users, items = train.users.astype(np.int64), train.items.astype(np.int64)
    return Triples(*map(torch.from_numpy, (users, items, np.zeros((len(train), 0), np.int64))))


def test_the_popularity_start_is_a_minimum_over_scores_of_items_alone() -> None:
    """Over an epoch, no item's score wants to change for all users alike."""
    train = draw()
    model = build(train, negatives="all", start="popularity", init_std=1e-9, decay=0.0)
    scores = model.scores(torch.arange(NUM_USERS)).detach()
    torch.testing.assert_close(scores, scores[:1].expand_as(scores))
    total(model, all_pairs(train)).backward()
    assert model.items.grad is not None
    pull = model.items.grad[:, 0][torch.from_numpy(train.item_degrees > 0)]
    assert pull.abs().max() < 1e-3 * model.negative_weight
    lowest = scores[0].argmin()
    assert scores[0, 12] == scores[0, lowest]  # nobody has item 12
    lengths = [float(one.detach().square().sum()) for one in (model.users, model.items)]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-4)


def test_the_spectral_start_is_popularity_and_singular_vectors() -> None:
    train = draw()
    popular = build(train, start="popularity", embed_dim=5)
    model = build(train, start="spectral", embed_dim=5, init_std=0.3)
    assert torch.equal(model.users[:, 0], popular.users[:, 0])
    assert torch.equal(model.items[:, 0], popular.items[:, 0])
    matrix = np.zeros((NUM_USERS, NUM_ITEMS))
    matrix[train.users, train.items] = 1
    rows, columns = (np.maximum(matrix.sum(axis, keepdims=True), 1) for axis in (1, 0))
    left, values, right = np.linalg.svd(matrix / np.sqrt(rows * columns))
    scale = 0.09 * np.sqrt(NUM_USERS * NUM_ITEMS) * values[1:5]
    expected = (left[:, 1:5] * scale) @ right[1:5]
    found = (model.users[:, 1:] @ model.items[:, 1:].T).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("start", ["popularity", "spectral"])
def test_a_start_without_pairs_or_with_more_coordinates_than_items(start: str) -> None:
    nothing = np.zeros(0, int)
    model = build(Pairs.of(nothing, nothing, 3, 4), start=start)
    assert model.scores(torch.arange(3)).isfinite().all()
    wide = build(draw(), start=start, embed_dim=NUM_ITEMS + 4, init_std=0.1)
    assert wide.users.std(0)[-4:].min() > 0  # random where there is no singular vector
    assert wide.scores(torch.arange(3)).isfinite().all()


@pytest.mark.parametrize("start", STARTS)
def test_a_start_is_checked_without_data(start: str) -> None:
    check_cf(ModelSpec("cf", "recsys.models.cf.ultragcn.UltraGCN", {"start": start}))


def test_users_and_items_without_pairs_are_finite() -> None:
    train = draw()
    for negatives in ("sampled", "grouped", "all"):
        model = build(train, negatives=negatives)
        total(model, batch_of(train)).backward()
        for parameter in (model.users, model.items):
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
        scores = model.scores(torch.tensor([8]))
        assert scores.shape == (1, NUM_ITEMS)
        assert scores.isfinite().all()


def test_the_state_is_the_vectors_alone() -> None:
    model, other = build(draw()), build(draw(1))
    assert list(model.state_dict()) == ["users", "items"]
    other.load_state_dict(model.state_dict())
    users = torch.arange(NUM_USERS)
    assert torch.equal(model.scores(users), other.scores(users))


def planted() -> tuple[Pairs, np.ndarray]:
    """Users of each half have most items of their half; the rest is withheld, [U, I]."""
    rng = np.random.default_rng(0)
    has = np.kron(np.eye(2), np.ones((30, 20))).astype(bool)
    withheld = has & (rng.random(has.shape) < 0.1)
    users, items = np.nonzero(has & ~withheld)
    return Pairs.of(users, items, 60, 40), withheld


def share_found(train: Pairs, withheld: np.ndarray, **options: Any) -> float:
    """Share of users to whom exactly what was withheld from them comes first, after 25 steps."""
    torch.manual_seed(0)
    model = UltraGCN(train, embed_dim=8, num_negatives=30, init_std=0.1, **options)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(25):
        pairs = all_pairs(train)
        drawn = torch.randint(40, (len(train), 30))
        optimizer.zero_grad()
        total(model, Triples(pairs.users, pairs.positives, drawn)).backward()
        optimizer.step()
    scores = model.scores(torch.arange(60)).detach().numpy()
    scores[train.users, train.items] = -np.inf
    users = np.flatnonzero(withheld.any(1))
    found = [
        set(np.argsort(-scores[u])[: withheld[u].sum()]) == set(np.flatnonzero(withheld[u]))
        for u in users
    ]
    return float(np.mean(found))


@pytest.mark.parametrize("negatives", ["sampled", "grouped", "all"])
def test_two_blocks_are_learnt(negatives: str) -> None:
    assert share_found(*planted(), negatives=negatives, negative_weight=1.0) == 1.0


@pytest.mark.parametrize("start", ["popularity", "spectral"])
def test_a_start_skips_the_plateau(start: str) -> None:
    """With heavy negatives all scores fall first, and no block is seen for many steps."""
    options: dict[str, Any] = {"negatives": "all", "negative_weight": 20.0}
    assert share_found(*planted(), **options) < 0.2
    assert share_found(*planted(), **options, start=start) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"negatives": "al"}, 'negatives is "al". Did you mean all'),
        ({"start": "popular"}, 'start is "popular". Did you mean popularity'),
        ({"embed_dim": 0}, "embed_dim is 0; it must be at least 1"),
        ({"num_negatives": 0}, "num_negatives is 0; it must be at least 1"),
        ({"group_rows": -1}, "group_rows is -1; it must be at least 1"),
        ({"num_neighbors": 0}, "num_neighbors is 0; it must be at least 1"),
        ({"decay": -1.0}, "decay is -1.0; it must be a number of at least 0"),
        ({"w3": math.nan}, "w3 is nan; it must be a number of at least 0"),
        ({"negative_weight": math.inf}, "negative_weight is inf"),
        ({"init_std": 0.0}, "init_std is 0; vectors that are all equal stay so"),
    ],
)
def test_bad_hyperparameters(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(draw(), **options)


def test_a_batch_without_its_negatives() -> None:
    train = draw()
    with pytest.raises(ValueError, match=r"negatives \[11, 3\], but negatives=sampled needs \[11"):
        build(train).losses(batch_of(train, n=3))


def test_yaml_lists_the_constructors_keywords() -> None:
    keywords = inspect.signature(UltraGCN).parameters.values()
    defaults = {p.name: p.default for p in keywords if p.kind is p.KEYWORD_ONLY}
    listed = yaml.safe_load(YAML.read_text())
    assert listed.pop("_target_") == "recsys.models.cf.ultragcn.UltraGCN"
    assert listed == defaults
    assert YAML.read_text().startswith("# UltraGCN: ")
