"""The two passes of preparation over the rows of a source: all of them, or the span of one task.

    first    raw rows      -> provisional columns in a spool, and what was learnt
    second   the spool     -> encoded rows, in the store of their split

Every engine makes both for all rows; what it adds is who makes which part of them, and where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.data.encode import Columns, EncodedTable, FeaturePipeline
from recsys.data.fit import Finish, Fitter
from recsys.data.fitted_reader import FittedReader
from recsys.data.raw import RawDataset
from recsys.data.readers import Chunk, Source, Span, num_workers
from recsys.data.schema import Schema
from recsys.data.split import SPLITS, Assign, TimeSplit, assign
from recsys.data.spool import Spool
from recsys.data.store import StoreWriter
from recsys.errors import SchemaError

PIECE_ROWS = 65_536
"""Rows encoded and written at a time: they stay in the processor's cache from step to step."""
Progress = Callable[[int, int, str], None]
"""Called with (rows done, rows in all, stage); stages are `split`, `read` and `write`."""


@dataclass(frozen=True)
class Input:
    """One source, and where its rows go.

    Args:
        name: `all`, `train`, `val` or `test`.
        source: Raw rows.
        split: `train`, `val` or `test`; for a source that a rule splits, `train`.
        rule: Split of each row of a chunk; None where all are of `split`.
        rule_columns: That it reads; they need not be in the schema.
    """

    name: str
    source: Source
    split: str
    rule: Assign | None
    rule_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """A preparation: what goes in, and the folder that is to hold the stores.

    Args:
        inputs: Training rows first, so that a bad training file is found before others are read.
        schema: Unfitted.
        nan_as_missing: Treat NaN as missing instead of refusing it.
        pipeline: Of earlier data, to encode by as it is; None fits one on the training rows.
        folder: Exists, and belongs to this work alone.
        digest: What the rows are made from.
    """

    inputs: tuple[Input, ...]
    schema: Schema
    nan_as_missing: bool
    pipeline: FeaturePipeline | None
    folder: Path
    digest: str

    @property
    def num_rows(self) -> int:
        return sum(one.source.num_rows for one in self.inputs)

    def fitter(self) -> Fitter:
        """One that has learnt nothing yet."""
        if self.pipeline is not None:
            return FittedReader(self.schema, self.pipeline)
        return Fitter(self.schema, self.nan_as_missing)


Engine = Callable[[Work, Progress], tuple[Finish, list[str]]]
"""Makes both passes over everything; gives what was learnt, and the splits that have a store."""


def inputs_of(raw: RawDataset) -> tuple[Input, ...]:
    """The sources of a data set, whose split rule is settled."""
    found = []
    for name in ("all", *SPLITS):
        if name not in raw.files:
            continue
        source = raw.files[name]
        split = "train" if name == "all" else name
        rule = raw.split
        if split != "train" or rule is None or rule == "options":
            found.append(Input(name, source, split, None))
            continue
        columns = (rule.column,) if isinstance(rule, TimeSplit) else ()
        found.append(Input(name, source, split, assign(source, rule), columns))
    return tuple(found)


def first_pass(
    fitter: Fitter,
    one: Input,
    spool: Spool,
    span: Span | None = None,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[np.ndarray]:
    """Read rows, learn from those that train, and spool all of them.

    Args:
        fitter: Learns, and gives the codes that are spooled.
        one: Where the rows come from.
        spool: Gets the columns, chunk by chunk.
        span: Only these rows; None means all.
        threads: That encode columns; None means as many as there are processors.
        progress: Called with the rows done by now.

    Returns:
        The split of every row, chunk by chunk; none where there is no rule.
    """
    splits: list[np.ndarray] = []
    rule = one.rule

    def train(chunk: Chunk) -> np.ndarray:
        assert rule is not None
        splits.append(rule(chunk))
        return splits[-1] == 0

    done = 0
    trains = one.split == "train" if rule is None else train
    for chunk, columns in fitter.read(one.source, trains, span, threads, one.rule_columns):
        spool.write(columns)
        done += chunk.num_rows
        if progress is not None:
            progress(done)
    return splits


def splits_of(one: Input, splits: Iterable[np.ndarray]) -> list[str]:
    """Names of the splits that get rows.

    Args:
        one: Where the rows come from.
        splits: As `first_pass` gave them.
    """
    if one.rule is None:
        return [one.split]
    found = np.unique(np.concatenate([np.unique(chunk) for chunk in splits]))
    return [SPLITS[int(code)] for code in found]


def check_once(names: Iterable[list[str]]) -> list[str]:
    """All the splits, in their order.

    Raises:
        SchemaError: two inputs give rows to one split.
    """
    taken: set[str] = set()
    for ones in names:
        repeated = sorted(taken & set(ones))
        if repeated:
            raise SchemaError(
                f"the split rule makes {', '.join(repeated)} rows, but such a file is given "
                "too. Set its fraction to 0."
            )
        taken |= set(ones)
    return sorted(taken, key=SPLITS.index)


@contextmanager
def writers_for(
    work: Work, one: Input, names: Iterable[str], schema: Schema, folder: Path
) -> Iterator[dict[str, StoreWriter]]:
    """A store below `folder` for each of some splits of one input."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                StoreWriter(
                    folder / name, schema, name, f"{work.digest}-{name}", one.source.files,
                    picked=one.rule is not None,
                )
            )
            for name in names
        }  # fmt: skip


def second_pass(
    columns: Iterable[Columns],
    splits: list[np.ndarray],
    finish: Finish,
    writers: dict[str, StoreWriter],
    start: int = 0,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Finish spooled chunks; a thread writes one while the next is encoded.

    Args:
        columns: Chunk by chunk, as `first_pass` spooled them.
        splits: As it gave them; empty where there is one writer.
        finish: Of the fitter that it learnt with.
        writers: By split.
        start: Position of the first row within the source.
        threads: That encode; None means as many as there are processors.
        progress: Called with the rows that are written by now.
    """
    first = start
    with ThreadPoolExecutor(threads or num_workers()) as pool, ThreadPoolExecutor(1) as writer:
        behind: Future[int] | None = None
        for index, chunk in enumerate(columns):
            tables = pool.map(finish.encode, chunk.pieces(PIECE_ROWS))
            if behind is not None:
                _tell(progress, behind.result() - start)
            split = splits[index] if splits else None
            behind = writer.submit(_append, writers, tables, split, first)
            first += chunk.num_rows
        if behind is not None:
            _tell(progress, behind.result() - start)


def _tell(progress: Callable[[int], None] | None, rows: int) -> None:
    if progress is not None:
        progress(rows)


def _append(
    writers: dict[str, StoreWriter],
    tables: Iterable[EncodedTable],
    splits: np.ndarray | None,
    start: int,
) -> int:
    """Write each row of a chunk to the store of its split; None when there is one store.

    Returns:
        Rows of the source up to the last one written.
    """
    first = start
    for table in tables:
        for name, writer in writers.items():
            if splits is None:
                writer.append(table)
                continue
            part = splits[first - start : first - start + len(table)]
            rows = np.flatnonzero(part == SPLITS.index(name))
            if rows.size:
                writer.append(table.take(rows), rows + first)
        first += len(table)
    return first
