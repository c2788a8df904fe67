"""Vocabularies: distinct values and their codes, while they grow and once they are fixed.

Every value is known by its text ("7", "true", "ab"), so one index serves every type and 64-bit ids
never pass through floats.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.schema import MISSING, NUM_RESERVED, UNSEEN
from recsys.data.text_index import EnumIndex, NativeIndex, fixed_index, make_text_index
from recsys.errors import SchemaError


class Interner:
    """Growing index of texts. Gives provisional codes, and counts the training rows of each.

    The order of provisional codes depends on the order of calls and reaches nobody: `freeze`
    replaces them by codes that depend on the counts alone. Safe to call from several threads.
    """

    def __init__(self) -> None:
        self._index = make_text_index()
        self._counts = np.zeros(1024, np.int64)
        self._lock = threading.Lock()

    def codes(self, texts: pa.Array) -> np.ndarray:
        """Provisional codes int32, from `NUM_RESERVED` up; MISSING for null."""
        codes = self._index.numbers(texts)
        missing = codes < 0 if texts.null_count else None
        codes = codes + np.int32(NUM_RESERVED)
        if missing is not None:
            codes[missing] = MISSING
        return codes

    def texts(self, numbers: np.ndarray) -> list[str]:
        """Texts of provisional codes less `NUM_RESERVED`."""
        return self._index.texts(numbers).to_list()

    def add(self, codes: np.ndarray, counts: np.ndarray) -> None:
        """Add training counts to provisional codes (repeats allowed)."""
        if not codes.size:
            return
        with self._lock:
            size = int(codes.max()) - NUM_RESERVED + 1
            if size > self._counts.size:
                grown = np.zeros(max(size, 2 * self._counts.size), np.int64)
                grown[: self._counts.size] = self._counts
                self._counts = grown
            np.add.at(self._counts, codes - NUM_RESERVED, counts)

    def learnt(self) -> tuple[pa.Array, np.ndarray]:
        """Texts by provisional code less `NUM_RESERVED`, and their training counts."""
        size = len(self._index)
        texts = self._index.texts(np.arange(size))
        return texts.to_arrow(compat_level=pl.CompatLevel.oldest()), self._known(size)

    def merge(self, texts: pa.Array, counts: np.ndarray) -> np.ndarray:
        """Add what another interner learnt.

        Returns:
            The table [provisional code of the other] -> provisional code of this one.
        """
        codes = self.codes(texts)
        self.add(codes, counts)
        return np.concatenate([np.arange(NUM_RESERVED, dtype=np.int32), codes])

    def _known(self, size: int) -> np.ndarray:
        counts = np.zeros(size, np.int64)
        known = min(size, self._counts.size)
        counts[:known] = self._counts[:known]
        return counts

    def freeze(
        self, dtype: str, min_count: int, max_size: int | None
    ) -> tuple[Vocabulary, np.ndarray]:
        """Fix the codes: by descending count, equal counts by value.

        Returns:
            The vocabulary, and the table [provisional code] -> final code.
        """
        size = len(self._index)
        counts = self._known(size)
        kept = np.flatnonzero(counts >= max(min_count, 1))  # 0: seen outside training only
        texts = self._index.texts(kept)
        frame = pl.DataFrame({"text": texts, "count": counts[kept], "at": kept})
        value = pl.col("text").cast(pl.Int128) if dtype == "int" else pl.col("text")
        frame = frame.sort("count", value, descending=[True, False])
        if max_size is not None:
            frame = frame.head(max_size)
        table = np.full(NUM_RESERVED + size, UNSEEN, np.int32)
        table[:NUM_RESERVED] = np.arange(NUM_RESERVED)
        table[NUM_RESERVED + frame["at"].to_numpy()] = np.arange(len(frame)) + NUM_RESERVED
        return Vocabulary(frame["text"], frame["count"]), table


class Vocabulary:
    """Fixed texts in code order, with their training counts."""

    def __init__(self, texts: pl.Series, counts: pl.Series) -> None:
        self.texts = texts
        self.counts = counts
        self._index: NativeIndex | EnumIndex | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": None}  # made anew where it is needed

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def size(self) -> int:
        """Number of codes, the reserved ones included."""
        return NUM_RESERVED + len(self.texts)

    def codes(self, texts: pa.Array) -> np.ndarray:
        """Codes int32; UNSEEN for texts the vocabulary does not hold, MISSING for null."""
        if self._index is None:
            self._index = fixed_index(self.texts)
        found = self._index.find(texts)
        codes = np.where(found < 0, np.int32(UNSEEN), found + np.int32(NUM_RESERVED))
        if texts.null_count:
            codes[texts.is_null().to_numpy(zero_copy_only=False)] = MISSING
        return codes

    def tokens(self, dtype: str) -> pa.Array:
        """External values by code; the reserved codes are null."""
        column = self.texts
        if dtype == "int":
            wide = column.str.len_bytes().max() or 0
            column = column.cast(pl.Int64 if int(str(wide)) < 19 else pl.Int128)
            if column.dtype == pl.Int128:
                biggest = column.max()
                fits = isinstance(biggest, int) and biggest < 2**63
                column = column.cast(pl.Int64 if fits else pl.UInt64)
        elif dtype == "bool":
            column = column == "true"
        elif dtype == "float":
            column = column.cast(pl.Float64)
        values = column.to_arrow(compat_level=pl.CompatLevel.oldest())
        return pa.concat_arrays([pa.nulls(NUM_RESERVED, values.type), values])

    def save(self, path: Path) -> None:
        """Write texts and counts as Parquet."""
        texts = self.texts.to_arrow(compat_level=pl.CompatLevel.oldest())
        table = pa.table({"token": texts, "count": pa.array(self.counts.to_numpy(), pa.int64())})
        pq.write_table(table, path, compression="zstd")

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read what `save` wrote."""
        try:
            frame = pl.from_arrow(pq.read_table(path))
        except (OSError, pa.ArrowException) as error:
            raise SchemaError(
                f"the vocabulary file {path} is missing or corrupted ({error}). Prepare the data "
                "again with data.rebuild=true."
            ) from error
        assert isinstance(frame, pl.DataFrame)
        return cls(frame["token"], frame["count"])
