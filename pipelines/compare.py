"""Compare finished runs: one row per configuration, its seeds as mean +- standard deviation.

    python -m pipelines.compare
    python -m pipelines.compare dataset=criteo baseline=deepfm
    python -m pipelines.compare dataset=criteo metric=logloss sort=optimizer.lr top=10
    python -m pipelines.compare where='optimizer.lr<=0.01 and tags.team=ads'
    python -m pipelines.compare runs=[<run id>,<folder>] baseline=<run id> format=markdown
    python -m pipelines.compare dataset=criteo baseline=lr output_dir=compared

Columns are the parameters that differ, then metrics; the best mean of each is bold (a star on a
screen). A row's n is its number of seeds. Against a baseline: the difference over the seeds that
both have, with a paired t-test (2 common seeds or more), and a bootstrap interval over the test
rows, for which saved models score them again. Runs on data of different digests stand in different
tables.

Writes to output_dir, where one is given
    compare.html             everything on one page, with tables that sort
    compare.csv, compare.md  the tables; CSV rounds nothing
    <data>-*.png, *.csv      quality against cost, and each configuration; with their numbers
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from recsys import config
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.comparison.records import RunRecord
    from recsys.comparison.table import Comparison

FORMATS = ("table", "markdown", "csv")


def compare(cfg: DictConfig) -> list[Comparison]:
    """Find, group, compare, show.

    Returns:
        A comparison per data set.
    """
    if cfg.format not in FORMATS:
        raise ConfigError(f"format={cfg.format}; allowed: {', '.join(FORMATS)}.")
    resamples = config.at_least("bootstrap", cfg.bootstrap, 0)
    top = None if cfg.top is None else config.at_least("top", cfg.top, 1)
    from recsys.comparison import render
    from recsys.comparison import table as tables_of
    from recsys.comparison.records import where
    from recsys.tracking.console import Console

    records, notes = find(cfg)
    if cfg.where is not None:
        records = where(records, str(cfg.where))
    tables = tables_of.compare(
        records,
        metric=cfg.metric,
        metrics=strings("metrics", cfg.metrics),
        baseline=None if cfg.baseline is None else str(cfg.baseline),
        sort=cfg.sort,
        top=top,
        same_rows=bool(cfg.same_rows),
    )
    if len({table.data for table in tables}) < len(tables):
        notes.append(
            "one name, several digests: other files, split or columns, so each has a table of its "
            "own (same_rows=true joins them)"
        )
    if cfg.baseline is not None and resamples:
        from pipelines.rescoring import Rescoring

        # Progress is of a screen; a pipe gets the table alone.
        with Console(cfg.console if cfg.format == "table" else "none") as console:
            rescoring = Rescoring(resamples, config.at_least("seed", cfg.seed, 0), console)
            tables = [rescoring.add_to(table) for table in tables]
    text = {"markdown": render.markdown, "csv": render.as_csv}.get(cfg.format)
    with Console(cfg.console) as console:
        if text is not None:
            # What is piped into a file must hold nothing else.
            print(text(tables), end="")
            for note in notes:
                print(f"note: {note}", file=sys.stderr)
        else:
            for table in tables:
                console.table(
                    render.title(table), render.columns(table), render.cells(table, starred)
                )
                for note in table.notes:
                    console.note(f"note: {note}")
            for note in notes:
                console.note(f"note: {note}")
        if cfg.output_dir is not None:
            write(tables, notes, Path(cfg.output_dir))
            to = console.note if text is None else partial(print, file=sys.stderr)
            to(f"page, figures and tables in {cfg.output_dir}")
    return tables


def write(tables: Sequence[Comparison], notes: Sequence[str], folder: Path) -> None:
    """The page, the tables, and each figure with its numbers."""
    from recsys.comparison import figures, render
    from recsys.comparison.page import render_page
    from recsys.data.atomic import write_text_whole
    from recsys.tracking.figures import save_figure

    folder.mkdir(parents=True, exist_ok=True)
    write_text_whole(folder / "compare.html", render_page(tables, notes))
    write_text_whole(folder / "compare.csv", render.as_csv(tables))
    write_text_whole(folder / "compare.md", render.markdown(tables))
    for table in tables:
        name = re.sub(r"[^\w-]+", "_", f"{table.data}-{table.digest[:8]}")
        drawn = figures.quality_and_cost(table)
        if drawn is not None:
            save_figure(*drawn, folder / f"{name}-quality_and_cost")
        save_figure(*figures.configurations(table), folder / f"{name}-configurations")


def starred(text: str) -> str:
    """How the best of a column is marked on a screen, where nothing else is sure to be seen."""
    return f"{text} *"


def find(cfg: DictConfig) -> tuple[list[RunRecord], list[str]]:
    """The runs that the configuration names or filters, and what was left out."""
    from recsys.tracking.search import Wanted, find_runs, named_runs

    uri = cfg.tracking.get("uri")
    names = strings("runs", cfg.runs)
    datasets, models = strings("dataset", cfg.dataset), strings("model", cfg.model)
    if not names:
        wanted = Wanted(datasets, strings("experiments", cfg.experiments), models, bool(cfg.trials))
        return find_runs(wanted, uri)
    records = [
        one
        for one in named_runs(names, uri)
        if (not datasets or one.data in datasets) and (not models or one.model in models)
    ]
    return records, []


def strings(key: str, value: Any) -> tuple[str, ...]:
    """A name, a list of names, or nothing.

    Raises:
        ConfigError: something else.

    Example:
        >>> strings("model", None), strings("model", "lr"), strings("model", ["lr", "fm"])
        ((), ('lr',), ('lr', 'fm'))
    """
    value = config.plain(value)
    if value is None:
        return ()
    if isinstance(value, list | tuple):
        return tuple(str(one) for one in value)
    if isinstance(value, dict):
        raise ConfigError(f"{key}={value}; it must be a name or a list of names.")
    return (str(value),)


if __name__ == "__main__":
    config.main(compare, "compare")
