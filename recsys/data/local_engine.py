"""Preparation in this process: its threads read, learn, encode and write."""

from __future__ import annotations

from functools import partial

from recsys.data.fit import Finish
from recsys.data.passes import (
    Progress,
    Work,
    check_once,
    first_pass,
    second_pass,
    splits_of,
    writers_for,
)
from recsys.data.spool import Spool


def run_locally(work: Work, progress: Progress) -> tuple[Finish, list[str]]:
    """Both passes over all rows, source by source: an `Engine`."""
    total = work.num_rows
    fitter = work.fitter()
    spools = {one.name: Spool(work.folder / f"spool-{one.name}") for one in work.inputs}
    progress(0, total, "read")
    found = {}
    done = 0
    for one in work.inputs:
        tell = partial(_tell, progress, total, "read", done)
        found[one.name] = first_pass(fitter, one, spools[one.name], progress=tell)
        done += one.source.num_rows
    finish = fitter.finish()
    names = {one.name: splits_of(one, found[one.name]) for one in work.inputs}
    splits = check_once(names.values())
    progress(0, total, "write")
    done = 0
    for one in work.inputs:
        spool = spools[one.name]
        tell = partial(_tell, progress, total, "write", done)
        schema = finish.pipeline.schema
        with writers_for(work, one, names[one.name], schema, work.folder) as writers:
            second_pass(spool.read(), found[one.name], finish, writers, progress=tell)
        done += one.source.num_rows
        spool.remove()
    return finish, splits


def _tell(progress: Progress, total: int, stage: str, before: int, rows: int) -> None:
    progress(before + rows, total, stage)
