"""From exported vectors to a measured index: bands, training, adding, choosing.

Vectors are read a block at a time, as often as needed: what is in memory is the index, the rows it
is fitted to, and the queries it is measured by.

Letters   N vectors, D width, q queries, k length of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from recsys.errors import CheckpointError, ConfigError, SchemaError
from recsys.retrieval import faiss_index
from recsys.retrieval.band_index import Band
from recsys.retrieval.bands import band_edges, band_of, least_rows
from recsys.retrieval.export import check_ids, refuse_non_finite
from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.measure import Point, cheapest, exact_lists, measure, require
from recsys.retrieval.options import RetrievalOptions
from recsys.retrieval.vector_index import VectorIndex, fill, lengths, unit
from recsys.retrieval.vectors import COSINE

BLOCK_ROWS = 65_536

Progress: TypeAlias = Callable[[int, int, str], None]
"""Told how much is done, of how much, and of what."""


@dataclass(frozen=True, eq=False)
class Built:
    """An index, and what was measured of it."""

    index: VectorIndex
    points: dict[str, list[Point]]
    """By kind, of every kind that was tried; the last one is the index's."""
    chosen: Point
    queries_from: str
    """What it was measured with, `users` or `items`."""


def build_index(
    vectors: ExportedVectors, options: RetrievalOptions, progress: Progress | None = None
) -> Built:
    """Build an index and take the least effort that reaches `min_recall`.

    Args:
        vectors: What is searched for; the users of the same export are what it is measured with.
        options: Kind, and what it must reach.
        progress: Told of every stage.

    Raises:
        ConfigError: k is above the number of vectors, or no effort reaches the recall.
        SchemaError: an id is there twice, or users and items differ in width.
        NonFiniteError: a vector holds NaN or infinity.
    """
    told = progress or (lambda done, total, stage: None)
    num_rows = len(vectors)
    check_ids(vectors.ids, vectors.name)
    if options.k > num_rows:
        raise ConfigError(
            f"retrieval.k={options.k} of {num_rows:,} vectors; allowed are 1 to {num_rows}."
        )
    queries, queries_from = queries_of(vectors, options)
    truth = exact_lists(_checked(vectors, told), queries, options.k, vectors.similarity)
    points: dict[str, list[Point]] = {}
    kinds = options.kinds(num_rows)
    for kind in kinds:
        index = fitted_index(vectors, kind, options, told)
        stage = f"measure {kind}"
        points[kind] = measure(
            index, queries, truth, options.efforts(kind), partial(_tell, told, stage)
        )
        chosen = cheapest(points[kind], options.min_recall)
        if chosen is not None:
            break
    else:
        chosen = require(points[kind], options.min_recall, kind, options.k)
    index.effort = chosen.effort
    return Built(index, points, chosen, queries_from)


def queries_of(vectors: ExportedVectors, options: RetrievalOptions) -> tuple[np.ndarray, str]:
    """Vectors to measure with, [q, D], and whose they are: what will be asked in earnest are users,
    where the export has them."""
    users = vectors.sibling("users") if vectors.name == "items" else None
    if users is not None and users.dim != vectors.dim:
        raise SchemaError(
            f"{users.folder} has vectors of width {users.dim}, {vectors.folder} of width "
            f"{vectors.dim}: they are not of one model. Export both again."
        )
    if users is not None and users.facts != vectors.facts:
        raise CheckpointError(
            f"{users.folder} and {vectors.folder} are of different runs. Export both again."
        )
    source = users or vectors
    return source.take(options.drawn(len(source))), source.name


def fitted_index(
    vectors: ExportedVectors, kind: str, options: RetrievalOptions, told: Progress
) -> VectorIndex:
    """An index of all vectors, its effort not yet chosen."""
    cosine = vectors.similarity == COSINE
    # Of the vectors as they are read: those that were exported may have been rounded.
    norms = np.concatenate([lengths(block) for block in vectors.blocks(BLOCK_ROWS)])
    # Exact search needs no bands; directions have one length.
    banded = not cosine and kind != "flat"
    edges = np.array([1.0 if cosine else norms.max()])
    if banded:
        edges = band_edges(norms, options.norm_ratio)
    counts = np.bincount(band_of(norms, edges), minlength=len(edges))
    small = least_rows(len(vectors))
    bands = []
    for edge, count in zip(edges, counts, strict=True):
        own = "flat" if banded and count <= small else kind
        made = faiss_index.make_index(own, vectors.dim, int(count), options)
        bands.append(Band(made, float(edge), np.empty(0, np.int64)))
    _train(bands, vectors, band_of(norms, edges), options)
    done = 0
    for block in vectors.blocks(BLOCK_ROWS):
        fill(bands, vectors.similarity, block, done)
        done += len(block)
        told(done, len(vectors), f"build {kind}")
    return VectorIndex(
        kind=kind,
        similarity=vectors.similarity,
        dim=vectors.dim,
        ids=vectors.ids,
        bands=bands,
        effort=options.efforts(kind)[0],
        refine=options.refine,
        removed=np.zeros(len(vectors), bool),
    )


def _train(
    bands: list[Band], vectors: ExportedVectors, which: np.ndarray, options: RetrievalOptions
) -> None:
    """Fit centroids and codes of each band to rows drawn from it."""
    rng = np.random.default_rng(options.seed)
    for number, band in enumerate(bands):
        wanted = faiss_index.rows_to_train(band.index)
        if not wanted:
            continue
        own = np.flatnonzero(which == number)
        if len(own) > wanted:
            own = np.sort(rng.choice(own, wanted, replace=False))
        rows = vectors.take(own)
        band.index.train(band.stored(unit(rows) if vectors.similarity == COSINE else rows))


def _checked(vectors: ExportedVectors, told: Progress) -> Iterator[np.ndarray]:
    """The blocks, each looked at for what no index can hold."""
    ids, done = vectors.ids, 0
    for block in vectors.blocks(BLOCK_ROWS):
        refuse_non_finite(block, ids, done, vectors.name)
        done += len(block)
        told(done, len(vectors), "exact search")
        yield block


def _tell(told: Progress, stage: str, done: int, total: int) -> None:
    told(done, total, stage)
