"""The pipelines called from Python: the words of the command line in; tables and figures out.

    from pipelines.notebook import run

    found = run("train", "ctr=autoint", "trainer.epochs=3")     # python -m pipelines.train ctr=...
    found["metrics"]["test"]["auc"]                             # what result.json holds
    found.table("importance")                                   # a polars frame
    found.figure("training_curve")                              # drawn below the cell

`run` composes, checks and does exactly what the command does, and writes to the same places; what
it returns knows where, and shows itself below a cell.
"""

from __future__ import annotations

import html
import importlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from pipelines.compare import starred
from recsys import config
from recsys.errors import ConfigError, SchemaError, did_you_mean
from recsys.tracking.format import numeric_columns, text_table
from recsys.tracking.summary import Table, result_table

PLACES = (".", "plots")
"""Where a pipeline writes tables and figures, within its folder."""


class Best(str):
    """A cell that is the best of its column."""


@dataclass(frozen=True)
class Picture:
    """A figure that Jupyter draws below a cell; `path` is its file."""

    path: Path

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


@dataclass(frozen=True)
class Outcome:
    """What a pipeline found, and where it wrote.

    Args:
        pipeline: Its name.
        value: What its function returned; `outcome[key]` looks into it.
        folder: Where it wrote; None: nowhere.
    """

    pipeline: str
    value: Any
    folder: Path | None

    def __getitem__(self, key: Any) -> Any:
        return self.value[key]

    @property
    def tables(self) -> list[str]:
        """Names that `table` takes."""
        return sorted({*self._files(".csv", ".parquet"), *self._held()})

    @property
    def figures(self) -> list[str]:
        """Names that `figure` takes."""
        return sorted(self._files(".png"))

    def table(self, name: str) -> pl.DataFrame:
        """A table that was written, or the numbers of a figure.

        Raises:
            ConfigError: there is none of this name.
        """
        if name in self._held():
            return pl.DataFrame(self._held()[name])
        path = self._files(".csv", ".parquet").get(name)
        if path is None:
            raise ConfigError(
                f'{self.pipeline} wrote no table "{name}".{did_you_mean(name, self.tables)}'
            )
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema_length=None)

    def figure(self, name: str) -> Picture:
        """A figure that was drawn.

        Raises:
            ConfigError: there is none of this name.
        """
        path = self._files(".png").get(name)
        if path is None:
            raise ConfigError(
                f'{self.pipeline} drew no figure "{name}".{did_you_mean(name, self.figures)}'
            )
        return Picture(path)

    def __repr__(self) -> str:
        parts = [
            text_table(one.title, one.columns, one.rows) + "\n" for one in self._shown(starred)
        ]
        return "\n".join([*parts, *self._lines()])

    def _repr_html_(self) -> str:
        parts = [html_table(one) for one in self._shown(Best)]
        return "\n".join([*parts, *(f"<div>{html.escape(line)}</div>" for line in self._lines())])

    def _files(self, *suffixes: str) -> dict[str, Path]:
        """Written files by name; of one name the last suffix wins."""
        if self.folder is None:
            return {}
        return {
            path.stem: path
            for suffix in suffixes
            for place in PLACES
            for path in sorted((self.folder / place).glob(f"*{suffix}"))
        }

    def _held(self) -> dict[str, pa.Table]:
        """Tables that the result holds in memory."""
        held = self.value if isinstance(self.value, Mapping) else {}
        return {name: one for name, one in held.items() if isinstance(one, pa.Table)}

    def _shown(self, mark: Callable[[str], str]) -> Iterator[Table]:
        """The tables that tell what was found, the best of a column marked."""
        if isinstance(self.value, list):  # of comparisons
            from recsys.comparison import render

            for one in self.value:
                yield Table(render.title(one), render.columns(one), render.cells(one, mark))
        elif isinstance(self.value, Mapping) and self.value.get("metrics"):
            yield result_table(self.value)

    def _lines(self) -> list[str]:
        named = (("tables", self.tables), ("figures", self.figures))
        lines = [f"{kind}: {', '.join(names)}" for kind, names in named if names]
        return lines if self.folder is None else [*lines, f"folder: {self.folder}"]


def run(pipeline: str, *overrides: str) -> Outcome:
    """Run a pipeline with the words of its command line.

    Args:
        pipeline: train, evaluate, rank_features, compare, ...
        overrides: `group=option` and `key=value`, as after `python -m pipelines.<pipeline>`.

    Raises:
        ConfigError, SchemaError: what the command would answer, without the trace of its insides.

    Example:
        >>> run("train", "ctr=autoimt")
        Traceback (most recent call last):
        recsys.errors.ConfigError: ctr=autoimt: there is no "autoimt". Did you mean autoint?
    """
    names = [path.stem for path in config.CONFIGS.glob("*.yaml")]
    if pipeline not in names:
        raise ConfigError(f'there is no pipeline "{pipeline}".{did_you_mean(pipeline, names)}')
    try:
        cfg = config.compose(pipeline, overrides)
        with warnings.catch_warnings():
            # tqdm, which dependencies import, asks notebooks for a widget that nothing here draws.
            warnings.filterwarnings("ignore", message="IProgress not found")
            value = getattr(importlib.import_module(f"pipelines.{pipeline}"), pipeline)(cfg)
    except (ConfigError, SchemaError) as error:
        raise error.with_traceback(None) from None
    folder = value.get("folder") if isinstance(value, Mapping) else cfg.get("output_dir")
    return Outcome(pipeline, value, None if folder is None else Path(folder))


def html_table(table: Table) -> str:
    """A table as HTML: numbers to the right, the best of a column in bold."""
    cells = [[str(cell) for cell in row] for row in table.rows]
    right = numeric_columns(cells, len(table.columns))
    rows = ["".join(_tag("th", name, end) for name, end in zip(table.columns, right, strict=True))]
    rows += [
        "".join(_tag("td", cell, end) for cell, end in zip(row, right, strict=True))
        for row in table.rows
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<p><b>{html.escape(table.title)}</b></p><table>{body}</table>"


def _tag(tag: str, cell: object, right: bool) -> str:
    text = html.escape(str(cell))
    if isinstance(cell, Best):
        text = f"<b>{text}</b>"
    return f'<{tag} style="text-align: {"right" if right else "left"}">{text}</{tag}>'
