"""TwoTower: its loss against a slow reference, and what it finds."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.interactions import Interactions
from recsys.data.pairs import Pairs
from recsys.data.side_tables import SideTables
from recsys.data.triple_sampler import TripleSampler
from recsys.data.triples import Triples
from recsys.errors import ConfigError
from recsys.layers.spectral_start import spectral_start
from recsys.metrics.ranking import FullRanking
from recsys.models.towers.twotower import TwoTower

NONE = torch.empty(0, 0, dtype=torch.int64)


def draw_pairs(users: int = 8, items: int = 12, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    return Pairs.of(*np.nonzero(rng.random((users, items)) < 0.4), users, items)


def batch_of(pairs: Pairs, rows: list[int]) -> Triples:
    users, items = pairs.users[rows].astype(np.int64), pairs.items[rows].astype(np.int64)
    return Triples(torch.from_numpy(users), torch.from_numpy(items), NONE)


def slow_loss(model: TwoTower, pairs: Pairs, batch: Triples, uniform: list[int]) -> float:
    """The formula in float64, from the vectors of all users and items."""
    with torch.no_grad():
        users, items = (one.double().numpy() for one in model())
    degrees = np.bincount(pairs.items, minlength=pairs.num_items)
    pool = sorted({*batch.positives.tolist(), *uniform})
    total = 0.0
    for user, own in zip(batch.users.tolist(), batch.positives.tolist(), strict=True):
        positive = np.exp(users[user] @ items[own] / model.temperature)
        others = 0.0
        for item in pool:
            if item == own or (model.mask_known and item in pairs.of_user(user)):
                continue
            absent = (1 - degrees[item] / len(pairs)) ** (len(batch) - 1)
            absent *= (1 - 1 / pairs.num_items) ** len(uniform)
            weight = 1 / (1 - absent) if model.correction == "exact" else 1.0
            others += weight * np.exp(users[user] @ items[item] / model.temperature)
        total -= np.log(positive / (positive + others))
    return total / len(batch)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"correction": "none"},
        {"mask_known": True},
        {"normalize": False, "temperature": 0.7},
        {"uniform_negatives": 5},
        {"uniform_negatives": 5, "mask_known": True, "temperature": 1.0, "hidden_dims": [6, 4]},
    ],
)
def test_the_loss_equals_the_formula(keys: dict[str, Any]) -> None:
    pairs = draw_pairs()
    torch.manual_seed(1)
    model = TwoTower(pairs, embed_dim=4, init_std=0.8, **keys)
    batch = batch_of(pairs, [0, 5, 5, 9, 14, 20, 21])  # an item of several rows, a pair twice
    torch.manual_seed(2)
    found = model.losses(batch)["softmax"].item()
    torch.manual_seed(2)
    drawn = torch.randint(12, (model.uniform_negatives,)).tolist()
    assert found == pytest.approx(slow_loss(model, pairs, batch, drawn), rel=1e-5)


def test_the_penalty_is_of_the_vectors_that_the_batch_reads() -> None:
    pairs = draw_pairs()
    model = TwoTower(pairs, embed_dim=4, l2=0.3)
    batch = batch_of(pairs, [0, 5, 9])
    with torch.no_grad():
        users = model.user_side.lookup(model.user_side.batch(batch.users.unique())).fields
        items = model.item_side.lookup(model.item_side.batch(batch.positives.unique())).fields
    expected = 0.3 * float(users.square().sum() + items.square().sum()) / 6
    assert model.losses(batch)["l2"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("rows", [[3], [4, 4, 4]])
def test_a_batch_of_one_item_has_nothing_to_tell_apart(rows: list[int]) -> None:
    pairs = draw_pairs()
    model = TwoTower(pairs, embed_dim=4)
    loss = model.losses(batch_of(pairs, rows))["softmax"]
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all()


def test_the_estimated_frequency_tends_to_the_exact_one() -> None:
    """Popularity that falls like 1 / rank, from a stream of batches."""
    rng = np.random.default_rng(0)
    shares = 1 / np.arange(1, 41)
    users, items = np.nonzero(rng.random((400, 40)) < shares)
    pairs = Pairs.of(users, items, 400, 41)  # nobody has the last item
    model = TwoTower(pairs, embed_dim=2, correction="estimated", estimate_rate=0.01).train()
    catalogue = torch.arange(41)
    sampler = TripleSampler(pairs, model.sampling, 64)
    for epoch in range(12):
        sampler.set_epoch(epoch)
        for batch in sampler:
            found = model._log_probability(catalogue, batch.positives)
    exact = TwoTower(pairs, embed_dim=2)._log_probability(catalogue, torch.zeros(64))
    assert found is not None
    assert exact is not None
    ratio = (found - exact)[:40].exp()
    assert ratio.median().item() == pytest.approx(1, abs=0.1)
    assert ratio.min() > 0.6
    assert ratio.max() < 1.6
    assert found[40] < found[:40].min()  # never met: rarer than any other
    state = model.state_dict()
    assert state["batches"] == 12 * len(sampler)
    model.eval()
    model._log_probability(catalogue, batch.positives)
    assert model.batches == state["batches"]  # judging leaves no trace


def planted() -> Interactions:
    """People like the items of their own genre; a fifth of the items is new. Only columns tell."""
    rng = np.random.default_rng(0)
    users, items = 120, 60
    taste, genre = rng.integers(0, 4, users), rng.integers(0, 4, items)
    likes = rng.random((users, items)) < np.where(taste[:, None] == genre, 0.4, 0.01)
    rows = pl.DataFrame(dict(zip(("user", "item"), np.nonzero(likes), strict=True)))
    new = pl.col("item") >= 48
    return Interactions.of(
        "planted",
        rows.filter(~new),
        rows.filter(new),
        users=pl.DataFrame({"user": range(users), "taste": [f"t{t}" for t in taste]}),
        items=pl.DataFrame({"item": range(items), "genre": [f"g{g}" for g in genre]}),
    )


def fitted(data: Interactions, epochs: int = 12, **keys: Any) -> TwoTower:
    torch.manual_seed(0)
    model = TwoTower(data.train, SideTables.fit(data, data.train), embed_dim=8, **keys)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.08)
    sampler = TripleSampler(data.train, model.sampling, 128)
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        for batch in sampler:
            optimizer.zero_grad()
            torch.stack(list(model.losses(batch).values())).sum().backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def recall_of_new_items(model: TwoTower, data: Interactions) -> float:
    assert data.test is not None
    found = FullRanking(data.test, data.train, ks=(15,)).of_vectors(*model())
    return found.metrics["recall_at_15"]


def test_columns_find_items_that_nobody_had_in_training() -> None:
    data = planted()
    both = fitted(data, unseen_share=0.3)
    ids = fitted(data, user_fields=["user"], item_fields=["item"])
    columns = fitted(data, user_fields=["taste"], item_fields=["genre"], hidden_dims=[16, 8])
    # New items of a genre score like its known ones, most of which a list of 15 leaves out.
    assert recall_of_new_items(both, data) > 0.8
    assert recall_of_new_items(columns, data) > 0.8
    assert recall_of_new_items(ids, data) < 0.3


@torch.no_grad()
def test_a_spectral_start_is_that_of_the_ids() -> None:
    pairs = draw_pairs(users=40, items=30)
    torch.manual_seed(0)
    users, items = spectral_start(pairs, 6, 0.2)
    torch.manual_seed(0)
    for temperature in (1.0, 0.25):
        model = TwoTower(
            pairs, embed_dim=6, start="spectral", init_std=0.2, normalize=False,
            temperature=temperature,
        )  # fmt: skip
        torch.testing.assert_close(
            model.scores(torch.arange(40)) / temperature, users @ items.T, rtol=1e-4, atol=1e-5
        )


def test_a_spectral_start_needs_ids_that_are_compared() -> None:
    with pytest.raises(ConfigError, match=r"hidden_dims=\[\] and history=false, not full, \[4\]"):
        TwoTower(draw_pairs(), start="spectral", hidden_dims=[4])
    data = planted()
    with pytest.raises(ConfigError, match="the item tower does not read the id"):
        fitted(data, 0, start="spectral", item_fields=["genre"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"start": "spectrum"}, "Did you mean spectral"),
        ({"correction": "exakt"}, "Did you mean exact"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"uniform_negatives": -1}, "uniform_negatives is -1"),
        ({"l2": -0.1}, "l2 is -0.1"),
        ({"estimate_rate": 0.0}, "estimate_rate is 0.0"),
        ({"unseen_share": 1.0}, "unseen_share is 1.0"),
        ({"dropout": 1.0, "hidden_dims": [4, 2]}, "dropout is 1.0"),
        ({"hidden_dims": [0]}, "hidden_dims"),
    ],
)
def test_values_out_of_range_are_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TwoTower(draw_pairs(), **keys)
