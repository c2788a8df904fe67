"""One raw column to one array: category codes, lists of codes, numbers, labels, weights, groups.

Everything here works on a chunk of rows, on the distinct values where it can, and names the
column, the value, the file and the row when a value is not allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.formats import is_text, plain, plain_type, whole_numbers
from recsys.data.hashing import hash_text, open_codes
from recsys.data.readers import Chunk
from recsys.data.schema import MISSING, NUM_RESERVED, Encoding, Field, Kind
from recsys.errors import SchemaError

MISSING_GROUP = int(np.iinfo(np.int64).min)
"""Group of the rows that have none: they form one group of their own."""


class Coder(Protocol):
    """Texts to codes, null to MISSING: a growing or a fixed vocabulary, or a hash."""

    def codes(self, texts: pa.Array) -> np.ndarray: ...


@dataclass(frozen=True)
class HashCoder:
    """Codes by the fixed hash of `recsys.data.hashing`, modulo the number of buckets."""

    hash_size: int

    def codes(self, texts: pa.Array) -> np.ndarray:
        """Codes from `NUM_RESERVED` up; MISSING for null."""
        buckets = hash_text(texts.fill_null("")) % np.uint64(self.hash_size)
        codes = buckets.astype(np.int64) + NUM_RESERVED
        if texts.null_count:
            codes[texts.is_null().to_numpy(zero_copy_only=False)] = MISSING
        return codes


class OpenCoder:
    """Codes by `recsys.data.hashing.open_codes`: of any value, known or not."""

    def codes(self, texts: pa.Array) -> np.ndarray:
        """Codes from `NUM_RESERVED` up; MISSING for null."""
        codes = open_codes(texts.fill_null(""))
        if texts.null_count:
            codes[texts.is_null().to_numpy(zero_copy_only=False)] = MISSING
        return codes


def unfitted_coder(owner: Field) -> Coder | None:
    """The coder of a category that needs no fitting; None of a vocabulary's.

    Args:
        owner: The field, or the one whose table it shares.

    Raises:
        SchemaError: a hashed field does not say into how many buckets.
    """
    if owner.encoding is Encoding.DYNAMIC:
        return OpenCoder()
    if owner.encoding is not Encoding.HASH:
        return None
    if owner.hash_size is None:
        raise SchemaError(
            f'field "{owner.name}" is hashed but has no hash_size. '
            f"Set data.fields.{owner.name}.hash_size."
        )
    return HashCoder(owner.hash_size)


@dataclass(frozen=True)
class Lists:
    """Codes of a list column: values end to end, and the length of each row's list."""

    values: np.ndarray
    lengths: np.ndarray

    def take(self, rows: np.ndarray) -> Lists:
        """Some rows, in the order given."""
        starts = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])[rows]
        lengths = self.lengths[rows]
        return Lists(self.values[_spans(starts, lengths)], lengths)


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Indices start, start + 1, ... of each span, end to end."""
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if ends.size else 0
    return np.arange(total) + np.repeat(starts - (ends - lengths), lengths)


def dtype_name(kind: pa.DataType) -> str | None:
    """`string`, `int`, `float` or `bool` (of the elements, for a list); None for anything else."""
    kind = plain_type(kind)
    if pa.types.is_list(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return "bool"
    if pa.types.is_integer(kind):
        return "int"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "float"
    if pa.types.is_string(kind) or pa.types.is_temporal(kind):
        return "string"
    return None


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(plain_type(kind))


# --- categories -------------------------------------------------------------------------------


def _texts(values: pa.Array, field: Field, chunk: Chunk) -> pa.Array:
    """Distinct values as the texts by which vocabularies know them."""
    have = dtype_name(values.type)
    want = field.dtype
    try:
        if want == "int" and have == "float":
            values = values.cast(pa.int64())  # safe: refuses 1.5; nullable ints arrive as floats
        elif want == "float" and have == "int":
            values = values.cast(pa.float64())
        elif want == "bool" and have == "int":
            values = values.cast(pa.bool_())
        elif have is None or (want != "string" and have != want):
            raise pa.ArrowInvalid(f"it holds {values.type}")
        return values if is_text(values.type) else values.cast(pa.string())
    except pa.ArrowException as error:
        raise SchemaError(
            f'column "{field.name}" is declared {want}, but in {chunk.where(0, chunk.num_rows - 1)}'
            f": {error}. Convert the column, or set data.fields.{field.name}.dtype."
        ) from error


def category_codes(
    array: pa.Array, field: Field, coder: Coder, chunk: Chunk, nan_as_missing: bool = False
) -> np.ndarray:
    """Codes [B] of a column of single values, in any integer type; null becomes MISSING."""
    kind = array.type
    if pa.types.is_dictionary(kind) and (
        array.dictionary.null_count or not is_text(kind.value_type)
    ):
        array = plain(array)
    if pa.types.is_null(kind):
        return np.full(len(array), MISSING, np.int32)
    if not pa.types.is_dictionary(array.type):
        if pa.types.is_floating(array.type):
            array = _without_nan(array, field.name, chunk, nan_as_missing)
        array = array.cast(plain_type(array.type))
        if is_text(array.type) or dtype_name(array.type) is None:
            return _narrow(coder.codes(_texts(array, field, chunk)))
        array = array.dictionary_encode()
    # Work per distinct value; the last entry of the table answers index -1.
    table = _narrow(np.append(coder.codes(_texts(array.dictionary, field, chunk)), MISSING))
    indices = array.indices
    if indices.null_count:
        if not pa.types.is_signed_integer(indices.type):
            indices = indices.cast(pa.int64())
        indices = indices.fill_null(-1)
    return table[whole_numbers(indices)]


def _narrow(codes: np.ndarray) -> np.ndarray:
    """The shortest of uint16, int32 and int64 that holds the codes: less memory to go through."""
    low, high = (int(codes.min()), int(codes.max())) if codes.size else (0, 0)
    if low < 0 or high >= 2**31:
        return codes
    return codes.astype(np.uint16 if high < 2**16 else np.int32, copy=False)


def _without_nan(array: pa.Array, name: str, chunk: Chunk, nan_as_missing: bool) -> pa.Array:
    bad = pc.is_nan(array).fill_null(False)
    if not pc.any(bad).as_py():
        return array
    if not nan_as_missing:
        rows = np.flatnonzero(bad.to_numpy(zero_copy_only=False))
        raise _not_finite(name, "NaN", rows, chunk)
    return pc.if_else(bad, pa.scalar(None, array.type), array)


def list_codes(
    array: pa.Array, field: Field, coder: Coder, chunk: Chunk, nan_as_missing: bool = False
) -> Lists:
    """Codes of a list column. A null list is one MISSING, an empty list is empty.

    A history longer than `max_length` keeps its last values, a multi-valued field its first.
    """
    if not is_list(array.type):
        raise SchemaError(
            f'column "{field.name}" is {field.kind}, so it must hold lists, but it holds '
            f"{array.type}. Set data.fields.{field.name}.kind=categorical, or split the text into "
            "a list column first."
        )
    array = array.cast(pa.large_list(array.type.value_type))
    offsets = array.offsets.to_numpy()
    values = array.values[offsets[0] : offsets[-1]]
    codes = category_codes(values, field, coder, chunk, nan_as_missing)
    starts, lengths = offsets[:-1] - offsets[0], np.diff(offsets)
    null = array.is_null().to_numpy(zero_copy_only=False)
    lengths = np.where(null, 0, lengths)
    if field.max_length is not None:
        kept = np.minimum(lengths, field.max_length)
        if field.kind is Kind.HISTORY:
            starts = starts + lengths - kept
        lengths = kept
    if null.any():
        starts = np.where(null, codes.size, starts)
        lengths = np.where(null, 1, lengths)
        codes = np.append(codes, MISSING)
    return Lists(codes[_spans(starts, lengths)], lengths.astype(np.int64))


# --- numbers ----------------------------------------------------------------------------------


def numbers(array: pa.Array, name: str, chunk: Chunk, nan_as_missing: bool) -> np.ndarray:
    """Values [B] float64, NaN for null.

    Raises:
        SchemaError: The column is not numeric, or holds NaN (unless `nan_as_missing`) or infinity.
    """
    kind = plain_type(array.type)
    if pa.types.is_null(kind):
        return np.full(len(array), np.nan)
    if pa.types.is_temporal(kind):
        array = array.cast(kind).cast(pa.int64() if kind.bit_width == 64 else pa.int32())
    elif dtype_name(kind) not in ("int", "float", "bool") or is_list(kind):
        raise SchemaError(
            f'column "{name}" in {chunk.file} holds {kind}, but a number is needed. Convert it, or '
            f"set data.fields.{name}.kind=categorical."
        )
    array = array.cast(kind if not pa.types.is_temporal(kind) else array.type)
    # Null becomes NaN here, so a NaN that was in the data shows by the count.
    x = array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    finite = np.isfinite(x)
    if x.size - np.count_nonzero(finite) != array.null_count:
        bad = ~finite & array.is_valid().to_numpy(zero_copy_only=False)
        if nan_as_missing:
            bad &= ~np.isnan(x)
        rows = np.flatnonzero(bad)
        if rows.size:
            raise _not_finite(name, str(x[rows[0]]), rows, chunk)
    return x


def _not_finite(name: str, value: str, rows: np.ndarray, chunk: Chunk) -> SchemaError:
    where = chunk.where(int(rows[0]), int(rows[-1]))
    remedy = "Write nulls for values that are missing, or set data.nan_as_missing=true"
    if "inf" in value:
        remedy = "Replace it by a number or by null"
    return SchemaError(
        f'column "{name}" has {rows.size} values that are not finite, the first {value}, between '
        f"{where}. {remedy}."
    )


def labels(array: pa.Array, name: str, chunk: Chunk, optional: bool) -> np.ndarray:
    """0 or 1, [B] float32; null becomes NaN where a label may be missing (several labels)."""
    if dtype_name(array.type) not in ("int", "float", "bool") or is_list(array.type):
        if pa.types.is_null(array.type):
            array = array.cast(pa.float64())
        else:
            raise SchemaError(
                f'label "{name}" in {chunk.file} holds {plain_type(array.type)}; it must be 0 or 1 '
                "(or boolean). Map its values first."
            )
    array = array.cast(plain_type(array.type)).cast(pa.float64(), safe=False)
    null = array.is_null().to_numpy(zero_copy_only=False)
    y = array.fill_null(0.0).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero((y != 0) & (y != 1))
    if bad.size:
        raise SchemaError(
            f'label "{name}" is {y[bad[0]]:g} in {chunk.where(int(bad[0]))} ({bad.size} such rows '
            "in this part); it must be 0 or 1. Turn it into 0/1 first, or choose another label."
        )
    if null.any() and not optional:
        first = int(np.flatnonzero(null)[0])
        raise SchemaError(
            f'label "{name}" is missing in {chunk.where(first)} ({int(null.sum())} such rows in '
            "this part); with a single label every row needs one. Remove those rows."
        )
    y = y.astype(np.float32)
    y[null] = np.nan
    return y


def weights(array: pa.Array, name: str, chunk: Chunk) -> np.ndarray:
    """Weights [B] float32: finite, not negative, not missing."""
    x = numbers(array, name, chunk, nan_as_missing=True)
    bad = np.flatnonzero(~(x >= 0))
    if bad.size:
        raise SchemaError(
            f'weight "{name}" is {x[bad[0]]:g} in {chunk.where(int(bad[0]))}; it must be a number '
            ">= 0 in every row."
        )
    return x.astype(np.float32)


def groups(array: pa.Array, name: str, chunk: Chunk) -> np.ndarray:
    """Group ids [B] int64: an integer is its own id, anything else its fixed 64-bit hash."""
    kind = plain_type(array.type)
    if pa.types.is_integer(kind):
        plain = array.cast(kind).fill_null(0)
        ids = plain.to_numpy(zero_copy_only=False).astype(np.int64)  # uint64 keeps its bits
        ids[array.is_null().to_numpy(zero_copy_only=False)] = MISSING_GROUP
        return ids
    field = Field(name=name, kind=Kind.CATEGORICAL, encoding=Encoding.HASH, hash_size=1)
    ids = category_codes(array, field, _GroupCoder(), chunk, nan_as_missing=True).astype(np.int64)
    ids[array.is_null().to_numpy(zero_copy_only=False)] = MISSING_GROUP
    return ids


class _GroupCoder:
    def codes(self, texts: pa.Array) -> np.ndarray:
        return hash_text(texts.fill_null("")).view(np.int64)
