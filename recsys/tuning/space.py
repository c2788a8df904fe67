"""What a search may change: keys of the configuration, and the values each may take.

    optimizer.lr:         {low: 1.0e-4, high: 1.0e-2, log: true}     a number, on a log scale
    ctr.num_layers:       {low: 1, high: 4}                          a whole number, ends included
    ctr.dropout:          {low: 0.0, high: 0.5, step: 0.1}           a number on a grid
    ctr.num_heads:        [1, 2, 4]                                  one of these; so is
    ctr.hidden_dims:      {choices: [[], [400, 400]]}                this, a list among lists
    mtl.dropout:          {low: 0.0, high: 0.5, optional: true}      left out of models without it

Whole numbers at both ends make a whole number. Keys may be dotted or nested; an entry of null takes
a key out of the space.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Trial
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from recsys.errors import ConfigError, did_you_mean

KEYS = ("low", "high", "log", "step", "choices", "optional")
Scalar = None | bool | int | float | str


@dataclass(frozen=True)
class Dimension:
    """The values of one key.

    Args:
        key: Dotted key of the configuration.
        distribution: As Optuna stores it; lists among choices are JSON text there.
        optional: The key may be absent from a model's options.
    """

    key: str
    distribution: BaseDistribution
    optional: bool = False

    def value(self, stored: Any) -> Any:
        """A stored parameter as the configuration takes it: on a grid 0.3, not 3 * 0.1."""
        if isinstance(self.distribution, FloatDistribution) and self.distribution.step:
            return round(float(stored), 12)
        return decoded(stored)

    def suggest(self, trial: Trial) -> Any:
        """The value of a trial, as the configuration takes it."""
        one = self.distribution
        if isinstance(one, IntDistribution):
            return trial.suggest_int(self.key, one.low, one.high, step=one.step, log=one.log)
        if isinstance(one, FloatDistribution):
            found = trial.suggest_float(self.key, one.low, one.high, step=one.step, log=one.log)
            return self.value(found)
        assert isinstance(one, CategoricalDistribution)
        return self.value(trial.suggest_categorical(self.key, one.choices))


def encoded(value: Any) -> Scalar:
    """A choice as Optuna can store it.

    Example:
        >>> encoded([400, 400]), encoded("relu"), encoded(2)
        ('json:[400, 400]', 'relu', 2)
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return f"json:{json.dumps(value)}"


def decoded(value: Any) -> Any:
    """Inverse of `encoded`."""
    if isinstance(value, str) and value.startswith("json:"):
        return json.loads(value.removeprefix("json:"))
    return value


def parse_space(raw: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """Read a space from plain values.

    Raises:
        ConfigError: an entry is not understood, or its numbers make no range.
    """
    entries: dict[str, Any] = {}
    _flatten(raw, "", entries)
    return tuple(_dimension(key, value) for key, value in entries.items() if value is not None)


def _flatten(raw: Mapping[str, Any], prefix: str, out: dict[str, Any]) -> None:
    """Dotted keys; what is said of a key in two places is put together, the later wins."""
    for name, value in raw.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not set(value) & set(KEYS):
            _flatten(value, f"{key}.", out)
        elif isinstance(value, Mapping) and isinstance(out.get(key), Mapping):
            out[key] = {**out[key], **value}
        else:
            out[key] = value


def _dimension(key: str, value: Any) -> Dimension:
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = {"choices": value}
    where = f"search.space.{key}"
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}={value!r} is no range. Write {{low: 1, high: 4}}, or a list of choices; to "
            f"fix the key, leave it out of the space and set {key}={value}."
        )
    for name in value:
        if name not in KEYS:
            raise ConfigError(
                f"{where}.{name} is not an option.{did_you_mean(str(name), list(KEYS))}"
            )
    optional = value.get("optional", False) is True
    if "choices" in value:
        return Dimension(key, _choices(where, value), optional)
    return Dimension(key, _range(where, value), optional)


