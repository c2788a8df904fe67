"""Experiment files: a named combination of choices and values, read from any folder, and written.

    # @package _global_
    defaults:
      - override /ctr: autoint
    optimizer: {lr: 0.002}

Those of `configs/experiment` are chosen by name, others by path: `experiment=<folder>/best.yaml`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recsys.data.atomic import write_text_whole
from recsys.errors import ConfigError

PACKAGE = "# @package _global_"


def is_path(choice: str) -> bool:
    """Whether a choice of experiment is a file and not a name.

    Example:
        >>> is_path("outputs/best.yaml"), is_path("frappe_lr")
        (True, False)
    """
    return choice.endswith((".yaml", ".yml")) or "/" in choice


def read_experiment(path: Path) -> tuple[dict[str, str], list[str]]:
    """The choices and the values of a file.

    Returns:
        Group to choice, and overrides such as `optimizer.lr=0.002`.

    Raises:
        ConfigError: the file cannot be read, or is no experiment.
    """
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"experiment={path} cannot be read: {error}. Name a file of pipelines.tune, or one of "
            "configs/experiment without its suffix."
        ) from error
    if not isinstance(found, dict):
        raise ConfigError(f"experiment={path} is no experiment: it must hold keys and values.")
    groups = {}
    for entry in found.pop("defaults", None) or []:
        if entry == "_self_":
            continue
        name, choice = next(iter(entry.items())) if isinstance(entry, dict) else (str(entry), None)
        group = name.removeprefix("override").strip().lstrip("/")
        if not isinstance(choice, str) or not group.isidentifier():
            raise ConfigError(
                f"experiment={path}: its defaults hold {entry!r}; write `- override /ctr: autoint`."
            )
        groups[group] = choice
    return groups, [f"{key}={literal(value)}" for key, value in leaves(found)]


def write_experiment(
    path: Path, groups: Mapping[str, str], values: Mapping[str, Any], comment: Sequence[str]
) -> None:
    """Write a file that `read_experiment` reads.

    Args:
        path: The file.
        groups: Group to choice.
        values: Nested values.
        comment: Lines for the person who finds it.
    """
    body: dict[str, Any] = {
        "defaults": [{f"override /{name}": choice} for name, choice in groups.items()]
    }
    text = yaml.safe_dump(body | dict(values), sort_keys=False, width=100, allow_unicode=True)
    notes = "".join(f"# {line}\n" for line in comment)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, f"{PACKAGE}\n{notes}{text}")


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys with their values; an empty mapping is a value.

    Example:
        >>> list(leaves({"seed": 1, "ctr": {"hidden_dims": [4]}, "tasks": {"weights": {}}}))
        [('seed', 1), ('ctr.hidden_dims', [4]), ('tasks.weights', {})]
    """
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def literal(value: Any) -> str:
    """A value as the command line takes it.

    Example:
        >>> literal(None), literal(True), literal(1e-4), literal("a, b"), literal([1, "x"])
        ('null', 'true', '0.0001', '"a, b"', '[1,"x"]')
    """
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{literal(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(literal(one) for one in value) + "]"
    if isinstance(value, str):
        # Hydra ends a quoted text at its quote; a backslash before one, and only there, escapes it.
        return '"' + value.replace('"', '\\"') + '"'
    return json.dumps(value)


GROUPS = ("data", "ctr", "mtl", "cf", "towers", "embedding", "optimizer", "gate", "trainer")


def as_experiment(values: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Choices and values that make a training configuration.

    Args:
        values: The configuration, as plain values. Places and switches of presentation are left
            out.

    Returns:
        Group to choice, and the nested values that differ from those choices: what
        `write_experiment` takes.

    Raises:
        ConfigError: the configuration is not made of the choices there are.
    """
    from recsys import config

    wanted = {k: v for k, v in values.items() if k not in (*config.NOT_IDENTITY, "experiment")}
    groups = {
        group: _nearest(group, wanted[group]) for group in GROUPS if wanted.get(group) is not None
    }
    chosen = [f"{group}={choice}" for group, choice in groups.items()]
    before = dict(leaves(config.plain(config.compose("train", chosen))))
    changed = [(k, v) for k, v in leaves(wanted) if k not in before or before[k] != v]
    nested: dict[str, Any] = {}
    for key, value in changed:
        node, *rest = nested, *key.split(".")
        for part in rest[:-1]:
            node = node.setdefault(part, {})
        node[rest[-1]] = value
    texts = [f"{key}={literal(value)}" for key, value in changed]
    again = config.plain(config.compose("train", [*chosen, *texts]))
    left = [k for k, v in leaves(wanted) if dict(leaves(again)).get(k) != v]
    if left:
        raise ConfigError(f"{', '.join(left)} cannot be written as an experiment.")
    return groups, nested


def _nearest(group: str, node: Mapping[str, Any]) -> str:
    """The choice of a group that has the keys of a node and most of its values."""
    from recsys import config

    scores = {}
    for choice in config.options(group):
        raw = _choice(config.CONFIGS / group, choice)
        if raw.keys() == node.keys() and raw.get("_target_") == node.get("_target_"):
            scores[choice] = sum(node[key] == value for key, value in raw.items())
    if not scores:
        raise ConfigError(f"no choice of {group} has the keys {', '.join(map(str, node))}.")
    return max(scores, key=lambda choice: (scores[choice], choice == "default"))


def _choice(folder: Path, name: str) -> dict[str, Any]:
    """What a choice holds, with the choices it is made of."""
    raw = yaml.safe_load((folder / f"{name}.yaml").read_text()) or {}
    merged: dict[str, Any] = {}
    for base in raw.pop("defaults", []):
        if base != "_self_":
            merged |= _choice(folder, str(base))
    return merged | raw
