"""Options common to every data set: how columns are encoded, which are kept, how rows split."""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.data.infer import MAX_LENGTH
from recsys.data.raw import RawDataset
from recsys.data.schema import NUMERIC_ENCODINGS, Encoding, Field, Kind, Schema
from recsys.data.split import RandomSplit, SplitRule, TimeSplit
from recsys.errors import ConfigError, SchemaError, did_you_mean

IGNORE = "ignore"
"""Kind of a column that is no input, in `data.fields.<column>.kind`."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Keys of `configs/data/_common.yaml`. None keeps what the schema says.

    Args:
        min_count: Vocabulary: values seen fewer times in training become UNSEEN.
        max_size: Vocabulary: keep at most this many values, the most frequent.
        categorical: `vocabulary` or `hash`, for every category.
        hash_size: Buckets of a hashed field.
        numeric: `quantile`, `log`, `minmax` or `standard`, for every number.
        num_buckets: Buckets of a quantile field.
        max_length: Longest list kept.
        fields: Column name to keys of `Field`, or to `kind: ignore`. Wins over everything above.
        schema: An edited schema file, in place of the inferred one.
        features: Names of the columns to keep, or a file that ranks them, best first: CSV with a
            `feature` column (or names in the first), JSON list, or one name per line.
        top: Keep only so many of `features`.
        nan_as_missing: Treat NaN as missing instead of refusing it.
        split: `random` or `time`, for a table that comes in one piece.
        val_fraction: Share of validation rows.
        test_fraction: Share of test rows.
        split_seed: Seed of a random split.
        rebuild: Prepare again even when a prepared copy is there.
        store: Folder or address where prepared data are looked for and put, for all machines.
        engine: Who prepares: `local`, this process, or `ray`, a cluster; the bytes are the same.
        ray_address: `local`, `host:port`, or `auto`: as `RAY_ADDRESS` says, or the cluster that
            this machine belongs to, or else `local`.
    """

    min_count: int | None = None
    max_size: int | None = None
    categorical: str | None = None
    hash_size: int = 1_000_000
    numeric: str | None = None
    num_buckets: int = 32
    max_length: int | None = None
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    schema: str | Path | None = None
    features: str | Path | list[str] | None = None
    top: int | None = None
    nan_as_missing: bool = False
    split: str = "random"
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    rebuild: bool = False
    store: str | None = None
    engine: str = "local"
    ray_address: str = "auto"

    def __post_init__(self) -> None:
        allowed = {
            "categorical": (None, "vocabulary", "hash"),
            "numeric": (None, *(str(one) for one in NUMERIC_ENCODINGS)),
            "split": ("random", "time"),
            "engine": ("local", "ray"),
        }
        for key, choices in allowed.items():
            value = getattr(self, key)
            if value not in choices:
                names = [one for one in choices if one is not None]
                raise ConfigError(
                    f"data.{key}={value} is not a choice.{did_you_mean(value, names)}"
                )

    @property
    def ignored(self) -> tuple[str, ...]:
        """Columns with `kind: ignore`; `infer_schema` does not look at their types."""
        return tuple(name for name, keys in self.fields.items() if keys.get("kind") == IGNORE)

    def rule_of(self, raw: RawDataset, schema: Schema) -> SplitRule | None:
        """The split of a data set: its own, or what these options ask for; None where its splits
        are files.

        Args:
            raw: Files and rule.
            schema: With the options applied.
        """
        if raw.split == "options" or (raw.split is None and "all" in raw.files):
            return self.split_rule(schema, given=raw.files.keys())
        return raw.split

    def split_rule(self, schema: Schema, given: Collection[str] = ()) -> SplitRule:
        """The split these options ask for.

        Args:
            schema: Names the time column of a split by time.
            given: Splits that come as files of their own; they take no share of this table.
        """
        val = 0.0 if "val" in given else self.val_fraction
        test = 0.0 if "test" in given else self.test_fraction
        train = 1.0 - val - test
        if train <= 0 or val < 0 or test < 0:
            raise ConfigError(
                f"data.val_fraction={self.val_fraction} and data.test_fraction="
                f"{self.test_fraction} leave {train:g} for training; both must be >= 0 and their "
                "sum below 1."
            )
        fractions = (train, val, test)
        if self.split == "random":
            return RandomSplit(fractions, self.split_seed)
        if schema.timestamp is None:
            raise ConfigError("data.split=time needs a time column: set data.timestamp=<column>.")
        return TimeSplit(schema.timestamp, fractions)


def apply_options(schema: Schema, options: DataOptions) -> Schema:
    """Return the schema with the options applied.

    The order is: edited schema file, general options, options per column, choice of columns.

    Raises:
        SchemaError: A column that is named does not exist, or an option does not fit its kind.
    """
    if options.schema is not None:
        schema = Schema.load(Path(options.schema))
    for name in set(options.fields) - set(options.ignored):
        schema[name]  # raises with a suggestion
    fields = []
    for one in schema:
        changed = _override(_general(one, options), options.fields.get(one.name, {}), options)
        if changed is not None:
            fields.append(changed)
    _check_shares(fields, options)
    schema = schema.replace(_coded_alike(_unshare(fields)))
    if options.features is not None:
        schema = _choose(schema, options)
    elif options.top is not None:
        raise ConfigError("data.top needs a ranking: set data.features=<file of ranked columns>.")
    if not schema.fields:
        raise SchemaError("no input column is left; keep at least one.")
    return schema


