"""Names of experiments, runs, metrics and parameters, as MLflow accepts them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

MAX_VALUE_LENGTH = 500
"""Longest parameter value kept: what older servers accept, and more than a person reads."""
MAX_KEY_LENGTH = 250

_FORBIDDEN = re.compile(r"[^\w\-. :/]", flags=re.ASCII)
_FORBIDDEN_IN_PART = re.compile(r"[^\w\-. :]", flags=re.ASCII)


def experiment_name(dataset: str) -> str:
    """One experiment per data set, so that its models can be compared: `recsys/criteo`."""
    return f"recsys/{_clean(dataset)}"


def run_name(model: str, now: datetime) -> str:
    """`<model>-<yyyymmdd-hhmmss>`.

    Example:
        >>> run_name("autoint", datetime(2026, 1, 31, 9, 5, 7))
        'autoint-20260131-090507'
    """
    return f"{model}-{now:%Y%m%d-%H%M%S}"


def metric_name(*parts: str) -> str:
    """Join parts with `/`, replacing what MLflow rejects; a label column may hold anything.

    Example:
        >>> metric_name("test", "clicked?", "auc")
        'test/clicked_/auc'
    """
    return "/".join(_clean(part) for part in parts)


def check_metric_name(name: str) -> None:
    """Raise ValueError for a name that MLflow would reject."""
    bad = "".join(sorted(set(_FORBIDDEN.findall(name))))
    parts = name.split("/")
    if bad or any(not part.strip(".") for part in parts):
        told = f" (not {bad!r})" if bad else ""
        raise ValueError(
            f"metric name {name!r} is not allowed: use letters, digits and _ - . : /{told}, as in "
            f"{metric_name(*parts)!r}."
        )


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested configuration to dotted keys and short text values; lists stay one string.

    Characters MLflow rejects in keys become `_`; long values are cut, with their length told. An
    empty mapping leaves no key.

    Example:
        >>> flatten({"ctr": {"num_heads": 2, "hidden_dims": [400, 400]}, "seed": None})
        {'ctr.num_heads': '2', 'ctr.hidden_dims': '[400, 400]', 'seed': 'None'}
    """
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{_clean(str(key))}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name[:MAX_KEY_LENGTH]] = _shorten(_text(value))
    return flat


def _text(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_text(item) for item in value)}]"
    return str(value)


def _shorten(text: str) -> str:
    if len(text) <= MAX_VALUE_LENGTH:
        return text
    note = f"... ({len(text)} characters)"
    return text[: MAX_VALUE_LENGTH - len(note)] + note


def _clean(part: str) -> str:
    """What may stand between two slashes: `.` and `..` would change the path."""
    cleaned = _FORBIDDEN_IN_PART.sub("_", part)
    return cleaned if cleaned.strip(".") else "_"
