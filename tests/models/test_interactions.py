"""Interaction scores of models whose interactions are known, and against slow loops in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recsys.data.encode import EncodedTable
from recsys.data.schema import Field, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import DenseStorage
from recsys.errors import ConfigError
from recsys.models.interactions import (
    InteractionOptions,
    Interactions,
    bootstrap_draws,
    candidate_pairs,
    cost,
    intervals,
    measure,
    pair_score,
    strongest_pairs,
)
from recsys.models.masked_rows import MaskedRows
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec

NAMES = ("a", "b", "c", "d")


def factorised(linear: dict[str, float], vectors: dict[str, float]) -> Recommender:
    """FM of width 1 over columns of two values, -1 and 1: logit = sum l_f x_f + sum v_f v_g x_f x_g
    over pairs."""
    schema = Schema(
        fields=tuple(
            Field(name=name, kind="categorical", encoding="vocabulary", size=5) for name in NAMES
        ),
        labels=("y",),
    )
    spec = ModelSpec("ctr", "recsys.models.ctr.fm.FM", {})
    made = Recommender.build(schema, EmbeddingOptions(dim=1), spec.make, DenseStorage)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.zero_()
        table = made.lookup.storage.table()
        for name in NAMES:
            for code, sign in ((3, -1.0), (4, 1.0)):
                row = made.lookup.layout.rows_of(torch.tensor([code]), name, 0)
                both = [sign * vectors.get(name, 0.0), sign * linear.get(name, 0.0)]
                table[row] = torch.tensor(both)
    return made


def drawn(
    linear: dict[str, float], vectors: dict[str, float], rows: int, seed: int = 0
) -> tuple[EncodedTable, np.ndarray]:
    """Rows of independent columns with labels from that model; and the columns' signs."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], (rows, len(NAMES)))
    p = 1 / (1 + np.exp(-logits(signs, linear, vectors)))
    label = (rng.random(rows) < p).astype(np.float32)
    ids = (3 + (signs > 0)).astype(np.int32)
    return EncodedTable(ids, np.zeros((rows, 0), np.float32), label=label), signs


def logits(signs: np.ndarray, linear: dict[str, float], vectors: dict[str, float]) -> np.ndarray:
    x = signs.astype(np.float64)
    out = sum(x[:, i] * linear.get(f, 0.0) for i, f in enumerate(NAMES))
    scaled = np.stack([x[:, i] * vectors.get(f, 0.0) for i, f in enumerate(NAMES)])
    return out + (scaled.sum(0) ** 2 - (scaled**2).sum(0)) / 2


def examined(
    linear: dict[str, float], vectors: dict[str, float], rows: int = 2500, **keys: object
) -> Interactions:
    table, _ = drawn(linear, vectors, rows)
    options = InteractionOptions(pairs=6, **{"epsilon": 0.02, **keys})  # type: ignore[arg-type]
    found = MaskedRows(factorised(linear, vectors), table, options.num_shuffles)
    return measure(found, candidate_pairs(found, options), options)


SUM = {"a": 1.0, "b": -0.8, "c": 0.5}
PRODUCT = {"a": 1.3, "b": 1.3}


@pytest.mark.parametrize("together", [True, False])
def test_effects_that_add_up_have_no_score_in_any_model(together: bool) -> None:
    found = examined(SUM, {}, together=together)
    assert len(found.pairs) == 6
    for pair in found.pairs:
        assert len(pair.members) == 37
        for one in pair.members:
            assert abs(one.score) < 0.03
            assert one.rise <= found.epsilon
        if "d" in pair.fields:  # nothing reads it
            assert pair.range == (0.0, 0.0)
    first = next(one for one in found.pairs if set(one.fields) == {"a", "b"})
    assert first.reference.low < 0 < first.reference.high


@pytest.mark.parametrize("together", [True, False])
def test_a_product_has_a_score_in_every_model_and_a_halo_outside(together: bool) -> None:
    found = examined({"c": 0.5}, PRODUCT, together=together)
    best, *others = found.pairs
    assert best.fields == ("a", "b")
    assert best.reference.low > 0.2
    assert best.range[0] > 0.2
    assert best.sign_changes == 0
    # exactly: shuffling either, or both, has the loss of a logit of random sign
    assert best.reference.score == pytest.approx(pure_rise(PRODUCT["a"] ** 2), abs=0.05)
    alike = [one for one in best.halo if (one.masks[0] > 1) == (one.masks[1] > 1)]
    other = [one for one in best.halo if one not in alike]
    assert len(alike) == len(other) == 18
    assert all(one.excess > 0.2 * found.epsilon for one in alike)
    assert all(one.excess < -0.2 * found.epsilon for one in other)
    assert all(abs(one.reference.score) < 0.03 for one in others)


