"""Raw data set to encoded, memory-mapped stores; fitted on the training rows only, cached.

    <cache_dir>/<name>-<fingerprint>/
        train/ val/ test/    stores
        pipeline/            the fitted feature pipeline
        schema.yaml          what the columns were taken for; edit it and pass data.schema=<file>
        prepared.json        notes, summary, digest

The folder appears in one rename when everything is written. Processes that prepare the same data
wait for the first of them.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.atomic import move_into_place, sync_tree
from recsys.data.encode import EncodedTable, FeaturePipeline
from recsys.data.fit import Finish, Fitter
from recsys.data.fitted_reader import FittedReader
from recsys.data.infer import check_types, describe
from recsys.data.options import DataOptions, apply_options
from recsys.data.raw import RawDataset
from recsys.data.readers import Chunk, Source, num_workers
from recsys.data.schema import Schema
from recsys.data.split import SPLITS, Assign, assign
from recsys.data.spool import Spool
from recsys.data.store import Store, StoreWriter
from recsys.errors import SchemaError

VERSION = 1
"""Part of the fingerprint: raise it when the same input gives other bytes."""
PIECE_ROWS = 65_536
"""Rows encoded and written at a time: they stay in the processor's cache from step to step."""
Progress = Callable[[int, int, str], None]
"""Called with (rows done, rows in all, stage); stages are `split`, `read` and `write`."""


@dataclass(frozen=True)
class Prepared:
    """A data set ready to train on.

    Args:
        name: Of the data set.
        train: Training rows.
        val: Validation rows, or None.
        test: Test rows, or None.
        pipeline: The only way raw rows reach a model.
        digest: Changes with the sources, the schema, the split and the options.
        folder: Where all of it lies.
        notes: Sentences to print with every run.
        bayes: Metrics of the true probabilities (synthetic data only).
        summary: One mapping per column: column, type, kind, encoding, codes, missing.
    """

    name: str
    train: Store
    val: Store | None
    test: Store | None
    pipeline: FeaturePipeline
    digest: str
    folder: Path
    notes: tuple[str, ...] = ()
    bayes: dict[str, float] | None = None
    summary: tuple[dict[str, Any], ...] = ()

    @property
    def stores(self) -> dict[str, Store]:
        """The splits that exist."""
        return {s.split: s for s in (self.train, self.val, self.test) if s is not None}


def prepare(
    raw: RawDataset,
    options: DataOptions,
    cache_dir: Path,
    progress: Progress | None = None,
    pipeline: FeaturePipeline | None = None,
) -> Prepared:
    """Split, fit, encode and store a raw data set; a second call opens the result at once.

    Args:
        raw: Files, unfitted schema and split.
        options: Applied to the schema.
        cache_dir: Holds one folder per prepared data set.
        progress: Called after every chunk of rows.
        pipeline: Of earlier data, to encode by as it is; None fits one on the training rows.

    Raises:
        SchemaError: The data does not fit the schema; nothing is left behind.
        OSError: The disk is full or not writable; nothing is left behind.
    """
    for source in raw.files.values():
        source.require(options.ignored)
    schema = apply_options(raw.schema, options)
    raw = dataclasses.replace(raw, split=options.rule_of(raw, schema))
    for source in raw.files.values():
        check_types(schema, source)
    digest = fingerprint(raw, schema, options, pipeline)
    folder = Path(cache_dir) / f"{raw.name}-{digest}"
    with _only_one(folder):
        if options.rebuild or not (folder / "prepared.json").exists():
            partial = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
            partial.mkdir()
            try:
                _build(raw, schema, options, digest, partial, progress or _silent, pipeline)
                sync_tree(partial)
                move_into_place(partial, folder)
            except BaseException:
                shutil.rmtree(partial, ignore_errors=True)
                raise
        return open_prepared(folder)


