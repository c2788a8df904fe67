"""Preparation on a Ray cluster: every task reads, or writes, one span of rows.

    first pass    a task per span   its own provisional codes; a spool in the shared folder
    here          counts add up, codes become final, whatever the order in which tasks end
    second pass   a task per span   a shard: a store of the span's rows, in the shared folder
    here          shards are joined in the order of the rows, as they become ready

The result is that of the local engine, byte for byte. Tasks are plain Ray tasks rather than Ray
Data: what travels between the passes is not rows but sums, and Ray Data would bring pandas along.

A worker that dies is replaced and its span is done again; what a task leaves behind has a name of
its own, and counts only once the task has ended. The folder must be one that all machines see.
"""

from __future__ import annotations

import itertools
import shutil
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.encode import FeaturePipeline
from recsys.data.fit import Finish, Learnt
from recsys.data.passes import (
    Progress,
    Work,
    check_once,
    first_pass,
    second_pass,
    splits_of,
    writers_for,
)
from recsys.data.readers import Span
from recsys.data.spool import Spool
from recsys.data.store import Store
from recsys.errors import ConfigError, SchemaError, WorkerError
from recsys.ray_cluster import check_seen, cluster, first_line

SPAN_ROWS = 8_388_608
"""Rows of a task at most: what is lost with a worker."""
TASKS_PER_CPU = 4
"""Tasks that a processor gets, where there are rows enough: the last ones end close together."""
RETRIES = 3
"""How often a span is done again after its worker died."""
TASKS = "tasks"
"""Folder of what tasks write, those that were killed included; gone at the end."""


@dataclass(frozen=True)
class Task:
    """A span of one input."""

    position: int
    """Of the input."""
    span: Span


@dataclass(frozen=True)
class Spooled:
    """The rows of a span between the passes."""

    spool: Spool
    splits: list[np.ndarray]


def run_on_ray(work: Work, progress: Progress, address: str = "auto") -> tuple[Finish, list[str]]:
    """Both passes over all rows, by the tasks of a cluster: an `Engine`.

    Args:
        work: Its folder is seen by all machines of the cluster.
        progress: Called whenever a task has ended.
        address: `local`, `host:port` of a cluster, or `auto`: as `RAY_ADDRESS` says, or the cluster
            that this machine belongs to, or else `local`.

    Raises:
        ConfigError: Ray is not installed, no cluster is at the address, or a machine of it does not
            see the folder.
        SchemaError: As of the local engine; it names the file and the row.
        WorkerError: The workers of a span died again and again.
    """
    with cluster(address, "data.ray_address") as ray:
        check_seen(ray, work.folder)
        (work.folder / TASKS).mkdir()
        found = _Run(ray, work, progress).run()
        shutil.rmtree(work.folder / TASKS)
        return found


# --- what a task does ---------------------------------------------------------------------------


def read_span(work: Work, task: Task) -> tuple[Learnt, Spooled]:
    """The first pass over one span."""
    fitter = work.fitter()
    spool = Spool(work.folder / TASKS / f"spool-{uuid.uuid4().hex}")
    splits = first_pass(fitter, work.inputs[task.position], spool, task.span, threads=1)
    spool.close()
    return fitter.learnt(), Spooled(spool, splits)


def write_span(
    work: Work, task: Task, spooled: Spooled, finish: Finish, codes: Mapping[str, np.ndarray]
) -> Path:
    """The second pass over one span, into a shard.

    Args:
        work: What is prepared.
        task: The span.
        spooled: By the first pass over it.
        finish: For the codes of all spans together.
        codes: Tables that turn the codes of this span into those.

    Returns:
        Folder with a store for each split that has rows.
    """
    one, splits = work.inputs[task.position], spooled.splits
    own = finish.of_other(codes)
    folder = work.folder / TASKS / f"shard-{uuid.uuid4().hex}"
    folder.mkdir()
    schema = finish.pipeline.schema
    with writers_for(work, one, splits_of(one, splits), schema, folder) as writers:
        second_pass(spooled.spool.read(), splits, own, writers, task.span.start, threads=1)
    return folder


# --- what is done here --------------------------------------------------------------------------


