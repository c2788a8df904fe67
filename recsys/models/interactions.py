"""Interaction scores of pairs of fields, over a set of models that are nearly as good.

Source   Li et al., "Exploring the Cloud of Feature Interaction Scores in a Rashomon Set", ICLR
         2024, arXiv:2305.10181, Sec. 3-4: score, set, halo, swarm.

Let rise(I) be what log-loss gains when the columns I are shuffled. The score of a pair is

    score(i, j) = rise(i) + rise(j) - rise({i, j})

It is 0 where what two fields say adds up (exactly, in expectation, where logits add and the fields
are independent), positive where they tell something only together (each alone destroys it), and
negative where one can stand in for the other. One trained model is one witness: others that lose
at most epsilon of log-loss may use the pair differently. They are had without training, by masks
on the fields' vectors: f_m(x) = f(m * e(x)). For a pair, the allowance is split nine ways between
both masks, in each of the four directions (weaker, stronger): 36 models, and further runs if given.

Differs  The sign is turned (the paper's score is minus this one), so that it agrees with
         interaction information. Masks scale vectors, not raw values, which are ids. Where the two
         masks together cost more than epsilon they are drawn back towards 1 until they do not: all
         members are nearly as good, which the paper's outside the circle are not; the halo keeps
         the cost before. Both columns of a pair are shuffled, by one permutation (so that they
         stay together) or by one each; in the published code only the last one is. Intervals.

Letters   n rows, F fields, P shuffles, M members, R resamples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import ConfigError, did_you_mean
from recsys.models.masked_rows import MaskedRows, Variant
from recsys.models.near_optimal import QUADRANTS, HaloPoint, Masks, NearOptimal, most_passes

SPLITS = 9
"""Ways to split the allowance between two masks: .1 and .9, .2 and .8, ..."""
SCREENED_FIELDS = 40
"""Fields whose pairs are all compared, at most: those whose shuffling changes log-loss most."""
Progress = Callable[[int, int, str], None]
"""Called with (passes done, passes in all, what is being done)."""


@dataclass(frozen=True, kw_only=True)
class InteractionOptions:
    """What `interactions` of `configs/explain.yaml` holds."""

    pairs: int = 0
    """Pairs to look at; 0: none."""
    fields: list[str] | None = None
    """Take pairs among these fields only; None: among all."""
    rows: int = 6000
    """Rows to score, the first ones; a third of them chooses the pairs."""
    epsilon: float = 0.01
    """Log-loss (nats) that a model of the set may lose."""
    repeats: int = 1
    """Shuffles of each field."""
    together: bool = True
    """Shuffle both fields of a pair by one permutation; False: by one each."""
    runs: list[str] | None = None
    """More models of the set: other runs, kept where they lose at most epsilon."""
    resamples: int = 1000
    """Draws of the bootstrap intervals."""

    def __post_init__(self) -> None:
        for name, least in (("pairs", 0), ("rows", 100), ("repeats", 1), ("resamples", 100)):
            if getattr(self, name) < least:
                raise ConfigError(
                    f"interactions.{name}={getattr(self, name)}; it must be at least {least}."
                )
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise ConfigError(
                f"interactions.epsilon={self.epsilon}; it must be above 0, in nats of log-loss, "
                "such as 0.01."
            )
        if self.fields is not None and len(set(self.fields)) < 2:
            raise ConfigError(
                f"interactions.fields={self.fields}; a pair needs two different fields."
            )

    @property
    def num_shuffles(self) -> int:
        """Permutations that the rows must have."""
        return self.repeats * (1 if self.together else 2)

    def shuffles(self, repeat: int) -> tuple[int, int]:
        """Those of the first and of the second field of a pair."""
        return (repeat, repeat) if self.together else (repeat, self.repeats + repeat)


@dataclass(frozen=True)
class Member:
    """A model of the set, and the score that a pair has in it."""

    name: str
    """reference, mask, or that of another run."""
    score: float
    low: float
    """95 % bootstrap interval over rows."""
    high: float
    rise: float
    """Log-loss above the reference's; negative: better."""
    masks: Masks = (1.0, 1.0)


