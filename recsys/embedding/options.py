"""What `configs/embedding/*.yaml` holds: layout and width of the tables, and who gets rows."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from recsys.data.schema import NUM_RESERVED, Encoding, Schema
from recsys.embedding.id_map import EVICTIONS
from recsys.embedding.layout import Layout, lookups_by_size, table_specs
from recsys.embedding.sharding import check_sharding, shards
from recsys.errors import ConfigError, did_you_mean

NUMERICS = ("vector", "dense")
VOCABULARIES = ("fitted", "dynamic")
NEUTRAL: dict[str, Any] = {
    "dynamic": [], "capacity": 100_000, "min_count": 1, "evict": EVICTIONS[0],
}  # fmt: skip
"""Options that do nothing under a fitted vocabulary, as they are unless somebody sets them."""


@dataclass(frozen=True, kw_only=True)
class EmbeddingOptions:
    """What `configs/embedding/*.yaml` holds."""

    layout: str = "full"
    """One of `recsys.embedding.layout.LAYOUTS`."""
    dim: int = 16
    """Width of a vector; under `unified`, of one lookup."""
    ratio: float = 1.0
    """Bytes of the tables as a share of the full layout's at the same `dim`."""
    lookups: int | dict[str, int] = 1
    """Unified: lookups per field, or the most that the largest vocabulary gets."""
    numeric: str = "vector"
    """Numbers become `vector` (x times a learned vector, a slot of its own) or stay `dense`."""
    init_std: float = 0.01
    """Deviation of the normal initialisation."""
    sharding: str | dict[str, str] = "none"
    """How tables are split over processes, one of `recsys.embedding.sharding.SHARDINGS`, or
    table -> kind, where the planner chooses for tables that are not named."""
    vocabulary: str = "fitted"
    """`fitted`: the training rows say, before training, which values have rows. `dynamic`: ids of
    some columns get rows when training reads them (see `recsys.embedding.id_map`)."""
    dynamic: list[str] = field(default_factory=list)
    """Dynamic: the columns; none named: the categories called `id`, `*_id` or `*Id`."""
    capacity: int | dict[str, int] = NEUTRAL["capacity"]
    """Dynamic: rows of every such column, or of each by name."""
    min_count: int = NEUTRAL["min_count"]
    """Dynamic: occurrences in training before an id gets a row of its own."""
    evict: str = NEUTRAL["evict"]
    """Dynamic: who gives up a row when all are taken, one of `recsys.embedding.id_map.EVICTIONS`.
    """

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ConfigError(f"embedding.dim={self.dim}; it must be at least 1.")
        choices = (("numeric", NUMERICS), ("vocabulary", VOCABULARIES), ("evict", EVICTIONS))
        for key, allowed in choices:
            value = getattr(self, key)
            if value not in allowed:
                raise ConfigError(
                    f'embedding.{key}="{value}" does not exist.{did_you_mean(value, allowed)}'
                )
        check_sharding(self.sharding)
        self._check_dynamic()

    @property
    def is_dynamic(self) -> bool:
        """True where some ids get rows while training."""
        return self.vocabulary == "dynamic"

    def _check_dynamic(self) -> None:
        if not self.is_dynamic:
            for key, neutral in NEUTRAL.items():
                if getattr(self, key) != neutral:
                    raise ConfigError(
                        f"embedding.{key}={getattr(self, key)} is for ids that get rows while "
                        "training. Set embedding.vocabulary=dynamic, or leave it out."
                    )
            return
        if self.layout != "full":
            raise ConfigError(
                f"embedding.vocabulary=dynamic gives an id a row of its own, which layout "
                f'"{self.layout}" has not. Use embedding=full.'
            )
        if shards(self.sharding):
            raise ConfigError(
                f"embedding.vocabulary=dynamic with embedding.sharding={self.sharding}: rows are "
                "given out by one process, beside whole tables. Use embedding.sharding=none, or "
                "embedding=hashed for ids that grow."
            )
        sizes = self.capacity if isinstance(self.capacity, dict) else {"": self.capacity}
        for name, rows in sizes.items():
            at = f"embedding.capacity{'.' if name else ''}{name}"
            if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows <= 2**29:
                raise ConfigError(f"{at}={rows}; it must be a whole number from 1 to 2^29 rows.")
        if self.min_count < 1:
            raise ConfigError(f"embedding.min_count={self.min_count}; it must be at least 1.")

    def capacity_of(self, name: str) -> int:
        """Rows of a dynamic column.

        Raises:
            ConfigError: every column has its own, and this one has none.
        """
        if isinstance(self.capacity, int):
            return self.capacity
        if name not in self.capacity:
            raise ConfigError(
                f'embedding.capacity names {", ".join(self.capacity)}, but not "{name}", which is '
                f"dynamic. Add it: embedding.capacity={{{name}: <rows>, ...}}."
            )
        return self.capacity[name]

    def sized(self, schema: Schema) -> Schema:
        """The schema with as many codes in a dynamic column as its table has.

        Raises:
            ConfigError: the options and the schema disagree on what is dynamic.
        """
        names = [one.name for one in schema if one.encoding is Encoding.DYNAMIC]
        owners = [name for name in names if schema[name].shares is None]
        if bool(names) != self.is_dynamic:
            raise ConfigError(
                f"{', '.join(owners)}: encoded as dynamic, so that rows are given out while "
                "training. Set embedding.vocabulary=dynamic."
                if names
                else "embedding.vocabulary=dynamic, but no column of this data is encoded so. "
                "Prepare it with data.fields.<column>.encoding=dynamic."
            )
        if isinstance(self.capacity, dict):
            for name in self.capacity:
                if name not in owners:
                    raise ConfigError(
                        f"embedding.capacity.{name}: no dynamic column has that name."
                        f"{did_you_mean(name, owners)}"
                    )
        return schema.replace(
            dataclasses.replace(one, size=NUM_RESERVED + self.capacity_of(one.shares or one.name))
            if one.name in names
            else one
            for one in schema
        )

    def build_layout(self, schema: Schema) -> Layout:
        """Choose the rows of every table."""
        lookups = self.lookups
        schema = self.sized(schema)
        if isinstance(lookups, int):
            lookups = lookups_by_size(schema, lookups) if lookups > 1 else {}
        return Layout.build(self.layout, table_specs(schema, dict(lookups)), self.ratio)

    def card(self) -> dict[str, Any]:
        """Plain values, for the card of a saved model; nothing of what does nothing."""
        values = dataclasses.asdict(self)
        return values if self.is_dynamic else without_dynamic(values)


def without_dynamic(values: dict[str, Any]) -> dict[str, Any]:
    """The options of a fitted vocabulary, without those that do nothing there."""
    return {k: v for k, v in values.items() if k != "vocabulary" and k not in NEUTRAL}