def _general(one: Field, options: DataOptions) -> Field:
    if one.kind is Kind.NUMERIC:
        encoding = Encoding(options.numeric) if options.numeric else one.encoding
    else:
        encoding = Encoding(options.categorical) if options.categorical else one.encoding
    return _complete(
        dataclasses.replace(
            one,
            encoding=encoding,
            min_count=one.min_count if options.min_count is None else options.min_count,
            max_size=one.max_size if options.max_size is None else options.max_size,
            max_length=options.max_length or one.max_length if one.is_ragged else None,
        ),
        options,
    )


def _complete(one: Field, options: DataOptions) -> Field:
    """Fill the numbers that an encoding needs and drop those it does not use."""
    hashed, quantile = one.encoding is Encoding.HASH, one.encoding is Encoding.QUANTILE
    vocabulary = one.encoding is Encoding.VOCABULARY
    return dataclasses.replace(
        one,
        min_count=one.min_count if vocabulary else 1,
        max_size=one.max_size if vocabulary else None,
        hash_size=(one.hash_size or options.hash_size) if hashed else None,
        num_buckets=(one.num_buckets or options.num_buckets) if quantile else None,
        max_length=(one.max_length or MAX_LENGTH) if one.is_ragged else None,
    )


def _override(one: Field, keys: Mapping[str, Any], options: DataOptions) -> Field | None:
    """Apply `data.fields.<column>`; None when the column is to be ignored."""
    if not keys:
        return one
    allowed = [f.name for f in dataclasses.fields(Field) if f.name not in ("name", "size")]
    for key in keys:
        if key not in allowed:
            raise SchemaError(
                f"data.fields.{one.name}.{key} is not an option.{did_you_mean(key, allowed)}"
            )
    kind = keys.get("kind", one.kind)
    if kind == IGNORE:
        return None
    kinds = [*(str(k) for k in Kind), IGNORE]
    if kind not in kinds:
        raise SchemaError(
            f"data.fields.{one.name}.kind={kind} is not a kind.{did_you_mean(str(kind), kinds)}"
        )
    encoding = keys.get("encoding", one.encoding)
    if "encoding" not in keys and (Kind(kind) is Kind.NUMERIC) != (one.kind is Kind.NUMERIC):
        numeric, category = options.numeric or "log", options.categorical or "vocabulary"
        encoding = numeric if Kind(kind) is Kind.NUMERIC else category
    try:
        encoding = Encoding(encoding)
    except ValueError as error:
        names = [str(e) for e in Encoding]
        raise SchemaError(
            f"data.fields.{one.name}.encoding={encoding} is not an encoding."
            f"{did_you_mean(str(encoding), names)}"
        ) from error
    return _complete(
        dataclasses.replace(one, **{**keys, "kind": Kind(kind), "encoding": encoding}), options
    )


def _check_shares(fields: list[Field], options: DataOptions) -> None:
    """Refuse a `shares` that was asked for and cannot be; one that was inferred may be undone."""
    kinds = {one.name: one.kind for one in fields}
    for one in fields:
        target = options.fields.get(one.name, {}).get("shares")
        if target is None or kinds.get(target) is Kind.CATEGORICAL:
            continue
        what = f"that field is {kinds[target]}" if target in kinds else "there is no such field"
        allowed = [name for name, kind in kinds.items() if kind is Kind.CATEGORICAL]
        raise SchemaError(
            f"data.fields.{one.name}.shares={target}: {what}, but a history shares the table of a "
            f"category.{did_you_mean(str(target), allowed)}"
        )


def _unshare(fields: list[Field]) -> list[Field]:
    """A history whose target was ignored or is no category any more gets its own table."""
    targets = {f.name for f in fields if f.kind is Kind.CATEGORICAL}
    return [
        f if f.shares is None or f.shares in targets else dataclasses.replace(f, shares=None)
        for f in fields
    ]


def _coded_alike(fields: list[Field]) -> list[Field]:
    """A history of a dynamic field is dynamic as well: they have one table."""
    dynamic = {one.name for one in fields if one.encoding is Encoding.DYNAMIC}
    return [
        dataclasses.replace(one, encoding=Encoding.DYNAMIC, min_count=1, max_size=None)
        if one.shares in dynamic
        else one
        for one in fields
    ]


def _choose(schema: Schema, options: DataOptions) -> Schema:
    features = options.features
    names = list(features) if isinstance(features, list) else read_ranking(Path(str(features)))
    if options.top is not None:
        if options.top < 1:
            raise ConfigError(f"data.top={options.top}; it must be at least 1.")
        names = names[: options.top]
    return schema.select(names)


def read_ranking(path: Path) -> list[str]:
    """Column names from a CSV, JSON or text file, best first."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"data.features={path} cannot be read: {error}.") from error
    if path.suffix == ".json":
        raw = json.loads(text)
        rows = raw if isinstance(raw, list) else list(raw)
        return [str(row["feature"]) if isinstance(row, dict) else str(row) for row in rows]
    if path.suffix == ".csv":
        table = list(csv.reader(text.splitlines()))
        header = [cell.strip().lower() for cell in table[0]] if table else []
        if "feature" in header:
            return [row[header.index("feature")] for row in table[1:] if row]
        return [row[0] for row in table if row]
    return [line.strip() for line in text.splitlines() if line.strip()]
