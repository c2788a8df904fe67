"""The schema: which columns there are, what each one is, and how it becomes numbers.

A schema is data: it is inferred once, printed as a table, saved as YAML that a person may edit, and
travels with every store, checkpoint and model. Field ORDER is part of it.

Letters   B rows, F categorical fields, N dense columns.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from recsys.data.nested import Nested
from recsys.errors import SchemaError, did_you_mean

# The three things a code can be that is not a token. They are the same for every field and file.
PADDING = 0
"""A position that holds nothing: the tail of a short history. Its vector is always zero."""
MISSING = 1
"""The row has no value (null) in this field."""
UNSEEN = 2
"""The value was not in the training vocabulary, or was rarer than `min_count` there."""
NUM_RESERVED = 3
"""Tokens have codes `NUM_RESERVED, NUM_RESERVED + 1, ...` by descending training frequency."""


class Kind(StrEnum):
    """What a column is."""

    CATEGORICAL = "categorical"
    MULTIVALUED = "multivalued"
    """A list of categories without order, pooled to one vector (mean)."""
    NUMERIC = "numeric"
    HISTORY = "history"
    """A list of categories in time order, oldest first; shares the table of its `shares` field."""


class Encoding(StrEnum):
    """How a column's values become numbers."""

    VOCABULARY = "vocabulary"
    """Codes by descending training frequency; values under `min_count` become UNSEEN."""
    HASH = "hash"
    """Codes by a fixed 64-bit hash of the value, modulo `hash_size`; nothing is fitted."""
    DYNAMIC = "dynamic"
    """A number of its own for every value there could be (`recsys.data.hashing.open_codes`);
    nothing is fitted. The model gives rows to those that occur (`embedding.vocabulary=dynamic`)."""
    QUANTILE = "quantile"
    """Numeric to `num_buckets` training quantiles; the field is then categorical for the models."""
    LOG = "log"
    """sign(x) * log(1 + |x|), then standardised by the training mean and deviation."""
    MINMAX = "minmax"
    """(x - min) / (max - min) of the training rows, clipped to [0, 1]."""
    STANDARD = "standard"
    """(x - mean) / deviation of the training rows."""


