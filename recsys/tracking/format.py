"""Numbers and tables as short text. Pure functions: what the console prints is tested here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

SHOWN_METRICS = ("auc", "gauc", "logloss", "ne", "calibration", "ece")
"""Metrics of a validation line, in this order: more than six wrap."""


class Step(Protocol):
    """One progress record of the training loop."""

    @property
    def step(self) -> int: ...
    @property
    def total_steps(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def grad_norm(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def rows_per_second(self) -> float: ...
    @property
    def data_share(self) -> float: ...
    @property
    def eta_seconds(self) -> float: ...


class Evaluation(Protocol):
    """One validation of the training loop."""

    @property
    def step(self) -> int: ...
    @property
    def epoch(self) -> int: ...
    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def improved(self) -> bool: ...


def compact(number: float) -> str:
    """Three significant digits and a letter.

    Example:
        >>> compact(950), compact(412_345), compact(1_234_567), compact(45.8e9)
        ('950', '412k', '1.23M', '45.8B')
    """
    if not math.isfinite(number):
        return str(number)
    size = abs(number)
    for limit, letter in ((999.5e6, "B"), (999.5e3, "M"), (999.5, "k")):
        if size >= limit:
            scaled = number / {"B": 1e9, "M": 1e6, "k": 1e3}[letter]
            digits = 2 if abs(scaled) < 9.995 else 1 if abs(scaled) < 99.95 else 0
            return f"{scaled:.{digits}f}{letter}"
    return f"{number:.0f}"


def size(num_bytes: float) -> str:
    """Bytes in the unit that leaves one to four digits before the point (1024-based).

    Example:
        >>> size(3.1 * 2**30), size(12 * 2**20), size(100)
        ('3.1 GiB', '12.0 MiB', '100 B')
    """
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        num_bytes /= 1024
        if num_bytes < 1023.95:
            return f"{num_bytes:.1f} {unit}"
    return f"{num_bytes / 1024:.1f} TiB"


def duration(seconds: float) -> str:
    """Two units at most.

    Example:
        >>> duration(0.4), duration(59.7), duration(240), duration(4800), duration(90_000)
        ('<1s', '1m', '4m', '1h 20m', '1d 1h')
    """
    if not math.isfinite(seconds):
        return "?"
    total = round(seconds)
    if total < 1:
        return "<1s"
    if total < 60:
        return f"{total}s"
    minutes = round(seconds / 60)
    if minutes < 60:
        spare = total - 60 * (total // 60)
        return f"{total // 60}m {spare}s" if total < 180 and spare else f"{minutes}m"
    hours = minutes // 60
    if hours < 24:
        return f"{hours}h {minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{hours // 24}d {hours % 24}h" if hours % 24 else f"{hours // 24}d"


def metric(name: str, value: float) -> str:
    """A metric with the digits that matter: five where the fourth decides, three for a ratio.

    Example:
        >>> metric("auc", 0.984123), metric("calibration", 1.0234), metric("auc", float("nan"))
        ('0.98412', '1.023', 'nan')
    """
    if not math.isfinite(value):
        return str(value)
    return f"{value:.3f}" if name.rpartition("/")[2] == "calibration" else f"{value:.5f}"


def progress_line(record: Step, memory_bytes: int, short: bool = False) -> str:
    """One line of training progress; the first step has no speed yet.

    Values are two spaces apart, so that a line splits into columns. The short form leaves out the
    gradient norm and the learning rate and stands beside a bar.
    """
    done = f"{record.step:,}/{record.total_steps:,}"
    loss = f"loss {record.loss:.4f}"
    if short:
        parts = [done, loss]
    else:
        share = record.step / max(record.total_steps, 1)
        rate = f"lr {scientific(record.lr)}"
        parts = [f"step {done} ({share:.0%})", loss, f"grad {record.grad_norm:.2g}", rate]
    if record.step > 1:
        parts += [f"{compact(record.rows_per_second)} rows/s", f"data {record.data_share:.0%}"]
    parts.append(f"mem {size(memory_bytes)}")
    if record.step > 1:
        parts.append(f"eta {duration(record.eta_seconds)}")
    return "  ".join(parts)


def scientific(number: float) -> str:
    """Two digits and a short exponent.

    Example:
        >>> scientific(0.001), scientific(0.0)
        ('1.0e-3', '0')
    """
    if number == 0:
        return "0"
    mantissa, _, exponent = f"{number:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def shown_metrics(metrics: Mapping[str, float]) -> list[str]:
    """Names to print, at most six: the usual ones, or whatever was measured when none is usual.

    Example:
        >>> shown_metrics({"ece": 0.1, "average_precision": 0.2, "auc": 0.9})
        ['auc', 'ece']
        >>> shown_metrics({"recall_at_20": 0.1})
        ['recall_at_20']
    """
    return ([name for name in SHOWN_METRICS if name in metrics] or list(metrics))[:6]


def evaluation_line(record: Evaluation, best: float | None) -> str:
    """One validation as a line: the first metric with its change against the best so far."""
    names = shown_metrics(record.metrics)
    parts = [f"val   step {record.step:,}  epoch {record.epoch}"]
    for position, name in enumerate(names):
        value = record.metrics[name]
        text = f"{name} {metric(name, value)}"
        if position == 0:
            change = "" if best is None else f"{value - best:+.5f}"
            note = " ".join(filter(None, (change, "best" if record.improved else "")))
            text += f" ({note})" if note else ""
        parts.append(text)
    return "  ".join(parts)


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in plain characters; columns that hold numbers are set to the right.

    Example:
        >>> print(text_table("Data", ["split", "rows"], [["train", "1,200"], ["test", "90"]]))
        Data
        split   rows
        -----  -----
        train  1,200
        test      90
    """
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    right = numeric_columns(cells, len(columns))

    def line(values: Sequence[str]) -> str:
        set_out = [
            value.rjust(width) if to_right else value.ljust(width)
            for value, width, to_right in zip(values, widths, right, strict=True)
        ]
        return "  ".join(set_out).rstrip()

    ruler = "  ".join("-" * width for width in widths)
    lines = [title, line(columns), ruler, *map(line, cells)]
    return "\n".join(lines)


def numeric_columns(cells: Sequence[Sequence[str]], num_columns: int) -> list[bool]:
    """Which columns hold nothing but numbers (units, percent signs and gaps included)."""
    return [
        bool(cells) and all(_looks_numeric(row[column]) for row in cells)
        for column in range(num_columns)
    ]


def _looks_numeric(cell: str) -> bool:
    return cell in ("", "-", "nan", "inf") or cell.lstrip("+-<.")[:1].isdigit()