def open_prepared(folder: Path) -> Prepared:
    """Open what `prepare` wrote.

    Raises:
        SchemaError: The folder is absent, incomplete or damaged.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / "prepared.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise SchemaError(
            f"{folder} holds no prepared data ({error}). Prepare it again with data.rebuild=true."
        ) from error
    stores = {name: Store.open(folder / name) for name in meta["splits"]}
    return Prepared(
        name=meta["name"],
        train=stores["train"],
        val=stores.get("val"),
        test=stores.get("test"),
        pipeline=FeaturePipeline.load(folder / "pipeline"),
        digest=meta["digest"],
        folder=folder,
        notes=tuple(meta["notes"]),
        bayes=meta["bayes"],
        summary=tuple(meta["summary"]),
    )


def fingerprint(
    raw: RawDataset, schema: Schema, options: DataOptions, pipeline: FeaturePipeline | None = None
) -> str:
    """Changes when the prepared bytes could."""
    split = None
    if raw.split is not None and raw.split != "options":
        split = [type(raw.split).__name__, dataclasses.asdict(raw.split)]
    parts: dict[str, Any] = {
        "version": VERSION,
        "sources": {name: source.digest() for name, source in sorted(raw.files.items())},
        "schema": schema.to_dict(),
        "split": split,
        "nan_as_missing": options.nan_as_missing,
        "notes": [raw.notes, raw.bayes],
    }
    if pipeline is not None:
        parts["pipeline"] = pipeline.digest()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; the system frees it when the process ends, however it ends."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _silent(done: int, total: int, stage: str) -> None:
    del done, total, stage


@dataclass
class _Part:
    """One source on its way: its spool, and the split of every row of every chunk."""

    source: Source
    split: str
    """`train`, `val` or `test`; for a source that a rule splits, `train`."""
    rule: Assign | None
    spool: Spool
    splits: list[np.ndarray]


def _build(
    raw: RawDataset,
    schema: Schema,
    options: DataOptions,
    digest: str,
    folder: Path,
    progress: Progress,
    given: FeaturePipeline | None,
) -> None:
    """Read once, learn, finish, write: everything below `folder`."""
    total = sum(source.num_rows for source in raw.files.values())
    parts = _parts(raw, folder)
    fitter = Fitter(schema, options.nan_as_missing)
    if given is not None:
        fitter = FittedReader(schema, given)
    progress(0, total, "read")
    done = 0
    for part in parts:
        for chunk, columns in fitter.read(part.source, _train_rows(part)):
            part.spool.write(columns)
            done += chunk.num_rows
            progress(done, total, "read")
    finish = fitter.finish()
    splits = _write(parts, finish, digest, folder, lambda done: progress(done, total, "write"))
    pipeline = finish.pipeline
    pipeline.save(folder / "pipeline")
    schema.save(folder / "schema.yaml")
    source = next(iter(raw.files.values()))
    text = json.dumps(
        {
            "name": raw.name,
            "digest": digest,
            "splits": splits,
            "notes": list(raw.notes),
            "bayes": raw.bayes,
            "summary": describe(schema, source, pipeline, finish.missing),
        },
        indent=1,
    )
    (folder / "prepared.json").write_text(text)


def _parts(raw: RawDataset, folder: Path) -> list[_Part]:
    """Training rows first, so that a bad training file is found before others are read."""
    parts = []
    for name in ("all", *SPLITS):
        if name not in raw.files:
            continue
        source = raw.files[name]
        rule = None
        if name in ("all", "train") and raw.split is not None and raw.split != "options":
            rule = assign(source, raw.split)
        split = "train" if name == "all" else name
        parts.append(_Part(source, split, rule, Spool(folder / f"spool-{name}"), []))
    return parts


def _train_rows(part: _Part) -> Callable[[Chunk], np.ndarray] | bool:
    """What `Fitter.read` needs to know; remembers the split of each row on the way."""
    rule = part.rule
    if rule is None:
        return part.split == "train"

    def mask(chunk: Chunk) -> np.ndarray:
        part.splits.append(rule(chunk))
        return part.splits[-1] == 0

    return mask


def _write(
    parts: list[_Part], finish: Finish, digest: str, folder: Path, progress: Callable[[int], None]
) -> list[str]:
    """Finish every spooled chunk and append it to the store of its split."""
    schema = finish.pipeline.schema
    progress(0)
    done = 0
    taken: set[str] = set()
    with ThreadPoolExecutor(num_workers()) as pool:
        for part in parts:
            names = _splits_of(part)
            repeated = sorted(taken & set(names))
            if repeated:
                raise SchemaError(
                    f"the split rule makes {', '.join(repeated)} rows, but such a file is given "
                    "too. Set its fraction to 0."
                )
            taken |= set(names)
            with ExitStack() as stack:
                writers = {
                    name: stack.enter_context(
                        StoreWriter(
                            folder / name, schema, name, f"{digest}-{name}", part.source.files,
                            picked=part.rule is not None,
                        )
                    )
                    for name in names
                }  # fmt: skip
                _write_part(part, finish, writers, pool, partial(_add, progress, done))
            done += part.source.num_rows
            part.spool.remove()
    return sorted(taken, key=SPLITS.index)


def _add(progress: Callable[[int], None], before: int, rows: int) -> None:
    progress(before + rows)


def _write_part(
    part: _Part,
    finish: Finish,
    writers: dict[str, StoreWriter],
    pool: ThreadPoolExecutor,
    progress: Callable[[int], None],
) -> None:
    """Finish the chunks of one source; a thread writes one while the next is encoded."""
    start = 0
    with ThreadPoolExecutor(1) as writer:
        behind: Future[int] | None = None
        for index, columns in enumerate(part.spool.read()):
            tables = pool.map(finish.encode, columns.pieces(PIECE_ROWS))
            if behind is not None:
                progress(behind.result())
            splits = part.splits[index] if part.rule else None
            behind = writer.submit(_append, writers, tables, splits, start)
            start += columns.num_rows
        if behind is not None:
            progress(behind.result())


def _splits_of(part: _Part) -> list[str]:
    """Names of the splits that get rows."""
    if part.rule is None:
        return [part.split]
    found = np.unique(np.concatenate([np.unique(one) for one in part.splits]))
    return [SPLITS[int(code)] for code in found]


def _append(
    writers: dict[str, StoreWriter],
    tables: Iterable[EncodedTable],
    splits: np.ndarray | None,
    start: int,
) -> int:
    """Write each row of a chunk to the store of its split; None when there is one store.

    Returns:
        Rows of the source that are written by now.
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
