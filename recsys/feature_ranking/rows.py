"""Which rows a ranking counts, and what it knows of each: the label, and the part it belongs to.

Training rows fall into `NUM_BLOCKS` blocks by a fixed hash of the user (`group`) or else of the
row, from which half-samples are put together. Validation rows are one more part, for the held-out
check. Test rows are never looked at.

A row costs two bytes (its part and its class, in one number), four more where the label is a
number or rows have weights.

Letters   n rows of a file, K classes, P = NUM_BLOCKS + 1 parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import ndtri

from recsys.data.columns import dtype_name, groups, is_list, numbers, weights
from recsys.data.formats import plain, plain_type, whole_numbers
from recsys.data.hashing import mix64
from recsys.data.raw import RawDataset, SplitRule
from recsys.data.readers import Chunk, Source
from recsys.data.split import TEST, VAL, TimeSplit, assign
from recsys.errors import SchemaError

NUM_BLOCKS = 8
HELD_OUT = NUM_BLOCKS
NUM_PARTS = NUM_BLOCKS + 1
NOT_COUNTED = np.iinfo(np.uint16).max
"""Cell of a row that is left out: a test row, or one without a label."""
MAX_CLASSES = 256
SAMPLE_ROWS = 1 << 18
"""Training rows that are kept in memory for pairs of columns, drawn by a fixed hash."""
TARGETS = ("auto", "classes", "number")


_Read = tuple[Source, list[np.ndarray], list[np.ndarray], list[np.ndarray]]
"""Source, and of each of its chunks the parts, the labels and the weights."""


@dataclass(frozen=True)
class CountedFile:
    """The rows of one source.

    Args:
        source: Raw rows.
        cell: Of each row, [n] uint16: part * K + class; `NOT_COUNTED` where it is left out.
        number: Normal scores of a numeric label, [n] float32; None for classes.
        weight: [n] float32, or None.
        sample: Positions of the sampled training rows, increasing.
    """

    source: Source
    cell: np.ndarray
    number: np.ndarray | None
    weight: np.ndarray | None
    sample: np.ndarray


@dataclass(frozen=True)
class Rows:
    """All rows that are counted.

    Args:
        label: Name of the column.
        classes: Texts of the classes in order, of which there are K; one, for a numeric label.
        files: What is read.
        num_train: Rows of the blocks.
        num_held_out: Rows of the held-out part.
        num_dropped: Rows without a label.
        class_counts: Training rows of each class, [K].
        sample_labels: Class of the sampled rows, [S] int64; of a numeric label its normal score.
    """

    label: str
    classes: tuple[str, ...]
    files: tuple[CountedFile, ...]
    num_train: int
    num_held_out: int
    num_dropped: int
    class_counts: np.ndarray
    sample_labels: np.ndarray = field(repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def is_number(self) -> bool:
        """Whether the label is a number."""
        return self.files[0].number is not None

    @property
    def weighted(self) -> bool:
        return self.files[0].weight is not None


def count_rows(
    raw: RawDataset,
    label: str,
    *,
    rule: SplitRule | None,
    target: str = "auto",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Rows:
    """Read the label, the split, the user and the weight of every row.

    Args:
        raw: Files, and which columns are group, weight and time.
        label: Column to rank by: two or more classes (any type), or a number.
        rule: How the rows of the first file are split; None where splits are files.
        target: `classes`, `number`, or `auto`: a float column with more than two values is a
            number, everything else is classes.
        progress: Told how many of how many rows are read.

    Raises:
        SchemaError: the label is absent, missing in every row, constant, has too many classes, or
            is a list.
    """
    schema = raw.schema
    chosen = [name for name in ("all", "train", "val") if name in raw.files]
    total = sum(raw.files[name].num_rows for name in chosen)
    reader = _LabelReader(label, raw.files[chosen[0]], target)
    roles = [label, schema.group, schema.weight]
    roles += [rule.column] if isinstance(rule, TimeSplit) else []
    wanted = [column for column in roles if column is not None]
    seeds: list[_Read] = []
    done = 0
    for name in chosen:
        source = raw.files[name]
        source.require([label])
        split = assign(source, rule) if rule is not None and name in ("all", "train") else None
        parts, found, extra = [], [], []
        for chunk in source.chunks(wanted):
            parts.append(_parts(chunk, split, name, schema.group))
            found.append(reader.read(chunk))
            if schema.weight is not None:
                extra.append(weights(chunk.column(schema.weight), schema.weight, chunk))
            done += chunk.num_rows
            progress(done, total)
        seeds.append((source, parts, found, extra))
    return _assemble(label, reader, seeds)


def _parts(chunk: Chunk, split: Callable[[Chunk], np.ndarray] | None, name: str,
           group: str | None) -> np.ndarray:  # fmt: skip
    """Part of each row, uint8; `NUM_PARTS` for a test row."""
    rows = np.arange(chunk.start, chunk.start + chunk.num_rows, dtype=np.uint64)
    keys = rows if group is None else groups(chunk.column(group), group, chunk).view(np.uint64)
    # A salt of its own: the split is a hash of the row too, and must not decide the block.
    blocks = (mix64(mix64(keys) ^ np.uint64(0x5EED0FB10C)) % np.uint64(NUM_BLOCKS)).astype(np.uint8)
    if name == "val":
        return np.full(chunk.num_rows, HELD_OUT, np.uint8)
    if split is None:
        return blocks
    splits = split(chunk)
    blocks[splits == VAL] = HELD_OUT
    blocks[splits == TEST] = NUM_PARTS
    return blocks


class _LabelReader:
    """Labels as class numbers in the order of first sight, or as float64; -1 and NaN for none."""

    def __init__(self, label: str, source: Source, target: str) -> None:
        source.require([label])
        kind = source.columns[label]
        if is_list(kind) or dtype_name(kind) is None:
            raise SchemaError(
                f'label "{label}" holds {plain_type(kind)}; it must be single values: classes of '
                "any type, or numbers."
            )
        self.label = label
        self.texts: dict[str, int] = {}
        self.is_number = target == "number" or (
            target == "auto" and dtype_name(kind) == "float" and _many_values(source, label)
        )
        if self.is_number and dtype_name(kind) not in ("int", "float"):
            raise SchemaError(
                f'label "{label}" holds {plain_type(kind)}, which is no number; set target=classes.'
            )

    def read(self, chunk: Chunk) -> np.ndarray:
        array = chunk.column(self.label)
        if self.is_number:
            return numbers(array, self.label, chunk, nan_as_missing=True)
        if pa.types.is_dictionary(array.type) and array.dictionary.null_count:
            array = plain(array)
        if not pa.types.is_dictionary(array.type):
            array = array.cast(plain_type(array.type))
            if pa.types.is_floating(array.type):
                array = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
            array = array.dictionary_encode()
        numbers_of = [self._number(text) for text in array.dictionary.to_pylist()]
        table = np.array([*numbers_of, -1], np.int64)
        indices = array.indices.cast(pa.int64())
        if indices.null_count:
            indices = indices.fill_null(-1)
        return table[whole_numbers(indices)]

    def _number(self, value: object) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # 1.0 of a nullable column is class 1
        found = self.texts.setdefault(str(value), len(self.texts))
        if found >= MAX_CLASSES:
            raise SchemaError(
                f'label "{self.label}" has more than {MAX_CLASSES} classes. If it is a number, set '
                "target=number; otherwise group its values first."
            )
        return found


def _many_values(source: Source, label: str) -> bool:
    values = source.head(10_000, [label]).column(label)
    return len(pc.unique(values.cast(pa.float64()).drop_null())) > 2


def _assemble(
    label: str,
    reader: _LabelReader,
    seeds: list[_Read],
) -> Rows:
    parts = [np.concatenate(one[1]) for one in seeds]
    found = [np.concatenate(one[2]) for one in seeds]
    used = [
        (part < NUM_PARTS) & (np.isfinite(y) if reader.is_number else y >= 0)
        for part, y in zip(parts, found, strict=True)
    ]
    num_dropped = sum(int(((p < NUM_PARTS) & ~u).sum()) for p, u in zip(parts, used, strict=True))
    train = [u & (p < HELD_OUT) for p, u in zip(parts, used, strict=True)]
    num_train = sum(int(one.sum()) for one in train)
    if not num_train:
        raise SchemaError(
            f'label "{label}" is missing in every training row; choose another label, or rows that '
            "have it."
        )
    if reader.is_number:
        classes: tuple[str, ...] = (label,)
        values = np.concatenate([y[t] for y, t in zip(found, train, strict=True)])
        if values.min() == values.max():
            raise SchemaError(
                f'label "{label}" is {values[0]:g} in every training row; there is nothing to rank '
                "by. Choose another label."
            )
        scores = _normal_scores(values)
        labels = [
            np.where(u, scores(y), 0).astype(np.float32) for y, u in zip(found, used, strict=True)
        ]
        codes = [np.zeros(len(y), np.int64) for y in found]
        counts = np.array([num_train])
    else:
        classes, renumber = _in_order(reader.texts)
        codes = [renumber[y] for y in found]
        labels = []
        counts = np.zeros(len(classes), np.int64)
        for y, t in zip(codes, train, strict=True):
            counts += np.bincount(y[t], minlength=len(classes))
        if (counts > 0).sum() < 2:
            only = classes[int(counts.argmax())]
            raise SchemaError(
                f'label "{label}" is {only} in every training row; there is nothing to rank by. '
                "Choose another label, or rows that differ in it."
            )
    files, sampled = [], []
    offset, share = 0, min(1.0, SAMPLE_ROWS / num_train)
    for index, (source, _, _, extra) in enumerate(seeds):
        cell = parts[index].astype(np.int64) * len(classes) + codes[index]
        cell = np.where(used[index], cell, NOT_COUNTED).astype(np.uint16)
        keys = mix64(mix64(np.arange(offset, offset + len(cell), dtype=np.uint64)) + np.uint64(1))
        sample = np.flatnonzero(
            train[index] & ((keys >> np.uint64(11)) < np.uint64(round(share * 2**53)))
        )
        offset += len(cell)
        number = labels[index] if reader.is_number else None
        weight = np.concatenate(extra) if extra else None
        files.append(CountedFile(source, cell, number, weight, sample))
        sampled.append(number[sample] if number is not None else codes[index][sample])
    held_out = sum(int(u.sum()) for u in used) - num_train
    return Rows(
        label, classes, tuple(files), num_train, held_out, num_dropped, counts,
        np.concatenate(sampled),
    )  # fmt: skip


def _in_order(texts: dict[str, int]) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes in the order of their values, and new numbers by old (the last answers -1)."""

    def key(text: str) -> tuple[int, float, str]:
        try:
            return 0, float(text), text
        except ValueError:
            return 1, 0.0, text

    classes = tuple(sorted(texts, key=key))
    renumber = np.full(len(texts) + 1, -1, np.int64)
    for new, text in enumerate(classes):
        renumber[texts[text]] = new
    return classes, renumber


def _normal_scores(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Numbers by the normal quantile of their rank, ties shared: moments that no outlier rules."""
    distinct, counts = np.unique(values, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    score = ndtri(middle / values.size)
    score = score - (score * counts).sum() / values.size
    score /= np.sqrt((score**2 * counts).sum() / values.size)
    return lambda y: np.interp(y, distinct, score)


def chunks(rows: Rows, columns: Sequence[str]) -> Iterator[tuple[CountedFile, Chunk]]:
    """Every chunk of every file, in order.

    Args:
        rows: Whose files.
        columns: What may be read of them; a large row group is decoded for all of these.
    """
    for one in rows.files:
        for chunk in one.source.chunks(columns):
            yield one, chunk


def training_rows(rows: Rows, file: CountedFile, chunk: Chunk) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a chunk's training rows within it, and their labels: classes, or the normal
    scores of a number."""
    part = slice(chunk.start, chunk.start + chunk.num_rows)
    cell = file.cell[part]
    at = np.flatnonzero(cell < HELD_OUT * rows.num_classes)
    if file.number is not None:
        return at, file.number[part][at]
    return at, cell[at].astype(np.int64) % rows.num_classes
