"""What a person sees while a model trains: a live line in a terminal, sparse plain lines elsewhere.

A log file, a pipe and a notebook get plain text, at most one progress line every ten seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from recsys.errors import ConfigError, did_you_mean
from recsys.tracking.format import (
    Evaluation,
    Step,
    duration,
    evaluation_line,
    metric,
    numeric_columns,
    progress_line,
    shown_metrics,
    text_table,
)
from recsys.tracking.summary import (
    Table,
    column_table,
    model_table,
    result_line,
    result_table,
    split_table,
)

if TYPE_CHECKING:
    import rich.console
    import rich.progress

    from recsys.data.prepare import Prepared
    from recsys.embedding.lookup import EmbeddingLookup

KINDS = ("auto", "rich", "plain", "none")
INTERVAL_SECONDS = 10.0
"""Least time between two progress lines of plain output."""
PATIENCE_SECONDS = 2.0
"""A preparation shorter than this prints no progress."""
SLOW_DATA = 0.2
"""Share of the time spent waiting for batches above which a hint is given."""
_SETTLED_STEPS = 20
_WIDE = 120  # columns that the whole progress line needs beside its bar


class Remaining:
    """Estimates the time left from the speed since the first piece of work was done.

    The first piece is left out: it opens files and warms caches.

    Args:
        now: Clock reading in seconds when the work begins.
    """

    def __init__(self, now: float) -> None:
        self.began = now
        self._first: tuple[float, int] | None = None

    def seconds(self, done: int, total: int, now: float) -> float:
        """Seconds left, NaN while there is nothing to estimate from.

        Example:
            >>> left = Remaining(now=0.0)
            >>> left.seconds(done=10, total=100, now=50.0)  # a slow first piece
            nan
            >>> left.seconds(done=30, total=100, now=52.0)
            7.0
        """
        if done <= 0:
            return float("nan")
        if self._first is None:
            self._first = (now, done)
        since, before = self._first
        if done <= before:
            return float("nan")
        return (total - done) * (now - since) / (done - before)


class Console:
    """Prints the story of a run in order: data, model, progress, validations, result.

    Also an observer of the training loop (`step`, `evaluation`).

    Args:
        kind: `rich` for a terminal, `plain` for a file, `none` for silence, `auto` to choose.
        stream: Where to print; standard output by default.
        clock: Seconds, never going back.
        memory: Bytes in use, shown with progress.

    Raises:
        ConfigError: unknown kind.
    """

    def __init__(
        self,
        kind: str = "auto",
        *,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        memory: Callable[[], int] | None = None,
    ) -> None:
        if kind not in KINDS:
            raise ConfigError(f'console="{kind}" does not exist.{did_you_mean(kind, KINDS)}')
        self._stream = stream or sys.stdout
        self.kind = ("rich" if _is_terminal(self._stream) else "plain") if kind == "auto" else kind
        self._clock = clock
        self._memory = memory or memory_in_use
        self._best: float | None = None
        self._hinted = False
        self._training = False
        self._last_line = -float("inf")
        self._stage: str | None = None
        self._stage_told = False
        self._remaining = Remaining(clock())
        self._table_open = False
        self._rich: rich.console.Console | None = None
        self._live: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        if self.kind == "rich":
            from rich.console import Console as RichConsole

            self._rich = RichConsole(file=self._stream, highlight=False)

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the live line down; always call it before the process prints anything else."""
        if self._live is not None:
            self._live.stop()
            self._live = self._task = None

    # -- plain pieces ------------------------------------------------------------------------

    def banner(self, text: str) -> None:
        """The first line of a run."""
        self._print(text, style="bold")

    def note(self, text: str) -> None:
        """One sentence the person should know."""
        self._print(text)

    def warn(self, text: str) -> None:
        """One sentence the person should act on."""
        self._print(text, style="yellow")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A small table; cells are shown as `str` gives them."""
        if self.kind == "none":
            return
        if self._rich is None:
            self._print(text_table(title, columns, rows) + "\n")
            return
        from rich import box
        from rich.table import Table

        cells = [[str(cell) for cell in row] for row in rows]
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        for name, right in zip(columns, numeric_columns(cells, len(columns)), strict=True):
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in cells:
            table.add_row(*(_escape(cell) for cell in row))
        self._rich.print(table)

    # -- preparation -------------------------------------------------------------------------

    def preparing(self, done: int, total: int, stage: str, unit: str = "rows") -> None:
        """Progress of work of known length: call it after every chunk of rows, or of `unit`."""
        if self.kind == "none":
            return
        now = self._clock()
        if stage != self._stage:
            self.close()
            self._stage, self._stage_told, self._remaining = stage, False, Remaining(now)
            self._last_line = now - INTERVAL_SECONDS
        elapsed = now - self._remaining.began
        left = self._remaining.seconds(done, total, now)
        finished = done >= total
        if self._rich is not None:
            self._show_live(stage, done, total, f"{done:,}/{total:,} {unit}  eta {duration(left)}")
            if finished:
                self.close()
                self._stage = None
        elif finished:
            if self._stage_told:
                self._print(f"{stage}  {total:,} {unit} in {duration(elapsed)}")
            self._stage = None
        elif elapsed >= PATIENCE_SECONDS and now - self._last_line >= INTERVAL_SECONDS:
            share = f"{done / total:.0%}"
            self._print(f"{stage}  {done:,}/{total:,} {unit} ({share})  eta {duration(left)}")
            self._last_line, self._stage_told = now, True

    # -- training: the observer of the loop --------------------------------------------------

    def step(self, record: Step) -> None:
        """Show progress: live in a terminal, else the first record and one every ten seconds."""
        if self.kind == "none":
            return
        now = self._clock()
        if self._rich is not None:
            line = progress_line(record, self._memory(), short=self._rich.width < _WIDE)
            epoch = f"epoch {record.epoch + 1}"
            self._show_live(epoch, record.step, record.total_steps, line)
        elif not self._training or now - self._last_line >= INTERVAL_SECONDS:
            self._print(progress_line(record, self._memory()))
            self._last_line = now
        self._training = True
        if record.data_share > SLOW_DATA and record.step >= _SETTLED_STEPS and not self._hinted:
            self._hinted = True
            self.warn(
                f"training waits for data {record.data_share:.0%} of the time; raise "
                "trainer.prefetch, or put the prepared data on a faster disk."
            )

    def evaluation(self, record: Evaluation) -> None:
        """Show one validation; the best so far is marked."""
        if self.kind == "none" or not record.metrics:
            return
        first = record.metrics[shown_metrics(record.metrics)[0]]
        if self._rich is None:
            self._print(evaluation_line(record, self._best))
        else:
            self._evaluation_row(record, first)
        if record.improved or self._best is None:
            self._best = first

    def _evaluation_row(self, record: Evaluation, first: float) -> None:
        """A table that grows by a row per validation, above the live line."""
        names = shown_metrics(record.metrics)
        widths = [max(len(name), 8) + 2 for name in names]
        if not self._table_open:
            self._table_open = True
            heads = "".join(name.rjust(width) for name, width in zip(names, widths, strict=True))
            self._print(f"{'step':>9}{'epoch':>7}{heads}{'change':>11}", style="bold")
        values = "".join(
            metric(name, record.metrics[name]).rjust(width)
            for name, width in zip(names, widths, strict=True)
        )
        change = "" if self._best is None else f"{first - self._best:+.5f}"
        mark = "  \u2605 best" if record.improved else ""
        row = f"{record.step:>9,}{record.epoch:>7}{values}{change:>11}{mark}"
        self._print(row, style="green" if record.improved else "")

    # -- the story of a run ------------------------------------------------------------------

    def prepared(self, prepared: Prepared) -> None:
        """Show the data: splits, columns, and what must be known about it."""
        self.show(split_table(prepared))
        self.show(column_table(prepared.summary))
        for note in prepared.notes:
            self.note(f"note: {note}")

    def model(
        self,
        name: str,
        lookup: EmbeddingLookup,
        parameters: Mapping[str, int],
        memory: Mapping[str, int],
    ) -> None:
        """Show where the parameters lie and what they cost in memory."""
        self.show(model_table(name, lookup, parameters, memory))

    def result(self, result: Mapping[str, Any], folder: Path) -> None:
        """Show the final metrics, the cost, where everything lies and what to do next."""
        self.close()
        self.show(result_table(result))
        self.note(result_line(result))
        self.note(f"saved in {folder}")
        rows = "<new rows>" if "selection" not in result else "<new pairs>"
        self.note(f"next: python -m pipelines.evaluate run={result['run_id']} data.path={rows}")

    def show(self, table: Table | None) -> None:
        """Print a prepared table; None prints nothing."""
        if table is not None:
            self.table(table.title, table.columns, table.rows)

    # -- output ------------------------------------------------------------------------------

    def _print(self, text: str, style: str = "") -> None:
        if self.kind == "none":
            return
        if self._rich is not None:
            from rich.text import Text

            self._rich.print(Text(text, style=style), soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def _show_live(self, label: str, done: int, total: int, text: str) -> None:
        if self._live is None:
            from rich.progress import BarColumn, Progress, TextColumn

            self._live = Progress(
                TextColumn("{task.description}", style="bold"),
                BarColumn(bar_width=16),
                TextColumn("{task.fields[text]}"),
                console=self._rich,
                transient=True,
                refresh_per_second=4,
            )
            self._live.start()
            self._task = self._live.add_task(label, total=total, text=text)
        assert self._task is not None
        self._live.update(
            self._task, description=label, completed=done, total=total, text=_escape(text)
        )


def memory_in_use() -> int:
    """Bytes this process holds: on the GPU when it uses one, else in main memory."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.memory_reserved())
    import psutil

    return int(psutil.Process().memory_info().rss)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _escape(text: str) -> str:
    """Square brackets mean markup to rich; here they mean themselves."""
    from rich.markup import escape

    return escape(text)