@dataclass(frozen=True)
class PairInteraction:
    """One pair of fields."""

    fields: tuple[str, str]
    members: tuple[Member, ...]
    """The reference first."""
    halo: tuple[HaloPoint, ...]

    @property
    def reference(self) -> Member:
        """The model that was asked about."""
        return self.members[0]

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest score in the set."""
        scores = [one.score for one in self.members]
        return min(scores), max(scores)

    @property
    def sign_changes(self) -> float:
        """Share of the other members whose score has the other sign."""
        others = [one.score for one in self.members[1:]]
        return sum(score * self.reference.score < 0 for score in others) / max(len(others), 1)


@dataclass(frozen=True)
class Interactions:
    """What was found, the pairs of the largest reference scores first."""

    pairs: tuple[PairInteraction, ...]
    epsilon: float
    logloss: float
    """Of the reference."""
    num_rows: int
    num_passes: int
    """Times that all rows went through a model, the choice of pairs aside."""
    outside: dict[str, float]
    """Runs that are no members, and what log-loss they lose."""


def candidate_pairs(rows: MaskedRows, options: InteractionOptions) -> list[tuple[int, int]]:
    """All pairs of the fields that were asked for.

    Raises:
        ConfigError: a field is unknown, or there is only one.
    """
    chosen = list(range(len(rows.fields)))
    if options.fields is not None:
        chosen = sorted({position(rows, name) for name in options.fields})
    if len(chosen) < 2:
        raise ConfigError(
            f"interactions are of pairs of fields, and this model reads one: "
            f"{', '.join(rows.fields)}. Train one with more columns."
        )
    return list(itertools.combinations(chosen, 2))


def position(rows: MaskedRows, name: str) -> int:
    """Of a field among those that the model reads.

    Raises:
        ConfigError: it reads none of that name.
    """
    if name not in rows.fields:
        raise ConfigError(
            f"interactions.fields: the model reads no field {name}."
            f"{did_you_mean(name, rows.fields)}"
        )
    return rows.fields.index(name)


def strongest_pairs(
    rows: MaskedRows,
    pairs: Sequence[tuple[int, int]],
    options: InteractionOptions,
    progress: Progress = lambda done, total, stage: None,
) -> list[tuple[int, int]]:
    """The `options.pairs` pairs of the largest scores, of either sign, by one shuffle.

    Costs a pass for each field and for each pair of the 40 fields that matter most, 780 pairs.

    Args:
        rows: Not those that will judge the pairs: the luckiest of many would look better than
            they are.
        pairs: To choose from.
        options: How many, how to shuffle.
        progress: Told of passes.
    """
    if len(pairs) <= options.pairs:
        return list(pairs)
    fields = sorted({i for pair in pairs for i in pair})
    first, second = options.shuffles(0)
    alone = rows.means(
        [Variant(), *(Variant(shuffled={i: first}) for i in fields)],
        lambda done: progress(done, len(fields) + 1, "screen fields"),
    )
    rise = dict(zip(fields, (alone[1:] - alone[0]).tolist(), strict=True))
    kept = set(sorted(fields, key=lambda i: -abs(rise[i]))[:SCREENED_FIELDS])
    pairs = [pair for pair in pairs if kept.issuperset(pair)]
    both = rows.means(
        [Variant(shuffled={i: first, j: second}) for i, j in pairs],
        lambda done: progress(done, len(pairs), "screen pairs"),
    )
    scores = [
        rise[i] + rise[j] - (float(loss) - float(alone[0]))
        for (i, j), loss in zip(pairs, both, strict=True)
    ]
    best = np.argsort(-np.abs(scores), kind="stable")[: options.pairs]
    return [pairs[k] for k in best.tolist()]


def cost(
    pairs: Sequence[tuple[int, int]], options: InteractionOptions, num_runs: int = 0
) -> tuple[int, int]:
    """Passes over the rows that `measure` makes: searching masks (at most), and scoring."""
    members = 1 + len(QUADRANTS) * SPLITS + num_runs
    fields = {i for pair in pairs for i in pair}
    search = most_passes(len(fields), len(pairs), SPLITS)
    return search, len(pairs) * members * (1 + 3 * options.repeats)


def measure(
    rows: MaskedRows,
    pairs: Sequence[tuple[int, int]],
    options: InteractionOptions,
    others: Sequence[tuple[str, MaskedRows]] = (),
    seed: int = 0,
    progress: Progress = lambda done, total, stage: None,
) -> Interactions:
    """Scores of some pairs in every model of the set.

    Args:
        rows: Of the reference model, with `options.num_shuffles` shuffles.
        pairs: Positions of fields.
        options: Allowance, repeats.
        others: Further models with their names, on the same rows with the same shuffles.
        seed: Of the bootstrap.
        progress: Told of passes.
    """
    space = NearOptimal(
        rows, options.epsilon, SPLITS, lambda done, total: progress(done, total, "search masks")
    )
    rises = {name: float(one.means([Variant()])[0]) - space.logloss for name, one in others}
    near = [(name, one) for name, one in others if rises[name] <= options.epsilon]
    halos, masked = space.search(pairs)
    draws = bootstrap_draws(len(rows), options.resamples, seed)
    per_model = 1 + 3 * options.repeats
    total, done = len(pairs) * (1 + len(QUADRANTS) * SPLITS + len(near)) * per_model, 0
    found = []
    for pair, halo, masks in zip(pairs, halos, masked, strict=True):
        names = rows.fields[pair[0]], rows.fields[pair[1]]
        models = [("reference", rows, 0.0, (1.0, 1.0))]
        models += [("mask", rows, rise, both) for both, rise in masks]
        models += [(name, one, rises[name], (1.0, 1.0)) for name, one in near]
        scored = []
        for _, one, _, both in models:
            at = position(one, names[0]), position(one, names[1])
            scored.append(pair_score(one, at, both, options))
            done += per_model
            progress(done, total, "score")
        lows, highs = intervals(np.stack([influence for _, influence in scored]), draws)
        members = tuple(
            Member(name, score, low, high, rise, both)
            for (name, _, rise, both), (score, _), low, high in zip(
                models, scored, lows.tolist(), highs.tolist(), strict=True
            )
        )
        found.append(PairInteraction(names, members, tuple(halo)))
    return Interactions(
        pairs=tuple(sorted(found, key=lambda one: -abs(one.reference.score))),
        epsilon=options.epsilon,
        logloss=space.logloss,
        num_rows=len(rows),
        num_passes=space.passes + len(others) + total,
        outside={name: rise for name, rise in rises.items() if rise > options.epsilon},
    )


def pair_score(
    rows: MaskedRows, pair: tuple[int, int], masks: Masks, options: InteractionOptions
) -> tuple[float, np.ndarray]:
    """The score of a pair in one model, and what each row has to do with it.

    A score is a mean over rows and over the rows whose values they get, a statistic of two samples
    (of three where the fields are shuffled apart): a row counts as itself and as a giver.

    Args:
        rows: Of the model.
        pair: Positions of two fields.
        masks: On them.
        options: Repeats, and whether the fields are shuffled together.

    Returns:
        Score in nats, and [n] numbers whose mean it is and whose spread is its uncertainty.
    """
    i, j = pair
    on = {i: masks[0], j: masks[1]}
    variants = [Variant(on)]
    for repeat in range(options.repeats):
        first, second = options.shuffles(repeat)
        variants += [
            Variant(on, {i: first}), Variant(on, {j: second}), Variant(on, {i: first, j: second})
        ]  # fmt: skip
    losses = rows.losses(variants).numpy()
    orders = rows.orders.cpu().numpy()
    each, given = np.zeros((2, len(rows)))
    for repeat in range(options.repeats):
        one, other, both = losses[1 + 3 * repeat : 4 + 3 * repeat]
        score = (one + other) - (both + losses[0])
        each += score
        givers = set(options.shuffles(repeat))
        for order in givers:
            given[orders[order]] += score - score.mean()
    each, given = each / options.repeats, given / options.repeats
    return float(each.mean()), each + given


def bootstrap_draws(num_rows: int, resamples: int, seed: int) -> np.ndarray:
    """How often each row is drawn, [R, n] uint8."""
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, num_rows), np.uint8)
    for row in draws:
        row[:] = np.bincount(rng.integers(0, num_rows, num_rows), minlength=num_rows)
    return draws


def intervals(influences: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % percentile intervals of the means of [M, n] numbers over rows, [M] each."""
    parts = np.array_split(draws, max(len(draws) // 64, 1))
    means = [part.astype(np.float64) @ influences.T / influences.shape[1] for part in parts]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975], axis=0)
    return low, high
