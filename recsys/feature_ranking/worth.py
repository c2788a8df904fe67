"""Which ranked columns tell a model something: alone, or together with another.

A column is kept for what it tells alone where that is above chance, at most `MOST_FALSE` of such
columns being chance (q). Two columns that tell something only together are kept for what they tell
together, where that would be above chance if every pair of columns had been tried (Bonferroni).
Constants and copies tell a model nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

MOST_FALSE = 0.05
USELESS = ("same as ", "constant", "missing in every row")
"""Flags of columns that no model can use."""


@dataclass(frozen=True)
class ColumnWorth:
    """The columns of a ranking, sorted by use.

    Args:
        worth: Of the columns above chance, best first: excess information in nats, alone or with a
            partner, whichever is more.
        partners: Of the columns whose worth is that of a pair, the other of it.
        chance: Columns that tell nothing above chance, in the order of the ranking.
        useless: Constants, copies and empty columns, and the flag that says so.
    """

    worth: dict[str, float]
    partners: dict[str, str]
    chance: tuple[str, ...]
    useless: dict[str, str]


def column_worth(features: pl.DataFrame, pairs: pl.DataFrame) -> ColumnWorth:
    """Sort the columns of a ranking.

    Args:
        features: Its `feature`, `excess`, `q`, and where there are such `flags`.
        pairs: Its `first`, `second`, `interaction` and `p`; may be empty.

    Example:
        >>> features = pl.DataFrame({"feature": ["a", "b", "c"], "excess": [0.1, 0.0, 0.0],
        ...                          "q": [0.0, 1.0, 1.0]})
        >>> pairs = pl.DataFrame({"first": ["b"], "second": ["c"], "interaction": [0.2],
        ...                       "p": [0.0]})
        >>> column_worth(features, pairs).worth
        {'b': 0.2, 'c': 0.2, 'a': 0.1}
    """
    names = features["feature"].to_list()
    place = {name: at for at, name in enumerate(names)}
    useless = _useless(features)
    worth = {
        row["feature"]: float(row["excess"])
        for row in features.iter_rows(named=True)
        if row["feature"] not in useless and row["excess"] > 0 and row["q"] <= MOST_FALSE
    }
    partners: dict[str, str] = {}
    tried = len(names) * (len(names) - 1) / 2
    for row in pairs.iter_rows(named=True):
        both, told = (str(row["first"]), str(row["second"])), float(row["interaction"])
        if row["p"] * tried > MOST_FALSE or any(n in useless or n not in place for n in both):
            continue
        for name, other in (both, both[::-1]):
            if told > worth.get(name, 0.0):
                worth[name], partners[name] = told, other
    kept = sorted(worth, key=lambda name: (-worth[name], place[name]))
    return ColumnWorth(
        worth={name: worth[name] for name in kept},
        partners=partners,
        chance=tuple(name for name in names if name not in worth and name not in useless),
        useless=useless,
    )


def _useless(features: pl.DataFrame) -> dict[str, str]:
    if "flags" not in features.columns:
        return {}
    said = zip(features["feature"], features["flags"].fill_null(""), strict=True)
    found = {}
    for name, flags in said:
        signs = [flag for flag in flags.split("; ") if flag.startswith(USELESS)]
        if signs:
            found[name] = signs[0]
    return found