def pure_rise(z: float) -> float:
    """What shuffling costs a model of logit z or -z, whose probabilities are true."""
    return z * (1 / (1 + math.exp(-z)) - 0.5)


def test_a_field_that_stands_in_for_another_has_a_negative_score() -> None:
    table, _ = drawn({"a": 2.0}, {}, 4000)
    table.ids[:, 1] = table.ids[:, 0]
    options = InteractionOptions(pairs=1, fields=["a", "b"])
    found = MaskedRows(factorised({"a": 1.0, "b": 1.0}, {}), table, options.num_shuffles)
    pair = measure(found, candidate_pairs(found, options), options).pairs[0]
    assert pair.reference.high < -0.05


def test_order_of_a_pair_does_not_matter() -> None:
    linear, vectors = {"a": 0.4, "c": 0.5}, {"a": 1.0, "b": 0.7, "c": -0.5}
    table, _ = drawn(linear, vectors, 500)
    options = InteractionOptions()
    rows = MaskedRows(factorised(linear, vectors), table, options.num_shuffles)
    for i, j in ((0, 1), (0, 2), (1, 3)):
        one, influence = pair_score(rows, (i, j), (0.9, 1.2), options)
        other, influence2 = pair_score(rows, (j, i), (1.2, 0.9), options)
        assert one == other
        np.testing.assert_array_equal(influence, influence2)
    there = measure(rows, [(0, 1)], options).pairs[0]
    back = measure(rows, [(1, 0)], options).pairs[0]
    assert sorted(one.score for one in there.members) == pytest.approx(
        sorted(one.score for one in back.members)
    )


@pytest.mark.parametrize("together", [True, False])
def test_every_number_against_loops(together: bool) -> None:
    linear, vectors = {"a": 0.4, "b": -0.2}, {"a": 1.0, "b": 0.7, "c": -0.5}
    table, signs = drawn(linear, vectors, 60)
    options = InteractionOptions(together=together, epsilon=0.05, repeats=3)
    rows = MaskedRows(factorised(linear, vectors), table, options.num_shuffles)
    orders = rows.orders.tolist()

    def loss(masks: tuple[float, float], first: int | None, second: int | None) -> list[float]:
        """Of each row, fields a and b masked and shuffled."""
        out = []
        for r in range(60):
            x = [float(v) for v in signs[r]]
            x[0] = float(signs[r if first is None else orders[first][r]][0]) * masks[0]
            x[1] = float(signs[r if second is None else orders[second][r]][1]) * masks[1]
            z = sum(linear.get(f, 0.0) * v for f, v in zip(NAMES, x, strict=True))
            for i in range(4):
                for j in range(i):
                    z += vectors.get(NAMES[i], 0) * vectors.get(NAMES[j], 0) * x[i] * x[j]
            assert table.label is not None
            out.append(math.log1p(math.exp(z)) - float(table.label[r]) * z)
        return out

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    pair = measure(rows, [(0, 1)], options).pairs[0]
    base = mean(loss((1, 1), None, None))
    for one in pair.members:
        scores = []
        for k in range(3):
            second = k if together else 3 + k
            whole = mean(loss(one.masks, None, None))
            alone = mean(loss(one.masks, k, None)), mean(loss(one.masks, None, second))
            both = mean(loss(one.masks, k, second))
            scores.append(sum(rise - whole for rise in alone) - (both - whole))
        assert one.score == pytest.approx(mean(scores), abs=1e-6)
        assert one.rise == pytest.approx(mean(loss(one.masks, None, None)) - base, abs=1e-6)
        assert one.rise <= options.epsilon
    for point in pair.halo:
        assert point.rise == pytest.approx(mean(loss(point.masks, None, None)) - base, abs=1e-6)
        apart = [(point.masks[0], 1.0), (1.0, point.masks[1])]
        for rise, masks in zip(point.alone, apart, strict=True):
            assert rise == pytest.approx(mean(loss(masks, None, None)) - base, abs=1e-6)