def _choices(where: str, value: Mapping[str, Any]) -> CategoricalDistribution:
    beside = sorted(set(value) - {"choices", "optional"})
    if beside:
        raise ConfigError(f"{where} has choices and {', '.join(beside)}; give one of the two.")
    choices = value["choices"]
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not choices:
        raise ConfigError(f"{where}.choices={choices!r} must be a list with at least one value.")
    texts = [encoded(one) for one in choices]
    if len({(type(one), one) for one in texts}) < len(texts):
        raise ConfigError(f"{where}.choices={list(choices)} names a value twice.")
    return CategoricalDistribution(texts)


def _range(where: str, value: Mapping[str, Any]) -> IntDistribution | FloatDistribution:
    for end in ("low", "high"):
        given = value.get(end)
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise ConfigError(
                f"{where}.{end}={given!r} must be a number. A range has low and high; 1e-4 is a "
                "text in YAML, 1.0e-4 a number."
            )
    low, high, log, step = value["low"], value["high"], value.get("log", False), value.get("step")
    whole = isinstance(low, int) and isinstance(high, int) and not isinstance(step, float)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{where}: low={low} must be below high={high}.")
    if not isinstance(log, bool):
        raise ConfigError(f"{where}.log={log!r} must be true or false.")
    if log and low <= 0:
        raise ConfigError(f"{where}: low={low} must be above 0 where log=true.")
    if step is not None and (isinstance(step, bool) or not isinstance(step, int | float)):
        raise ConfigError(f"{where}.step={step!r} must be a number.")
    if step is not None and (log or step <= 0 or step > high - low):
        raise ConfigError(
            f"{where}: step={step} must be above 0, at most high - low = {high - low:g}, and "
            "without log."
        )
    if whole:
        return IntDistribution(int(low), int(high), log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


FIXED = {
    "seed": "repeat configurations with seed=range(3) instead",
    "trainer.monitor": "it is what configurations are compared by",
    "trainer.resume": "a trial is not continued",
    "trainer.device": "set it for all trials",
    "trainer.threads": "set it for all trials",
    "importance_rows": "a trial has no figures",
}
"""Keys that no trial may change, and why."""
ENCODING = (
    "min_count", "max_size", "categorical", "hash_size", "numeric", "num_buckets", "max_length",
    "fields", "top", "history_length",
)  # fmt: skip
"""Keys of `data` that leave the rows as they are."""


def check_space(space: Sequence[Dimension], values: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """The part of a space that a configuration has.

    Args:
        space: Of `parse_space`.
        values: A composed configuration, as plain values.

    Raises:
        ConfigError: a key that is not optional does not exist, is a group of keys, or must not be
            searched.
    """
    kept = []
    for one in space:
        node: Any = values
        parts = one.key.split(".")
        for at, part in enumerate(parts):
            if not isinstance(node, Mapping) or part not in node:
                if one.optional:
                    break
                raise ConfigError(_unknown(one.key, parts[:at], node))
            node = node[part]
        else:
            _check_searchable(one.key, parts, node)
            kept.append(one)
    return tuple(kept)


def _unknown(key: str, done: Sequence[str], node: Any) -> str:
    """The nearest key that is there, where a path leaves the configuration."""
    where = ".".join(done)
    names = [str(name) for name in node if name != "_target_"] if isinstance(node, Mapping) else []
    allowed = [f"{where}.{name}" if where else name for name in names]
    return f"search.space.{key}: {key} is not an option.{did_you_mean(key, allowed)}"


def _check_searchable(key: str, parts: Sequence[str], node: Any) -> None:
    if isinstance(node, Mapping) and node:
        names = ", ".join(f"{key}.{name}" for name in node if name != "_target_")
        raise ConfigError(f"search.space.{key} is a group of keys; name one of {names}.")
    reason = FIXED.get(key)
    if parts[0] == "data" and (len(parts) < 2 or parts[1] not in ENCODING):
        reason = "configurations are compared on the same rows"
    if parts[0] in ("tracking", "search", "console", "output_dir", "result_file"):
        reason = "it changes nothing of a model"
    if reason is not None or parts[-1] == "_target_":
        raise ConfigError(f"search.space.{key} cannot be searched: {reason or 'choose one model'}.")
