"""Distinct texts and their numbers, in the order in which they are first seen.

`NativeIndex` is this library's own (`text_index.cpp`); `PolarsIndex` answers the same calls where
no C++ compiler is at hand. The order of numbers reaches nobody: vocabularies renumber by counts.

Letters   n texts of a call, u distinct texts so far.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.native import load_kernel


class TextIndex(Protocol):
    """Safe to call from several threads."""

    def numbers(self, texts: pa.Array) -> np.ndarray:
        """Number of each text, [n] int32; -1 for null. A new text gets the next number."""
        ...

    def texts(self, numbers: np.ndarray) -> pl.Series:
        """Texts by their numbers."""
        ...

    def __len__(self) -> int:
        """u."""
        ...


def make_text_index() -> TextIndex:
    """The fastest index that runs here."""
    library = _library()
    return PolarsIndex() if library is None else NativeIndex(library)


class NativeIndex:
    """Open addressing over one arena of texts; about 9 bytes a text beside the text itself.

    Args:
        library: The compiled `text_index.cpp`.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        # A seed of its own: no file can be made that collides everywhere.
        self._handle = library.text_index_new(int.from_bytes(os.urandom(8), "little"))
        if not self._handle:
            raise MemoryError("no memory for an index of texts")

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.text_index_free(self._handle)

    def numbers(self, texts: pa.Array) -> np.ndarray:
        out, size = self._call(self._library.text_index_codes, texts)
        if size is not None and size < 0:
            raise MemoryError("the distinct values of a column do not fit in memory; hash it")
        return out

    def find(self, texts: pa.Array) -> np.ndarray:
        """Number of each text, [n] int32; -1 for null and for a text that is not there. Nothing is
        added; safe to call from several threads while none adds."""
        return self._call(self._library.text_index_find, texts)[0]

    def _call(self, function: Any, texts: pa.Array) -> tuple[np.ndarray, int | None]:
        if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
            texts = texts.cast(pa.large_string())
        out = np.empty(len(texts), np.int32)
        if not len(texts):
            return out, None
        valid, offsets, data = texts.buffers()
        size = function(
            self._handle,
            data.address if data is not None else None,
            offsets.address,
            int(pa.types.is_large_string(texts.type)),
            valid.address if valid is not None and texts.null_count else None,
            texts.offset,
            len(texts),
            out.ctypes.data,
        )
        return out, size

    def texts(self, numbers: np.ndarray) -> pl.Series:
        ends = np.ctypeslib.as_array(self._library.text_index_ends(self._handle), (len(self) + 1,))
        data = self._library.text_index_arena(self._handle)
        # Views of the arena, alive only until the chosen texts have been copied out of it.
        arena = pa.foreign_buffer(data or ends.ctypes.data, int(ends[-1]), self)
        buffers = [None, pa.py_buffer(ends), arena]
        everything = pa.Array.from_buffers(pa.large_string(), len(self), buffers)
        # Made from its buffer: `pa.array` would import pandas to see whether it was given a series.
        wanted = pa.py_buffer(np.ascontiguousarray(numbers, np.int64))
        chosen = everything.take(pa.Array.from_buffers(pa.int64(), len(numbers), [None, wanted]))
        return pl.Series(values=chosen, dtype=pl.String)

    def __len__(self) -> int:
        return int(self._library.text_index_size(self._handle))


class EnumIndex:
    """Fixed texts, found by a polars enumeration: for where no C++ compiler is at hand.

    Args:
        texts: Distinct; numbers are their positions.
    """

    def __init__(self, texts: pl.Series) -> None:
        self._kind = pl.Enum(texts)

    def find(self, texts: pa.Array) -> np.ndarray:
        column = pl.Series(values=texts, dtype=pl.String).cast(self._kind, strict=False)
        return column.to_physical().cast(pl.Int32).fill_null(-1).to_numpy()


def fixed_index(texts: pl.Series) -> NativeIndex | EnumIndex:
    """An index of texts that stay: `find` gives their positions.

    Args:
        texts: Distinct.

    Raises:
        ValueError: they are not.
    """
    library = _library()
    if library is None:
        if texts.n_unique() != len(texts):
            raise ValueError("some texts are there twice")
        return EnumIndex(texts)
    index = NativeIndex(library)
    index.numbers(texts.to_arrow(compat_level=pl.CompatLevel.oldest()))
    if len(index) != len(texts):
        raise ValueError("some texts are there twice")
    return index


class PolarsIndex:
    """The same by a polars category."""

    def __init__(self) -> None:
        self._categories = pl.Categorical(pl.Categories.random("recsys", pl.UInt32))
        # The index lives only while a series of its type does.
        self._anchor = pl.Series([], dtype=self._categories)
        self._size = 0

    def numbers(self, texts: pa.Array) -> np.ndarray:
        column = pl.Series(values=texts, dtype=pl.String).cast(self._categories).to_physical()
        codes = column.fill_null(2**32 - 1).to_numpy().view(np.int32)
        if codes.size:
            self._size = max(self._size, int(codes.max()) + 1)
        return codes

    def texts(self, numbers: np.ndarray) -> pl.Series:
        return pl.Series(numbers.astype(np.uint32)).cat.to(self._categories).cast(pl.String)

    def __len__(self) -> int:
        return self._size


@functools.cache
def _library() -> ctypes.CDLL | None:
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, u64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
    library.text_index_new.argtypes, library.text_index_new.restype = [u64], ptr
    library.text_index_free.argtypes, library.text_index_free.restype = [ptr], None
    library.text_index_codes.argtypes = [ptr, ptr, ptr, i32, ptr, i64, i64, ptr]
    library.text_index_codes.restype = i64
    library.text_index_find.argtypes = library.text_index_codes.argtypes
    library.text_index_find.restype = None
    library.text_index_size.argtypes, library.text_index_size.restype = [ptr], i64
    library.text_index_ends.argtypes = [ptr]
    library.text_index_ends.restype = ctypes.POINTER(i64)
    library.text_index_arena.argtypes, library.text_index_arena.restype = [ptr], ptr
    return library