CATEGORY_ENCODINGS = (Encoding.VOCABULARY, Encoding.HASH, Encoding.DYNAMIC)
NUMERIC_ENCODINGS = (Encoding.QUANTILE, Encoding.LOG, Encoding.MINMAX, Encoding.STANDARD)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One input column."""

    name: str
    """Column name in the raw table."""
    kind: Kind
    encoding: Encoding
    dtype: str = "string"
    """Raw logical type: `string`, `int`, `float`, `bool` (element type for lists)."""
    min_count: int = 1
    """Vocabulary: tokens seen fewer times in training become UNSEEN."""
    max_size: int | None = None
    """Vocabulary: keep at most this many tokens, the most frequent."""
    hash_size: int | None = None
    """Hash: number of buckets."""
    num_buckets: int | None = None
    """Quantile: number of buckets."""
    max_length: int | None = None
    """Multi-valued and history: longest list kept (a history keeps its LAST positions)."""
    shares: str | None = None
    """Field whose vocabulary and table this one uses (a history and its target item)."""
    size: int | None = None
    """Number of codes, the three reserved ones included; known after fitting."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", Kind(self.kind))
        object.__setattr__(self, "encoding", Encoding(self.encoding))
        allowed = NUMERIC_ENCODINGS if self.kind is Kind.NUMERIC else CATEGORY_ENCODINGS
        if self.encoding not in allowed:
            raise SchemaError(
                f'field "{self.name}" is {self.kind} with encoding {self.encoding}; '
                f"allowed: {', '.join(allowed)}. Edit data.fields.{self.name}.encoding."
            )
        for key in ("min_count", "max_size", "hash_size", "num_buckets", "max_length"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise SchemaError(f'field "{self.name}" has {key}={value}; it must be at least 1.')

    @property
    def is_coded(self) -> bool:
        """True when the models see integer codes of this field rather than a number."""
        return self.kind is not Kind.NUMERIC or self.encoding is Encoding.QUANTILE

    @property
    def is_ragged(self) -> bool:
        """True when a row holds a list."""
        return self.kind in (Kind.MULTIVALUED, Kind.HISTORY)


@dataclass(frozen=True)
class Schema:
    """Columns of a data set, in order.

    Example:
        >>> schema = Schema(
        ...     fields=(Field(name="user", kind="categorical", encoding="vocabulary"),),
        ...     labels=("click",),
        ... )
        >>> schema.names
        ('user',)
    """

    fields: tuple[Field, ...]
    labels: tuple[str, ...]
    weight: str | None = None
    group: str | None = None
    """Column for grouped metrics, usually the user id."""
    timestamp: str | None = None
    nested: Mapping[str, str] = Nested()
    """Label to the label that must hold before it can: a conversion to its click."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", tuple(self.fields))
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "nested", Nested(self.nested, self.labels))
        names = [field.name for field in self.fields]
        twice = sorted(
            {one for some in (names, self.labels) for one in some if some.count(one) > 1}
        )
        if twice:
            raise SchemaError(f"the schema names these columns twice: {', '.join(twice)}.")
        leaked = [label for label in self.labels if label in names]
        if leaked:
            raise SchemaError(
                f"label columns cannot also be input fields: {', '.join(leaked)}. "
                "Remove them from the fields."
            )
        for field in self.fields:
            if field.shares is not None:
                target = self[field.shares]
                if target.kind is not Kind.CATEGORICAL:
                    raise SchemaError(
                        f'field "{field.name}" shares the table of "{target.name}", which is '
                        f"{target.kind}; it must be categorical."
                    )

    def __getitem__(self, name: str) -> Field:
        for field in self.fields:
            if field.name == name:
                return field
        raise SchemaError(f'there is no field "{name}".{did_you_mean(name, self.names)}')

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __len__(self) -> int:
        return len(self.fields)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields)

    @property
    def coded(self) -> tuple[Field, ...]:
        """Single-valued fields that reach the models as codes: the columns of `Batch.ids`."""
        return tuple(f for f in self.fields if f.is_coded and not f.is_ragged)

    @property
    def dense(self) -> tuple[Field, ...]:
        """Numeric fields that reach the models as numbers: the columns of `Batch.dense`."""
        return tuple(f for f in self.fields if not f.is_coded)

    @property
    def ragged(self) -> tuple[Field, ...]:
        """Multi-valued and history fields: the keys of `Batch.ragged`."""
        return tuple(f for f in self.fields if f.is_ragged)

    @property
    def columns(self) -> tuple[str, ...]:
        """Every raw column that is read, each once: fields, labels, weight, group, timestamp."""
        extra = (self.weight, self.group, self.timestamp)
        names = (*self.names, *self.labels, *(name for name in extra if name is not None))
        return tuple(dict.fromkeys(names))

    @property
    def parents(self) -> tuple[int, ...]:
        """For each label the position of its parent in `labels`, or -1."""
        of = self.nested
        return tuple(self.labels.index(of[name]) if name in of else -1 for name in self.labels)

    def replace(self, fields: Iterable[Field]) -> Schema:
        """Return this schema with other fields."""
        return dataclasses.replace(self, fields=tuple(fields))

    def select(self, names: Iterable[str]) -> Schema:
        """Keep only these fields, in the schema's own order, and the fields their tables need."""
        wanted = set(names)
        for name in sorted(wanted):
            self[name]  # raises with a suggestion
        wanted |= {f.shares for f in self.fields if f.name in wanted and f.shares is not None}
        return self.replace(f for f in self.fields if f.name in wanted)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only; defaults are left out so that the YAML stays short."""
        defaults = {f.name: f.default for f in dataclasses.fields(Field)}
        fields = []
        for field in self.fields:
            row = {}
            for key, value in dataclasses.asdict(field).items():
                if value != defaults[key]:
                    row[key] = str(value) if isinstance(value, StrEnum) else value
            fields.append(row)
        out: dict[str, Any] = {"labels": list(self.labels), "fields": fields}
        for key in ("weight", "group", "timestamp"):
            if getattr(self, key) is not None:
                out[key] = getattr(self, key)
        if self.nested:
            out["nested"] = dict(self.nested)
        return out

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Schema:
        """Inverse of `to_dict`; unknown keys are errors with a suggestion."""
        allowed = [f.name for f in dataclasses.fields(cls)]
        for key in raw:
            if key not in allowed:
                raise SchemaError(f'unknown schema key "{key}".{did_you_mean(key, allowed)}')
        known = [f.name for f in dataclasses.fields(Field)]
        fields = []
        for row in raw.get("fields", []):
            for key in row:
                if key not in known:
                    raise SchemaError(
                        f'unknown key "{key}" in field "{row.get("name", "?")}".'
                        f"{did_you_mean(key, known)}"
                    )
            fields.append(Field(**row))
        optional = ("weight", "group", "timestamp", "nested")
        rest = {key: raw[key] for key in optional if key in raw}
        return cls(fields=tuple(fields), labels=tuple(raw.get("labels", ())), **rest)

    def save(self, path: Path) -> None:
        """Write the schema as YAML that a person may edit."""
        header = (
            "# One entry per input column, in the order the models see them. Edit and pass it as\n"
        )
        header += "# data.schema=<this file>.\n"
        path.write_text(header + yaml.safe_dump(self.to_dict(), sort_keys=False, width=100))

    @classmethod
    def load(cls, path: Path) -> Schema:
        """Read a schema written by `save`."""
        try:
            raw = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise SchemaError(f"cannot read the schema file {path}: {error}") from error
        if not isinstance(raw, dict):
            raise SchemaError(
                f"the schema file {path} must be a mapping with `fields` and `labels`."
            )
        return cls.from_dict(raw)

    def digest(self) -> str:
        """A short hash that changes when anything in the schema does."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def diff(self, other: Schema) -> str:
        """Lines that differ, `-` for this schema and `+` for the other; empty when equal."""
        mine, theirs = self._lines(), other._lines()
        lines = [f"- {line}" for line in mine if line not in theirs]
        lines += [f"+ {line}" for line in theirs if line not in mine]
        if not lines and mine != theirs:
            lines = [
                "the same columns in another order:",
                *(f"- {m}\n+ {t}" for m, t in zip(mine, theirs, strict=True) if m != t),
            ]
        return "\n".join(lines)

    def _lines(self) -> list[str]:
        raw = self.to_dict()
        lines = [json.dumps(field) for field in raw.pop("fields")]
        return [*lines, *(f"{key}: {value}" for key, value in raw.items())]