def test_the_strongest_pairs_are_found() -> None:
    vectors = {"a": 1.0, "b": 0.2, "d": 1.0}
    table, _ = drawn({"b": 1.0, "c": 1.0}, vectors, 2000)
    options = InteractionOptions(pairs=1)
    rows = MaskedRows(factorised({"b": 1.0, "c": 1.0}, vectors), table, options.num_shuffles)
    told: list[tuple[int, int, str]] = []
    pairs = candidate_pairs(rows, options)
    assert len(pairs) == 6
    assert strongest_pairs(rows, pairs, options, lambda *one: told.append(one)) == [(0, 3)]
    assert told[-1] == (6, 6, "screen pairs")
    several = InteractionOptions(pairs=6)
    assert strongest_pairs(rows, pairs, several) == pairs
    named = InteractionOptions(pairs=1, fields=["d", "b", "a"])
    assert candidate_pairs(rows, named) == [(0, 1), (0, 3), (1, 3)]


def test_other_runs_are_members_where_they_are_near() -> None:
    linear, vectors = {"c": 0.5}, PRODUCT
    table, _ = drawn(linear, vectors, 1000)
    options = InteractionOptions(pairs=1, epsilon=0.02)
    rows = MaskedRows(factorised(linear, vectors), table, options.num_shuffles)
    near = MaskedRows(factorised(linear, {"a": 1.25, "b": 1.3}), table, options.num_shuffles)
    far = MaskedRows(factorised(linear, {"a": -1.3, "b": 1.3}), table, options.num_shuffles)
    found = measure(rows, [(0, 1)], options, [("near", near), ("far", far)])
    assert [one.name for one in found.pairs[0].members].count("near") == 1
    assert len(found.pairs[0].members) == 38
    assert list(found.outside) == ["far"]
    assert found.outside["far"] > 1


def test_the_cost_is_what_was_said() -> None:
    table, _ = drawn(SUM, {}, 300)
    options = InteractionOptions(pairs=2)
    rows = MaskedRows(factorised(SUM, {}), table, options.num_shuffles)
    told: list[tuple[int, int, str]] = []
    pairs = [(0, 1), (1, 2)]
    found = measure(rows, pairs, options, progress=lambda *one: told.append(one))
    search, score = cost(pairs, options)
    assert score == 2 * 37 * 4
    assert score < found.num_passes <= search + score
    for stage in ("search masks", "score"):
        done = [(a, b) for a, b, name in told if name == stage]
        assert done == sorted(done)
        assert done[-1][0] == done[-1][1]


@pytest.mark.slow
@pytest.mark.parametrize("together", [True, False])
def test_intervals_cover_what_many_rows_say(together: bool) -> None:
    """Nominally 95 % of 200."""
    linear, vectors = {"a": 0.4, "c": 0.5}, {"a": 1.0, "b": 0.9}
    model = factorised(linear, vectors)
    options = InteractionOptions(together=together, repeats=1)

    def score(rows: int, seed: int) -> tuple[float, np.ndarray]:
        table, _ = drawn(linear, vectors, rows, seed)
        masked = MaskedRows(model, table, options.num_shuffles, seed)
        return pair_score(masked, (0, 1), (1.0, 1.0), options)

    truth = float(np.mean([score(50_000, 1000 + seed)[0] for seed in range(20)]))
    covered = 0
    for seed in range(200):
        _, influence = score(400, seed)
        low, high = intervals(influence[None], bootstrap_draws(400, 500, seed))
        covered += bool(low[0] <= truth <= high[0])
    assert 0.91 <= covered / 200 <= 0.995


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"pairs": -1}, r"interactions.pairs=-1; it must be at least 0"),
        ({"rows": 5}, r"interactions.rows=5; it must be at least 100"),
        ({"epsilon": 0.0}, r"interactions.epsilon=0.0; it must be above 0"),
        ({"epsilon": math.nan}, r"interactions.epsilon=nan"),
        ({"fields": ["a", "a"]}, r"a pair needs two different fields"),
    ],
)
def test_options_that_make_no_sense(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InteractionOptions(**keys)  # type: ignore[arg-type]


def test_fields_that_are_not_there() -> None:
    table, _ = drawn(SUM, {}, 200)
    rows = MaskedRows(factorised(SUM, {}), table, 1)
    with pytest.raises(ConfigError, match=r"reads no field aa\. Did you mean a"):
        candidate_pairs(rows, InteractionOptions(fields=["aa", "b"]))
    rows.fields = ("a",)
    with pytest.raises(ConfigError, match="this model reads one: a"):
        candidate_pairs(rows, InteractionOptions())
