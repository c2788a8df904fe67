"""A table of planted columns: informative, redundant, interacting, and noise."""

from __future__ import annotations

import numpy as np
import polars as pl

from recsys.data.infer import infer_schema
from recsys.data.raw import RawDataset
from recsys.data.readers import Source

INFORMATIVE = {"strong", "copy", "weak"}


def planted(rows: int = 40_000, seed: int = 0) -> pl.DataFrame:
    """Columns `strong`, its `copy`, `weak`, the pair `left` and `right`, an `id`, noise."""
    generator = np.random.default_rng(seed)
    strong, weak = generator.integers(0, 20, rows), generator.integers(0, 8, rows)
    left, right = generator.integers(0, 4, rows), generator.integers(0, 4, rows)
    logit = -1.5 + generator.normal(0, 0.7, 20)[strong] + generator.normal(0, 0.25, 8)[weak]
    logit += np.where((left + right) % 2 == 0, 0.8, -0.8)
    columns = {
        "strong": strong, "weak": weak, "copy": 19 - strong, "left": left, "right": right,
        "id": np.arange(rows), "constant": np.zeros(rows, int),
    }  # fmt: skip
    columns |= {f"noise{size}": generator.integers(0, size, rows) for size in (2, 30, 3_000)}
    columns["click"] = (generator.random(rows) < 1 / (1 + np.exp(-logit))).astype(int)
    return pl.DataFrame(columns)


def dataset(frame: pl.DataFrame, label: str = "click", **roles: str) -> RawDataset:
    """A frame as a raw data set without a split."""
    source = Source.from_frame(frame)
    return RawDataset("planted", {"train": source}, infer_schema(source, label, **roles))
