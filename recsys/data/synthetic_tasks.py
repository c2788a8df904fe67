"""Three labels of the same rows whose true probabilities are known, two of one mind, one opposed.

For multi-task models: what helps `first` helps `second`, which is rare and has much to gain from
it, and hinders `opposed`.

    effect                        first, second                opposed, at conflict 1
    user, item (long-tailed ids)  main effects                 the same, with the other sign
    place x screen,               product of two hidden signs, product of two other signs of the
    color x shape, mood x tempo   and a little of each sign    same values, and a little of each
    own                           small effects of user and item, for each label anew

Every value of place, screen, ... has a shared and an opposed sign, both +1 or -1 half of the time
and independent of one another. A logit with the other sign throughout would be no conflict, as a
task's own last layer can turn it; other signs are one: a common bottom must tell both products of
every pair, which a narrow one cannot, and each product is second-order. The signs' own small
effects are there because they are easy to find, and lead to the products.

With `conflict` c below 1, `opposed` has (1 - 2c) times the shared main effects; of signs and
products (1 - c) times the shared ones plus c times its own, scaled to the same variance. At c = 0
it is one more related label. The columns, `first` and `second` do not depend on c.

Letters   R rows, K labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import polars as pl

from recsys.data.synthetic import long_tailed, named, sigmoid
from recsys.errors import ConfigError

LABELS = ("first", "second", "opposed")
INTERCEPTS = {"first": -0.9, "second": -2.9, "opposed": -0.9}
PAIRS = (("place", "screen"), ("color", "shape"), ("mood", "tempo"))
NUM_USERS = 300
NUM_ITEMS = 200
NUM_SIGNED = 12
"""Values of a column of `PAIRS`: three for each combination of a shared and an opposed sign."""
SIGN_EFFECT = 0.25
PAIR_EFFECT = 0.8
OWN_EFFECT = 0.15
"""Deviation of a label's own effects of user and of item."""


@dataclass(frozen=True)
class SyntheticTasks:
    """A generated table and the truth behind it.

    Shape:
        frame        R rows, independent of one another, with all labels
        probability  [R, K]  true probability of each label
        terms        label -> name -> [R] what each planted effect adds to the label's logit
    """

    frame: pl.DataFrame
    probability: np.ndarray
    terms: dict[str, dict[str, np.ndarray]]


def generate_tasks(rows: int, seed: int = 0, *, conflict: float = 1.0) -> SyntheticTasks:
    """Draw a table with the three labels.

    Args:
        rows: Number of rows, 1 or more.
        seed: Seed of the world (effects and signs) and of the rows.
        conflict: 0 makes `opposed` a related label, 1 shares nothing with it that helps.

    Raises:
        ConfigError: A number is out of range.
    """
    if rows < 1:
        raise ConfigError(f"rows is {rows}; a synthetic table needs at least 1 row.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more.")
    if not 0 <= conflict <= 1:
        raise ConfigError(f"conflict is {conflict}; it must be between 0 and 1.")
    world = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 2])))
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 3])))
    user, item = long_tailed(draw, NUM_USERS, rows), long_tailed(draw, NUM_ITEMS, rows)
    columns = {"user": pl.Series(user + 1), "item": pl.Series(item + 1)}
    main = {
        "user": world.normal(0, 0.45, NUM_USERS)[user],
        "item": world.normal(0, 0.55, NUM_ITEMS)[item],
    }
    shared: dict[str, np.ndarray] = {}
    other: dict[str, np.ndarray] = {}
    for pair in PAIRS:
        signs = []
        for name in pair:
            value, sign = _signed(draw, world, rows)
            columns[name] = named([f"{name}-{k}" for k in range(NUM_SIGNED)], value)
            shared[name], other[name] = SIGN_EFFECT * sign
            signs.append(sign)
        both = " x ".join(pair)
        shared[both], other[both] = PAIR_EFFECT * signs[0] * signs[1]

    size = math.hypot(1 - conflict, conflict)
    mixed = {k: ((1 - conflict) * shared[k] + conflict * other[k]) / size for k in shared}
    terms: dict[str, dict[str, np.ndarray]] = {}
    for label in LABELS:
        terms[label] = main | shared  # a mapping of its own, as its own effects are added
    terms["opposed"] = {k: (1 - 2 * conflict) * term for k, term in main.items()} | mixed
    for label in LABELS:
        of_user, of_item = (world.normal(0, OWN_EFFECT, n) for n in (NUM_USERS, NUM_ITEMS))
        terms[label]["own"] = of_user[user] + of_item[item]
    logits = [INTERCEPTS[label] + np.sum(list(terms[label].values()), axis=0) for label in LABELS]
    probability = sigmoid(np.stack(logits, axis=1))
    drawn = draw.random(probability.shape) < probability
    for column, label in enumerate(LABELS):
        columns[label] = pl.Series(drawn[:, column].astype(np.int8))
    return SyntheticTasks(pl.DataFrame(columns), probability, terms)


def _signed(
    draw: np.random.Generator, world: np.random.Generator, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """Values of one column, long-tailed, and their two hidden signs [2, R], both fair."""
    values = world.permutation(NUM_SIGNED).reshape(4, -1)
    kind = draw.integers(0, 4, rows)
    value = values[kind, long_tailed(draw, NUM_SIGNED // 4, rows)]
    return value, np.stack([2.0 * (kind // 2) - 1.0, 2.0 * (kind % 2) - 1.0])
