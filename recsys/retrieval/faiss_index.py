"""The four kinds of Faiss index: flat for inner products, the others for distances.

    flat    every vector is compared
    ivf     vectors lie in lists around centroids; the lists nearest to the query are read
    hnsw    a graph of neighbours is walked; efSearch candidates are kept
    ivfpq   ivf with codes of a few bytes; the best of them are compared again by 8-bit numbers

Effort means the lists read of ivf and ivfpq and efSearch of hnsw; flat has none.

Letters   n rows, D width, q queries, k length of a list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from recsys.errors import CheckpointError, ConfigError
from recsys.retrieval.options import RetrievalOptions

TRAIN_ROWS_PER_LIST = 64
"""Rows that centroids are fitted to, for each list; Faiss asks for 39 at least."""
_CODE_BITS = 8
_LEAST_PQ_ROWS = 39 * 2**_CODE_BITS
_SEED = 1234  # of Faiss's k-means, its default


def make_index(kind: str, dim: int, num_rows: int, options: RetrievalOptions) -> faiss.Index:
    """An empty index for about so many rows; so few that lists or codes cannot be fitted are
    compared one by one. All but flat have at least one dimension more than the vectors (see
    `band_index`).

    Raises:
        ConfigError: codes of so many bytes do not divide the width.
    """
    if kind == "ivfpq" and dim % options.code_bytes:
        fitting = [b for b in range(1, dim + 1) if dim % b == 0]
        raise ConfigError(
            f"retrieval.code_bytes={options.code_bytes} does not divide the width {dim}. Allowed: "
            f"{', '.join(map(str, fitting))}."
        )
    lists = options.num_lists or max(1, round(4 * math.sqrt(num_rows)))
    enough = num_rows >= (_LEAST_PQ_ROWS if kind == "ivfpq" else 39 * min(lists, 64))
    if kind == "flat" or (kind != "hnsw" and not enough):
        return faiss.IndexFlat(dim, faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(dim + 1, options.neighbors, faiss.METRIC_L2)
        index.hnsw.efConstruction = options.ef_construction
        return index
    lists = min(lists, num_rows // 39)
    code = "Flat" if kind == "ivf" else f"PQ{options.code_bytes}x{_CODE_BITS}"
    refined = ",Refine(SQ8)" if kind == "ivfpq" and options.refine > 1 else ""
    more = 1 if kind == "ivf" else options.code_bytes  # codes divide the width still
    index = faiss.index_factory(dim + more, f"IVF{lists},{code}{refined}", faiss.METRIC_L2)
    if kind == "ivfpq":  # of use for Hamming distances alone, and nine tenths of the training
        inner(index).do_polysemous_training = False
    return index


def rows_to_train(index: faiss.Index) -> int:
    """How many rows its centroids and codes are fitted to; 0 where there is nothing to fit."""
    if index.is_trained:
        return 0
    lists = inner(index).nlist
    return max(TRAIN_ROWS_PER_LIST * lists, _LEAST_PQ_ROWS)


def inner(index: faiss.Index) -> Any:
    """The index that is searched first, where another one compares its candidates again."""
    known = faiss.downcast_index(index)
    if isinstance(known, faiss.IndexRefine):
        return faiss.downcast_index(known.base_index)
    return known


def search(
    index: faiss.Index,
    queries: np.ndarray,
    k: int,
    effort: int,
    refine: int,
    without: faiss.IDSelector | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k vectors of largest inner product or least distance, best first.

    Args:
        index: Made by `make_index`.
        queries: [q, D] float32.
        k: At least 1; where fewer are found, rows end with -1.
        effort: See above.
        refine: Factor on k of the candidates that are compared again.
        without: Selects the rows that may be found.

    Returns:
        Inner products or squared distances [q, k] float32, and rows [q, k] int64.
    """
    base = inner(index)
    parameters: Any
    if isinstance(base, faiss.IndexHNSW):
        parameters = faiss.SearchParametersHNSW(efSearch=max(effort, k), sel=without)
    elif isinstance(base, faiss.IndexIVF):
        parameters = faiss.SearchParametersIVF(nprobe=min(max(effort, 1), base.nlist), sel=without)
    else:
        parameters = faiss.SearchParameters(sel=without)
    # `index` itself must stay bound: what downcast_index gives does not own the memory.
    if isinstance(faiss.downcast_index(index), faiss.IndexRefine):
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=float(refine), base_index_params=parameters
        )
    scores, rows = index.search(queries, k, params=parameters)
    return scores, rows


def holds_vectors(index: faiss.Index) -> bool:
    """Whether it holds vectors, or 8-bit numbers of them, and not codes alone."""
    refined = isinstance(faiss.downcast_index(index), faiss.IndexRefine)
    return refined or not isinstance(inner(index), faiss.IndexIVFPQ)


def stored_blocks(index: faiss.Index, block_rows: int) -> Iterator[np.ndarray]:
    """All rows as the index holds them, a block [n, D] float32 at a time; see `holds_vectors`."""
    known = faiss.downcast_index(index)
    if isinstance(known, faiss.IndexRefine):
        known = faiss.downcast_index(known.refine_index)
    listed = isinstance(known, faiss.IndexIVF)
    if listed:
        known.make_direct_map(True)  # where each row lies, which lists do not say
    try:
        for start in range(0, index.ntotal, block_rows):
            yield known.reconstruct_n(start, min(block_rows, index.ntotal - start))
    finally:
        if listed:
            known.make_direct_map(False)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let Faiss use so many threads in a block."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def write(index: faiss.Index, file: Path) -> None:
    """Write an index; not atomic by itself."""
    faiss.write_index(index, str(file))


def read(file: Path, remedy: str) -> faiss.Index:
    """Read what `write` wrote; check its sum first, since Faiss trusts what it reads.

    Raises:
        CheckpointError: it is no index.
    """
    try:
        return faiss.read_index(str(file))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise CheckpointError(f"{file} is no index: {reason} {remedy}") from error