class _Run:
    """One preparation on a cluster.

    Args:
        ray: The module, connected.
        work: What is prepared.
        progress: Called whenever a task has ended.
    """

    def __init__(self, ray: Any, work: Work, progress: Progress) -> None:
        self.ray = ray
        self.work = replace(work, folder=work.folder.absolute())
        self.progress = progress
        self.total = work.num_rows
        self.fitter = work.fitter()
        self.tasks = self._cut()

    def _cut(self) -> list[Task]:
        cpus = max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        rows = self.fitter.chunk_rows
        span_rows = min(SPAN_ROWS, max(rows, self.total // (TASKS_PER_CPU * cpus)))
        return [
            Task(position, span)
            for position, one in enumerate(self.work.inputs)
            for span in one.source.spans(span_rows, rows)
        ]

    def run(self) -> tuple[Finish, list[str]]:
        try:
            work = self.ray.put(self.work)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"data.engine=ray cannot send these rows to other processes ({first_line(error)}): "
                "they are made in this one, as data.histories are. Write them as Parquet first, or "
                "set data.engine=local."
            ) from error
        spooled: dict[int, Spooled] = {}
        codes: dict[int, Any] = {}  # in Ray's object store, which spills to disk
        listed = list(enumerate(self.tasks))
        with closing(self._each("read", read_span, {i: (work, t) for i, t in listed})) as read:
            for index, (learnt, spooled[index]) in read:
                codes[index] = self.ray.put(self.fitter.merge(learnt))
        finish = self.fitter.finish()
        names: list[list[str]] = [[] for _ in self.work.inputs]
        for position, one in enumerate(self.work.inputs):
            own = [spooled[index].splits for index, task in listed if task.position == position]
            names[position] = splits_of(one, itertools.chain.from_iterable(own))
        splits = check_once(names)
        sent = self.ray.put(replace(finish, pipeline=_without_texts(finish.pipeline)))
        tasks = {i: (work, t, spooled[i], sent, codes[i]) for i, t in listed}
        with closing(self._each("write", write_span, tasks)) as shards:
            self._join(shards, spooled, names, finish)
        return finish, splits

    def _each(
        self, stage: str, function: Callable[..., Any], arguments: Mapping[int, tuple[Any, ...]]
    ) -> Generator[tuple[int, Any], None, None]:
        """Results by the index of their task, as tasks end."""
        ray = self.ray
        remote = ray.remote(num_cpus=1, max_retries=RETRIES)(function)
        waiting = {remote.remote(*one): index for index, one in arguments.items()}
        done = 0
        self.progress(done, self.total, stage)
        try:
            while waiting:
                ended, _ = ray.wait(list(waiting), num_returns=1)
                index = waiting.pop(ended[0])
                yield index, self._result(ended[0], self.tasks[index].span)
                done += self.tasks[index].span.num_rows
                self.progress(done, self.total, stage)
        finally:
            for ref in waiting:
                ray.cancel(ref, force=True)
            if waiting:  # none of them may write any more when the folder is removed
                ray.wait(list(waiting), num_returns=len(waiting), timeout=30)

    def _result(self, ref: Any, span: Span) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as error:
            if isinstance(error.cause, SchemaError | ConfigError | OSError):
                raise error.cause from None
            raise WorkerError(f"{span.where}: {error.cause!r}") from error
        except errors.RayError as error:
            raise WorkerError(
                f"{span.where}: its worker died {RETRIES + 1} times ({first_line(error)}). Most "
                "often memory runs out: give each worker more, or each machine fewer processors."
            ) from error

    def _join(
        self,
        shards: Iterator[tuple[int, Path]],
        spooled: Mapping[int, Spooled],
        names: list[list[str]],
        finish: Finish,
    ) -> None:
        """Append shards in the order of their rows; those that are early wait in their files."""
        ready: dict[int, Path] = {}
        schema, folder = finish.pipeline.schema, self.work.folder

        def next_shard(index: int) -> Path:
            while index not in ready:
                other, shard = next(shards)
                spooled[other].spool.remove()
                ready[other] = shard
            return ready.pop(index)

        for position, one in enumerate(self.work.inputs):
            with writers_for(self.work, one, names[position], schema, folder) as writers:
                for index, task in enumerate(self.tasks):
                    if task.position != position:
                        continue
                    shard = next_shard(index)
                    for name, writer in writers.items():
                        if (shard / name).is_dir():
                            writer.append_store(Store.open(shard / name))
                    shutil.rmtree(shard)
        for _ in shards:  # ends it: the last progress
            raise AssertionError("a shard of no input")


def _without_texts(pipeline: FeaturePipeline) -> FeaturePipeline:
    """What encoding by provisional codes needs; a vocabulary may be as large as memory."""
    return FeaturePipeline(pipeline.schema, {}, pipeline.scales, pipeline.nan_as_missing)
