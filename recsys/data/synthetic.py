"""Clicks whose true probability is known: seeded, with every effect planted on purpose.

A row is one ad shown to a user. Its true logit is a sum of terms, each a function of what a model
can see, so the best possible AUC and log-loss are known exactly and a model can be judged by how
far it comes.

    column               effect on the click
    user, item           main effect of a long-tailed id
    device, hour         main effect of a few categories
    color x shape        +-strength by the product of two hidden signs, each +1 or -1 half of the
                         time: a pure second-order interaction, neither column alone says anything
    history x item       every item is of one of two hidden topics: the share of the history that
                         is of the item's own topic
    history              the share of the history that is of the better topic
    price                a bump: cheap and dear are both worse; missing where the ad hides it, which
                         has an effect of its own
    age, city            none, and missing at random

`conversion`, the second label, happens after a click only, by user, item and price.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.errors import ConfigError

LABELS = ("click", "conversion")

NUM_USERS = 200
NUM_ITEMS = 120
NUM_TOPICS = 2
NUM_CITIES = 20
NUM_SIGNED = 6
"""Values of color and of shape."""
MAX_HISTORY = 15
DEVICES = ("phone", "tablet", "desktop", "tv")
TOPIC_EFFECT = np.array([-0.5, 0.5])
NUM_DAYS = 14
FIRST_SECOND = 1_700_006_400
"""Time of the first row: a midnight, in seconds since 1970."""


@dataclass(frozen=True)
class Synthetic:
    """A generated table and the truth behind it.

    Shape:
        frame        rows in time order, with all labels
        probability  [rows, 2]  true probability of each of `LABELS`
        terms        name -> [rows] what each planted effect adds to the logit of a click
    """

    frame: pl.DataFrame
    probability: np.ndarray
    terms: dict[str, np.ndarray]


def generate(rows: int, seed: int = 0, *, history: bool = True, strength: float = 1.0) -> Synthetic:
    """Draw a table of clicks.

    The world (effects, tastes, topics) depends on the seed alone, so that two sizes of the same
    seed are samples of the same problem.

    Args:
        rows: Number of rows, 1 or more.
        seed: Seed of the world and of the rows.
        history: Plant the history effect and give the `history` column.
        strength: Factor on every planted effect; 0 leaves labels that nothing can predict.
    """
    if rows < 1:
        raise ConfigError(f"rows is {rows}; a synthetic table needs at least 1 row.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more.")
    world = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 0])))
    draw = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 1])))
    topic = world.permutation(NUM_ITEMS) % NUM_TOPICS
    columns: dict[str, pl.Series] = {}
    terms: dict[str, np.ndarray] = {}

    second = np.sort(draw.integers(0, NUM_DAYS * 86_400, rows))
    columns["time"] = pl.Series(FIRST_SECOND + second)
    hour = second // 3600 % 24
    user = long_tailed(draw, NUM_USERS, rows)
    item = long_tailed(draw, NUM_ITEMS, rows)
    columns["user"], columns["item"] = pl.Series(user + 1), pl.Series(item + 1)
    terms["user"] = world.normal(0, 0.4, NUM_USERS)[user]
    terms["item"] = (TOPIC_EFFECT[topic] + world.normal(0, 0.5, NUM_ITEMS))[item]

    device = draw.choice(len(DEVICES), rows, p=[0.6, 0.1, 0.25, 0.05])
    columns["device"] = named(DEVICES, device)
    terms["device"] = np.array([0.3, 0.0, -0.4, -1.1])[device]
    columns["hour"] = pl.Series(hour)
    terms["hour"] = 0.35 * np.sin(2 * np.pi * (hour - 14) / 24)

    terms["color x shape"] = np.full(rows, 1.1)
    for name in ("color", "shape"):
        sign, value = _balanced_signs(draw, world, rows)
        columns[name] = named([f"{name}-{k}" for k in range(NUM_SIGNED)], value)
        terms["color x shape"] *= sign

    columns["price"], terms["price"] = _price(draw, rows)
    # What nothing depends on.
    columns["age"] = _hide(draw.integers(18, 80, rows), draw.random(rows) < 0.05)
    columns["city"] = _hide(long_tailed(draw, NUM_CITIES, rows) + 1, draw.random(rows) < 0.1)
    if history:
        favourite = world.integers(0, NUM_TOPICS, NUM_USERS)[user]
        columns["history"], share = _history(draw, topic, favourite)
        some = share.sum(axis=1) > 0
        terms["history x item"] = 1.8 * (share[np.arange(rows), topic[item]] - 0.5) * some
        terms["history"] = 1.2 * share @ TOPIC_EFFECT

    logit = strength * np.sum(list(terms.values()), axis=0) - 1.3
    probability = sigmoid(logit)
    clicked = draw.random(rows) < probability
    columns["click"] = pl.Series(clicked.astype(np.int8))
    later = world.normal(0, 0.5, NUM_USERS)[user] + world.normal(0, 0.7, NUM_ITEMS)[item]
    after_click = sigmoid(strength * (later - terms["price"]) - 1.2)
    converted = clicked & (draw.random(rows) < after_click)
    columns["conversion"] = pl.Series(converted.astype(np.int8))
    probability = np.column_stack([probability, probability * after_click])
    terms = {name: strength * term for name, term in terms.items()}
    return Synthetic(pl.DataFrame(columns), probability, terms)


def bayes_metrics(probability: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """The AUC and log-loss of predicting the true probability, the best that can be expected.

    `auc` and `logloss` are expectations over the labels given the rows: with p the probabilities,

        auc      sum over i != j of p_i (1 - p_j) ([p_i > p_j] + [p_i = p_j] / 2),
                 over sum over i != j of p_i (1 - p_j)
        logloss  mean of -p ln p - (1 - p) ln(1 - p)

    `realised_auc` and `realised_logloss` use the labels that were drawn.

    Shape:
        probability  [rows]
        label        [rows]  0 or 1

    Example:
        >>> import numpy as np
        >>> bayes_metrics(np.array([0.5, 0.5]), np.array([0, 1]))["auc"]
        0.5
    """
    p = probability.astype(np.float64)
    expected = {"auc": _auc(p, p), "logloss": float(-np.mean(_xlogy(p, p) + _xlogy(1 - p, 1 - p)))}
    y = label.astype(np.float64)
    realised = {
        "realised_auc": _auc(p, y),
        "realised_logloss": float(-np.mean(_xlogy(y, p) + _xlogy(1 - y, 1 - p))),
    }
    return expected | realised


def bayes_by_label(
    probability: np.ndarray, frame: pl.DataFrame, labels: Sequence[str]
) -> dict[str, float]:
    """`bayes_metrics` of some rows; with several labels, the names begin with `<label>/`.

    Shape:
        probability  [rows, K]  of each label
    """
    out: dict[str, float] = {}
    for column, label in enumerate(labels):
        metrics = bayes_metrics(probability[:, column], frame[label].to_numpy())
        prefix = f"{label}/" if len(labels) > 1 else ""
        out |= {f"{prefix}{name}": value for name, value in metrics.items()}
    return out


def _auc(score: np.ndarray, positive: np.ndarray) -> float:
    """AUC of rows that are positive with the given probability, independently; 1 and 0 are sure."""
    values, group = np.unique(score, return_inverse=True)
    pos = np.bincount(group, positive, len(values))
    neg = np.bincount(group, 1 - positive, len(values))
    self_pairs = float(np.sum(positive * (1 - positive)))
    below = np.cumsum(neg) - neg
    ordered = float(pos @ (below + 0.5 * neg)) - 0.5 * self_pairs
    pairs = float(pos.sum() * neg.sum()) - self_pairs
    return ordered / pairs if pairs > 0 else float("nan")


def _xlogy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """x ln y with 0 ln 0 = 0."""
    return x * np.log(np.where(x == 0, 1.0, y))


def sigmoid(logit: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logit))."""
    return 1.0 / (1.0 + np.exp(-logit))


