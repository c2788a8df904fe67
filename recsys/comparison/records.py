"""A finished run as comparison sees it: what was set, what was measured, where it lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.errors import ConfigError, did_you_mean

FACTS = ("fit_seconds", "train_rows_per_second", "peak_memory_mib", "num_parameters")
"""Numbers of `result.json` that stand beside its metrics."""
ALIKE = ("trainer.resume", "trainer.threads", "trainer.log_every", "trainer.prefetch",
         "trainer.keep_last", "trainer.checkpoint_every", "data.rebuild",
         "embedding.sharding")  # fmt: skip
"""Parameters that change no number: runs that differ in nothing else are seeds of one
configuration. The same as `recsys.config.identity` leaves out (tested)."""
NOT_COMPARED = ("seed", "experiment", "output_dir", "result_file", "console", "tracking",
                "importance_rows")  # fmt: skip
"""Top-level keys of a configuration that say nothing of what was computed; the seed is a run's
own."""
_CONDITION = re.compile(r"\s*([\w./:-]+?)\s*(>=|<=|!=|=|>|<)\s*(.+?)\s*")


@dataclass(frozen=True)
class RunRecord:
    """One finished run."""

    run_id: str
    name: str
    model: str
    family: str
    data: str
    digest: str
    """Of the data: sources, schema, split and options."""
    seed: int | None
    params: Mapping[str, str]
    """Dotted keys; without the seed and what changes no number."""
    metrics: Mapping[str, float]
    """`test/auc`, `val/click/auc`, `fit_seconds`, ..."""
    folder: Path | None = None
    """Output folder; None when it is not on this disk."""
    commit: str = ""
    started: float = 0.0
    """Seconds since 1970; of two runs of one configuration and seed the newer one counts."""
    tags: Mapping[str, str] = field(default_factory=dict)

    def is_called(self, name: str) -> bool:
        """Whether a person means this run: by id (its first six characters or more), by name or by
        output folder."""
        if name == self.name or (len(name) >= 6 and self.run_id.startswith(name)):
            return True
        return self.folder is not None and Path(name).resolve() == self.folder.resolve()


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A nested configuration as dotted keys and texts, of any length.

    Example:
        >>> leaves({"ctr": {"_target_": "m.A", "hidden_dims": [64, 32]}, "gate": None})
        {'ctr.hidden_dims': '[64, 32]'}
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= leaves(value, f"{prefix}{key}.")
        elif key != "_target_" and (prefix or value is not None):
            flat[f"{prefix}{key}"] = _text(value)
    return flat


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_text(one) for one in value)}]"
    return str(value)


def compared_params(params: Mapping[str, str]) -> dict[str, str]:
    """The dotted parameters that tell configurations apart."""
    return {
        key: value
        for key, value in params.items()
        if key.partition(".")[0] not in NOT_COMPARED
        and key not in ALIKE
        and not key.endswith("._target_")
    }


def result_metrics(result: Mapping[str, Any]) -> dict[str, float]:
    """Metrics by split, and facts, of what `result.json` holds.

    Example:
        >>> result_metrics({"metrics": {"test": {"auc": 0.8}}, "fit_seconds": 3})
        {'test/auc': 0.8, 'fit_seconds': 3.0}
    """
    found = {
        f"{split}/{name}": float(value)
        for split, values in result.get("metrics", {}).items()
        for name, value in values.items()
        if value is not None
    }
    return found | {key: float(result[key]) for key in FACTS if result.get(key) is not None}


def record_of(
    result: Mapping[str, Any],
    *,
    folder: Path | None,
    name: str = "",
    tags: Mapping[str, str] | None = None,
    started: float = 0.0,
) -> RunRecord:
    """A record of what `result.json` holds.

    Args:
        result: Parsed.
        folder: The output folder.
        name: Of the run; by default its folder's.
        tags: Of the run in MLflow.
        started: Seconds since 1970.

    Raises:
        ConfigError: it is not the result of a training run.
    """
    try:
        config = result.get("config", {})
        model = str(result["model"])
        known = [key for key in ("ctr", "cf", "mtl", "towers") if config.get(key)]
        tags = dict(tags or {})
        return RunRecord(
            run_id=str(result["run_id"]),
            name=name or (folder.name if folder else str(result["run_id"])),
            model=model,
            family=tags.get("family") or (known[0] if known else ""),
            data=str(result["data"]),
            digest=str(result["data_digest"]),
            seed=None if result.get("seed") is None else int(result["seed"]),
            params=compared_params(leaves(config)),
            metrics=result_metrics(result),
            folder=folder,
            commit=tags.get("git_commit", ""),
            started=started,
            tags=tags,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{folder or 'result.json'} does not hold the result of a training run ({error!r}). "
            "Name output folders of pipelines.train, or run ids."
        ) from error


def where(records: Sequence[RunRecord], conditions: str) -> list[RunRecord]:
    """The records that meet every condition.

    Args:
        records: Any.
        conditions: Such as `optimizer.lr<=0.01 and tags.team=ads and test/auc>0.7`; keys are
            parameters, metrics, `seed`, or tags after `tags.`. A run without the key does not meet
            it.

    Raises:
        ConfigError: a condition cannot be read, or no run has its key.
    """
    for text in re.split(r"\s+and\s+", conditions):
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise ConfigError(
                f'where: cannot read "{text}"; write key=value (or != < <= > >=), several joined '
                "by and: where='optimizer.lr=0.001 and ctr.num_heads>=2'."
            )
        key, sign, wanted = match.groups()
        values = [_value(record, key) for record in records]
        if records and all(value is None for value in values):
            known = {name for record in records for name in (*record.params, *record.metrics)}
            raise ConfigError(f"where: no run has {key}.{did_you_mean(key, known)}")
        records = [
            record
            for record, value in zip(records, values, strict=True)
            if value is not None and _meets(value, sign, wanted)
        ]
    return list(records)


def _value(record: RunRecord, key: str) -> str | None:
    if key == "seed":
        return None if record.seed is None else str(record.seed)
    if key.startswith("tags."):
        return record.tags.get(key.removeprefix("tags."))
    if key in record.metrics:
        return repr(record.metrics[key])
    return record.params.get(key)


def _meets(value: str, sign: str, wanted: str) -> bool:
    try:
        a, b = float(value), float(wanted)
    except ValueError:
        if sign in ("=", "!="):
            return (value == wanted) is (sign == "=")
        raise ConfigError(
            f"where: {value!r} {sign} {wanted!r} compares text by size; only numbers can be."
        ) from None
    return {
        "=": a == b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b
    }[sign]  # fmt: skip
