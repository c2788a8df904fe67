"""Comparisons as text: cells for a screen or a page, markdown, CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence

from recsys.comparison.table import SHORT_ID, Comparison, Difference, Spread

LONGEST = 24
"""Characters of a parameter that are shown; CSV has all."""
SECONDS, COUNTS = ("fit_seconds",), ("train_rows_per_second", "num_parameters", "peak_memory_mib")

Mark = Callable[[str], str]
"""How the best of a column is set off."""


def number(metric: str, value: float) -> str:
    """A value with the digits that matter.

    Example:
        >>> number("test/auc", 0.81234567), number("fit_seconds", 12.34), number("x", math.nan)
        ('0.81235', '12.3', 'nan')
        >>> number("num_parameters", 418000.0)
        '418,000'
    """
    if not math.isfinite(value):
        return str(value)
    if metric in COUNTS:
        return f"{value:,.0f}"
    if metric in SECONDS:
        return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
    return f"{value:.5f}"


def spread(metric: str, found: Spread | None, runs: int) -> str:
    """Mean +- standard deviation; the count where it is not that of the row.

    Example:
        >>> spread("test/auc", Spread(0.8, 0.001, 3), 3)
        '0.80000 +- 0.00100'
        >>> spread("test/auc", Spread(0.8, math.nan, 1), 3)
        '0.80000 (n 1)'
    """
    if found is None:
        return "-"
    text = number(metric, found.mean)
    if found.n > 1:
        text += f" +- {number(metric, found.sd)}"
    return text if found.n == runs else f"{text} (n {found.n})"


def columns(table: Comparison) -> list[str]:
    """Names of the columns of `cells`."""
    names = ["model", "n", *(_short(key) for key in table.varying)]
    names += [name.removeprefix("test/") for name in table.metrics]
    if table.baseline is not None:
        name = table.metric.removeprefix("test/")
        names += [f"{name} - {table.label(table.baseline)}", "95 % over seeds", "p"]
        if any(one.rows is not None for one in table.differences.values()):
            names.append(f"95 % over {_kind(table)}")
    return [*names, "run"]


def cells(table: Comparison, mark: Mark = str) -> list[list[str]]:
    """A row of text per row; the best mean of each metric goes through `mark`."""
    best = {name: table.best(name) for name in table.metrics}
    with_rows = any(one.rows is not None for one in table.differences.values())
    out = []
    for index, row in enumerate(table.rows):
        texts = [row.model, str(len(row.runs))]
        texts += [shortened(row.params.get(key, "-")) for key in table.varying]
        for name in table.metrics:
            text = spread(name, row.spread(name), len(row.runs))
            texts.append(mark(text) if index in best[name] else text)
        if table.baseline is not None:
            change = difference(table.differences.get(index))
            texts += change if with_rows else change[:3]
        out.append([*texts, row.runs[-1].run_id[:SHORT_ID]])
    return out


def difference(found: Difference | None) -> list[str]:
    """Difference, interval over seeds with the number of common ones, p, interval over rows."""
    if found is None:
        return ["baseline", "", "", ""]
    seeds, rows = found.seeds, found.rows
    texts = ["-", "-", "-", "-"]
    if seeds is not None:
        texts[0] = f"{seeds.mean:+.5f}"
        told = "-" if math.isnan(seeds.low) else _interval(seeds.low, seeds.high)
        texts[1] = f"{told} (n {seeds.n})"
        texts[2] = "-" if math.isnan(found.p_holm) else probability(found.p_holm)
    elif rows is not None:
        texts[0] = f"{rows.mean:+.5f}"
    if rows is not None:
        texts[3] = _interval(rows.low, rows.high)
    return texts


def probability(p: float) -> str:
    """A p value with two digits.

    Example:
        >>> probability(0.0312), probability(0.00001), probability(1.0)
        ('0.031', '<0.0001', '1.0')
    """
    return "<0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.995 else "1.0"


def shortened(text: str) -> str:
    """A parameter's value, cut where it is long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _interval(low: float, high: float) -> str:
    return f"{low:+.5f} to {high:+.5f}"


