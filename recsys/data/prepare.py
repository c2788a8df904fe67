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
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.data.atomic import move_into_place, sync_tree
from recsys.data.encode import FeaturePipeline
from recsys.data.far_store import FarStore
from recsys.data.infer import check_types, describe
from recsys.data.local_engine import run_locally
from recsys.data.options import DataOptions, apply_options
from recsys.data.passes import Engine, Progress, Work, inputs_of
from recsys.data.raw import RawDataset
from recsys.data.ray_engine import run_on_ray
from recsys.data.remote import Place, is_address
from recsys.data.schema import Schema
from recsys.data.shared import fetch_description, is_published, publish
from recsys.data.store import Store
from recsys.errors import SchemaError

VERSION = 1
"""Part of the fingerprint: raise it when the same input gives other bytes."""


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
        ConfigError: Ray is asked for, and is not installed or does not answer.
        WorkerError: Workers of a cluster died again and again; nothing is left behind.
        OSError: The disk is full or not writable; nothing is left behind.
    """
    for source in raw.files.values():
        source.require(options.ignored)
    schema = apply_options(raw.schema, options)
    raw = dataclasses.replace(raw, split=options.rule_of(raw, schema))
    for source in raw.files.values():
        check_types(schema, source)
    digest = fingerprint(raw, schema, options, pipeline)
    name = f"{raw.name}-{digest}"
    place = None
    if is_address(options.store):
        place = Place.of(str(options.store)) / name
    elif options.store is not None:
        cache_dir = Path(options.store).expanduser()
    folder = Path(cache_dir) / name
    with _only_one(folder):
        here = not options.rebuild and (folder / "prepared.json").exists()
        published = place is not None and not options.rebuild and is_published(place)
        if place is not None and published and not here:
            return open_far(place, folder.with_name(f"{name}-far"))
        if not here:
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
        if place is None:
            return open_prepared(folder)
        if not published:
            publish(folder, place)
        return _regional(open_prepared(folder))


def open_prepared(folder: Path) -> Prepared:
    """Open what `prepare` wrote.

    Raises:
        SchemaError: The folder is absent, incomplete or damaged.
    """
    folder = Path(folder)
    return _open(folder, lambda split: Store.open(folder / split))


def open_far(place: Place, folder: Path) -> Prepared:
    """Open published data: rows come when they are asked for.

    Args:
        place: Folder behind an address, where `publish` put them.
        folder: Local one, for what is fetched.

    Raises:
        SchemaError: the address cannot be reached, or what it holds is damaged.
    """
    fetch_description(place, folder)
    return _regional(_open(folder, lambda split: FarStore.open_far(place / split, folder / split)))


def _open(folder: Path, store: Callable[[str], Store]) -> Prepared:
    try:
        meta = json.loads((folder / "prepared.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise SchemaError(
            f"{folder} holds no prepared data ({error}). Prepare it again with data.rebuild=true."
        ) from error
    stores = {name: store(name) for name in meta["splits"]}
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


def _regional(prepared: Prepared) -> Prepared:
    """On every machine alike, whether its rows are here or far: they share batches out alike."""
    for store in prepared.stores.values():
        store.regional = True
    return prepared


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


def _build(
    raw: RawDataset,
    schema: Schema,
    options: DataOptions,
    digest: str,
    folder: Path,
    progress: Progress,
    given: FeaturePipeline | None,
) -> None:
    """Everything below `folder`."""
    work = Work(inputs_of(raw), schema, options.nan_as_missing, given, folder, digest)
    engine: Engine = run_locally
    if options.engine == "ray":
        engine = functools.partial(run_on_ray, address=options.ray_address)
    finish, splits = engine(work, progress)
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