def long_tailed(draw: np.random.Generator, size: int, rows: int) -> np.ndarray:
    """Ids with probability in proportion to 1 / (id + 5): a long tail, yet no id rules alone."""
    mass = np.cumsum(1.0 / (np.arange(size) + 5.0))
    return np.searchsorted(mass, draw.random(rows) * mass[-1])


def named(names: Sequence[str], index: np.ndarray) -> pl.Series:
    """The names at these positions."""
    return pl.Series(list(names))[pl.Series(index)]


def _hide(values: np.ndarray, hidden: np.ndarray) -> pl.Series:
    return pl.Series(pa.array(values, mask=hidden))


def _balanced_signs(
    draw: np.random.Generator, world: np.random.Generator, rows: int
) -> tuple[np.ndarray, np.ndarray]:
    """A fair sign for each row, and one of the values that carry this sign, long-tailed."""
    values = world.permutation(NUM_SIGNED).reshape(2, -1)
    plus = draw.integers(0, 2, rows)
    return 2.0 * plus - 1.0, values[plus, long_tailed(draw, NUM_SIGNED // 2, rows)]


def _price(draw: np.random.Generator, rows: int) -> tuple[pl.Series, np.ndarray]:
    """Log-normal prices; the effect peaks at the median, and is another one where it is hidden."""
    z = draw.normal(size=rows)
    hidden = draw.random(rows) < 0.12
    price = _hide(np.round(np.exp(2.5 + 0.8 * z), 2), hidden)
    return price, np.where(hidden, -1.1, 1.4 * np.exp(-2 * z**2) - 0.6)


def _history(
    draw: np.random.Generator, topic: np.ndarray, favourite: np.ndarray
) -> tuple[pl.Series, np.ndarray]:
    """Items a user saw before, oldest first, and the share of each topic in them, [rows, topics].

    Three events of five are of the favourite topic, the others of any; one row in six has none.
    """
    rows = len(favourite)
    members = np.stack([np.flatnonzero(topic == k) for k in range(NUM_TOPICS)])
    length = np.minimum(draw.geometric(1 / 6, rows) - 1, MAX_HISTORY)
    row = np.repeat(np.arange(rows), length)
    drawn = draw.integers(0, NUM_TOPICS, len(row))
    wanted = np.where(draw.random(len(row)) < 0.6, favourite[row], drawn)
    events = members[wanted, long_tailed(draw, members.shape[1], len(row))]
    count = np.bincount(row * NUM_TOPICS + wanted, minlength=rows * NUM_TOPICS)
    share = count.reshape(rows, NUM_TOPICS) / np.maximum(length, 1)[:, None]
    offsets = np.concatenate([[0], np.cumsum(length)])
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(events + 1))
    return pl.Series(lists), share