def _short(key: str) -> str:
    """`ctr.num_heads` is a model's own and needs no family."""
    family, _, rest = key.partition(".")
    return rest if family in ("ctr", "cf", "mtl", "towers") else key


def _kind(table: Comparison) -> str:
    return next(one.rows.kind for one in table.differences.values() if one.rows is not None)


def title(table: Comparison) -> str:
    """What a table is of."""
    runs = sum(len(row.runs) for row in table.rows)
    told = f"{runs} run" if runs == 1 else f"{runs} runs"
    digests = table.digest.split("+")
    digest = digests[0][:SHORT_ID] if len(digests) == 1 else f"{len(digests)} digests"
    return f"{table.data} ({digest}): {told}"


def markdown(tables: Sequence[Comparison]) -> str:
    """Tables to paste into an issue: the best in bold, notes below."""
    parts = []
    for table in tables:
        rows = [columns(table), *cells(table, lambda text: f"**{text}**")]
        texts = [[one.replace("|", "\\|") for one in row] for row in rows]
        rule = ["---", "---:", *("---" for _ in table.varying)]
        rule += ["---:"] * (len(texts[0]) - len(rule) - 1) + ["---"]
        lines = [f"| {' | '.join(row)} |" for row in [texts[0], rule, *texts[1:]]]
        notes = [f"- {note}" for note in table.notes]
        parts.append(
            "\n".join([f"**{title(table)}**", "", *lines, *([""] if notes else []), *notes])
        )
    return "\n\n".join(parts) + "\n"


def as_csv(tables: Sequence[Comparison]) -> str:
    """Everything as one sheet, nothing rounded or cut: means, deviations, counts, differences."""
    params = list(dict.fromkeys(key for table in tables for key in table.varying))
    metrics = list(dict.fromkeys(name for table in tables for name in table.metrics))
    rows = [
        _record(table, index, params, metrics)
        for table in tables
        for index in range(len(table.rows))
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _record(
    table: Comparison, index: int, params: Sequence[str], metrics: Sequence[str]
) -> dict[str, object]:
    row = table.rows[index]
    record: dict[str, object] = {
        "data": table.data,
        "digest": "+".join(sorted({run.digest for run in row.runs})),
        "model": row.model,
        "runs": len(row.runs),
        "seeds": " ".join("" if run.seed is None else str(run.seed) for run in row.runs),
        **{key: row.params.get(key, "") for key in params},
    }
    for name in metrics:
        found = row.spread(name)
        record[name] = "" if found is None else found.mean
        record[f"{name} sd"] = "" if found is None or math.isnan(found.sd) else found.sd
        record[f"{name} n"] = 0 if found is None else found.n
    if table.baseline is not None:
        record |= {"metric": table.metric, "baseline": table.label(table.baseline)}
        found_difference = table.differences.get(index)
        record |= {} if found_difference is None else _numbers(found_difference)
    return record | {"run_ids": " ".join(run.run_id for run in row.runs)}


def _numbers(found: Difference) -> dict[str, object]:
    seeds, rows = found.seeds, found.rows
    values: dict[str, object] = {}
    if seeds is not None:
        values |= {
            "difference": seeds.mean, "seeds_low": seeds.low, "seeds_high": seeds.high,
            "common_seeds": seeds.n, "p": seeds.p, "p_holm": found.p_holm,
        }  # fmt: skip
    if rows is not None:
        values |= {
            "rows_difference": rows.mean, "rows_low": rows.low, "rows_high": rows.high,
            "rows_seeds": rows.seeds, "drawn": rows.kind, "drawn_count": rows.blocks,
        }  # fmt: skip
    return {
        key: "" if isinstance(value, float) and math.isnan(value) else value
        for key, value in values.items()
    }
