"""Configuration: the only place in the library that knows Hydra.

Composes `configs/`, turns every mistake into one sentence with a suggestion before anything heavy
is imported, and builds option objects from nodes. No node reaches a constructor unchecked.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from recsys.environment import IncompatibleVersionsError
from recsys.errors import (
    CheckpointError,
    ConfigError,
    NonFiniteError,
    SchemaError,
    WorkerError,
    did_you_mean,
)

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FAMILIES = ("ctr", "cf", "mtl", "towers")
PAIRS = ".interactions"
"""Function of a recipe's module that reads user-item pairs."""
TRAINERS = {"cf": "ranking", "towers": "ranking"}
"""Choice of `trainer` for a family, where `default` is not meant for it."""
FREE_FORM = (
    "data.fields.", "data.types.", "data.histories.", "data.nested.", "tasks.weights.",
    "search.space", "tracking.tags",
)  # fmt: skip
"""Mappings whose keys are the user's own: names of columns, of what is searched, of tags."""

if typing.TYPE_CHECKING:
    from recsys.data.interactions import Interactions
    from recsys.data.options import DataOptions
    from recsys.data.raw import RawDataset

T = TypeVar("T")


def options(group: str) -> list[str]:
    """Choices of a group: the YAML files of its folder, those with a leading underscore aside."""
    return sorted(p.stem for p in (CONFIGS / group).glob("*.yaml") if not p.stem.startswith("_"))


def families() -> list[str]:
    """Model families that have models."""
    return [family for family in FAMILIES if options(family)]


def menu() -> str:
    """One line per family with its models, and an example."""
    lines = [f"  {family}: {' '.join(options(family))}" for family in families()]
    return "\n".join([*lines, "Example: python -m pipelines.train ctr=autoint"])


def compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Compose a configuration from command-line overrides.

    Raises:
        ConfigError: a group, a choice or a key does not exist, or a value cannot be read; with the
            nearest that does.
    """
    parsed = _parse(_opened(overrides))
    if config_name == "tune":
        parsed = [(_seeds(text, override), override) for text, override in parsed]
    groups = [text for text, override in parsed if (CONFIGS / override.key_or_group).is_dir()]
    values = [(text, o) for text, o in parsed if text not in groups]
    chosen = {override.key_or_group for _, override in parsed}
    if config_name in ("train", "tune") and "trainer" not in chosen:
        groups += [f"trainer={TRAINERS[family]}" for family in TRAINERS if family in chosen]
    if config_name == "tune" and "search" not in chosen:
        models = [str(o.value()) for _, o in parsed if o.key_or_group in FAMILIES]
        groups += [f"search={model}" for model in models if model in options("search")]
    _check_choices([o for text, o in parsed if text in groups])
    base = _compose(config_name, groups)
    texts = []
    for text, override in values:
        key = override.key_or_group
        if key.startswith(FREE_FORM):
            texts.append(f"++{text.lstrip('+')}")
            continue
        if not override.is_add() and not override.is_force_add():
            check_key(base, key)
        texts.append(text)
    return _compose(config_name, [*groups, *texts])


def _opened(overrides: Sequence[str]) -> list[str]:
    """An experiment that is a file, replaced by what it holds; what else is said wins over it."""
    from recsys.experiment_file import is_path, read_experiment

    name = "experiment="
    files = [text for text in overrides if text.startswith(name) and is_path(text[len(name) :])]
    rest = [text for text in overrides if text not in files]
    said = {text.partition("=")[0].lstrip("+~") for text in rest}
    opened = []
    for text in files:
        groups, values = read_experiment(Path(text[len(name) :].strip("'\"")))
        opened += [f"{group}={choice}" for group, choice in groups.items() if group not in said]
        opened += values
    return [*opened, *rest]


def _seeds(text: str, override: Override) -> str:
    """`seed=range(5)` and `seed=0,1,2` are Hydra's grids; a search takes them as its seeds."""
    if override.key_or_group != "seed" or not override.is_sweep_override():
        return text
    return f"seed=[{','.join(str(one) for one in override.sweep_iterator())}]"


def _parse(overrides: Sequence[str]) -> list[tuple[str, Override]]:
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        text = _with_comparison_quoted(text)
        try:
            parsed.append((text, parser.parse_override(text)))
        except HydraException as error:
            raise ConfigError(
                f'cannot read "{text}"; write key=value, group=option, or quote the value: '
                f"'key=\"a, b\"'. ({str(error).splitlines()[0]})"
            ) from error
    return parsed


def _with_comparison_quoted(text: str) -> str:
    """Hydra reads no = < > in a value without quotes; a condition or a folder such as day=3 has
    them, and a shell takes one pair of quotes away."""
    key, _, value = text.partition("=")
    if not set("=<>").intersection(value) or set("'\"[]{}()$\\").intersection(value):
        return text
    return f"{key}='{value}'"


def _check_choices(overrides: Sequence[Override]) -> None:
    for override in overrides:
        choice = override.value()
        if override.is_delete() or choice is None:
            continue
        allowed = options(override.key_or_group)
        for one in choice if isinstance(choice, list) else [choice]:
            if str(one) not in allowed:
                raise ConfigError(
                    f'{override.key_or_group}={one}: there is no "{one}".'
                    f"{did_you_mean(str(one), allowed)}"
                )


def check_key(base: DictConfig, key: str) -> None:
    """Walk a dotted key down the configuration.

    Raises:
        ConfigError: it is not there; the message names the nearest key that is.
    """
    node: Any = base
    done: list[str] = []
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            where = ".".join(done)
            keys = [str(k) for k in node] if isinstance(node, DictConfig) else []
            if not done:
                keys += [g.name for g in CONFIGS.iterdir() if g.is_dir()]
            allowed = [f"{where}.{k}" if where else k for k in keys if k != "_target_"]
            if not done and (CONFIGS / part).is_dir():
                raise ConfigError(
                    f"{key} has no effect: no {part} was chosen. Choose one first: "
                    f"{part}={'|'.join(options(part))}."
                )
            raise ConfigError(f"{key} is not an option.{did_you_mean(key, allowed)}")
        node = node[part]
        done.append(part)


def _compose(config_name: str, overrides: Sequence[str]) -> DictConfig:
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return hydra_compose(config_name, overrides=list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        raise ConfigError(f"the configuration does not compose: {cause}") from error


def main(task: Callable[[DictConfig], Any], config_name: str) -> None:
    """Entry point of a pipeline: compose, run, and answer errors in one voice.

    `--help` prints the pipeline's own docstring and what can be chosen; the other flags (`--cfg
    job`, `-m`) are Hydra's.

    Exit codes: 0 done, 1 failed while running, 2 wrong usage, 130 interrupted.
    """
    arguments = sys.argv[1:]
    if {"--help", "-h"} & set(arguments):
        print(help_text(config_name))
        return
    try:
        if any(argument.startswith("-") for argument in arguments):
            _hydra_main(task, config_name)
        else:
            task(compose(config_name, arguments))
    except (ConfigError, SchemaError) as error:
        _fail(error, 2)
    except (CheckpointError, NonFiniteError, WorkerError, IncompatibleVersionsError) as error:
        _fail(error, 1)
    except KeyboardInterrupt as error:
        _fail(error, 130)


def help_text(config_name: str) -> str:
    """The docstring of the running pipeline, the choices of its groups, and its keys."""
    doc = (sys.modules["__main__"].__doc__ or "").strip()
    text = (CONFIGS / f"{config_name}.yaml").read_text()
    if re.search(r"^  - train\b", text, re.MULTILINE):  # what training takes, and more
        text = (CONFIGS / "train.yaml").read_text() + text
    groups = [g for g in re.findall(r"^  - (\w+):", text, re.MULTILINE) if options(g)]
    lines = [doc, "", "Choices (group=option):"]
    lines += [f"  {group:<11}{' '.join(options(group))}" for group in groups]
    keys = dict(re.findall(r"^(\w+): *\S*? *# (.*)$", text, re.MULTILINE))
    lines += ["", "Keys:", *(f"  {key:<15} {comment}" for key, comment in keys.items())]
    lines += [
        "",
        "See what a choice holds:  --cfg job -p <group>     the whole configuration:  --cfg job",
        "Run a grid:               -m seed=0,1,2",
    ]
    return "\n".join(lines)


def _hydra_main(task: Callable[[DictConfig], Any], config_name: str) -> None:
    import hydra

    decorate = hydra.main(config_path=str(CONFIGS), config_name=config_name, version_base="1.3")
    decorate(task)()


def _fail(error: BaseException, code: int) -> typing.NoReturn:
    text = str(error) or type(error).__name__
    print(f"error: {text}" if code != 130 else text, file=sys.stderr)
    raise SystemExit(code) from error


def chosen_model(cfg: DictConfig) -> tuple[str, str]:
    """The one model family of a configuration and the model's stem.

    Raises:
        ConfigError: none or several were chosen; the message is the menu.
    """
    chosen = [family for family in FAMILIES if cfg.get(family) is not None]
    if len(chosen) != 1:
        got = "none" if not chosen else " and ".join(chosen)
        raise ConfigError(f"choose exactly one model, got {got}.\n{menu()}")
    family = chosen[0]
    return family, str(cfg[family]["_target_"]).split(".")[-2]


def build_dataset(node: DictConfig, family: str = "ctr") -> tuple[RawDataset, DataOptions]:
    """The recipe's raw data set, and the options that every recipe has in common.

    A recipe that names its `LABELS` and is not told which (`labels: null`) gives all of them to an
    mtl model; to any other it gives the first.

    Args:
        node: The group `data`.
        family: Of the model that will learn from it.

    Raises:
        ConfigError: an unknown key.
        SchemaError: the recipe does not find what it expects.
    """
    from recsys.data.options import DataOptions
    from recsys.models.registry import call, import_target

    values = plain(node)
    target = values.pop("_target_")
    if target.endswith(PAIRS):
        raise ConfigError(
            f"data={target.split('.')[-2]} holds user-item pairs without a label, for models of "
            f"users and items, cf: {' '.join(options('cf'))} | towers: "
            f"{' '.join(options('towers'))}. Choose one, or other data."
        )
    recipe = import_target(target)
    if family == "mtl" and values.get("labels", ()) is None:
        labels = getattr(sys.modules[recipe.__module__], "LABELS", None)
        values["labels"] = labels and list(labels)
    common = {key: values.pop(key) for key in list(values) if key in _names(DataOptions)}
    return call(recipe, values, {}, "data"), build_options(DataOptions, common, "data")


def build_interactions(node: DictConfig) -> Interactions:
    """The user-item pairs of a recipe: what the function `interactions` of its module returns.

    A recipe may have rows for click models as well (MovieLens has): the keys that only those read
    must be as they were.

    Raises:
        ConfigError: the recipe has no pairs, an unknown key, or a key that pairs do not read.
        SchemaError: the recipe does not find what it expects.
    """
    from recsys.data.options import DataOptions
    from recsys.models.registry import call, import_target

    values = plain(node)
    target = values.pop("_target_")
    module = importlib.import_module(target.rpartition(".")[0])
    recipe = getattr(module, PAIRS.lstrip("."), None)
    if recipe is None:
        raise ConfigError(
            f"data={target.split('.')[-2]} has no user-item pairs, which cf and towers models "
            "learn from. Use a set that has, or your own table: data=interactions data.path=<file>."
        )
    if not target.endswith(PAIRS):
        pairs_keys = inspect.signature(recipe).parameters
        rows = inspect.signature(import_target(target)).parameters
        neutral = vars(DataOptions()) | {key: one.default for key, one in rows.items()}
        for key in [key for key in values if key in neutral and key not in pairs_keys]:
            value = values.pop(key)
            if value != neutral[key]:
                raise ConfigError(
                    f"data.{key}={value} is nothing for cf and towers models, which read user-item "
                    f"pairs. Leave data.{key} out."
                )
    found: Interactions = call(recipe, values, {}, "data")
    return found


def plain(node: Any) -> Any:
    """A node as plain Python values, interpolations resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def build_options(cls: type[T], node: DictConfig | dict[str, Any], path: str) -> T:
    """Make an options dataclass from a node.

    Raises:
        ConfigError: an unknown key, or a value of another type.
    """
    values = plain(node)
    hints = typing.get_type_hints(cls)
    names = _names(cls)
    for key, value in values.items():
        if key not in names:
            allowed = [f"{path}.{name}" for name in names]
            raise ConfigError(
                f"{path}.{key} is not an option.{did_you_mean(f'{path}.{key}', allowed)}"
            )
        if not _fits(value, hints[key]):
            raise ConfigError(
                f"{path}.{key}={value!r} is a {type(value).__name__}; it must be "
                f"{_describe(hints[key])}."
            )
        if hints[key] is Path or (Path in typing.get_args(hints[key]) and isinstance(value, str)):
            values[key] = Path(value)
    return cls(**values)


def at_least(key: str, value: Any, least: int) -> int:
    """A whole number of the configuration's top level.

    Raises:
        ConfigError: it is something else, or less.

    Example:
        >>> at_least("rows", 5, 0)
        5
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{key}={value}; it must be a whole number, {least} or more.")
    return value


def _names(cls: Any) -> list[str]:
    return [f.name for f in dataclasses.fields(cls)]


def _fits(value: Any, hint: Any) -> bool:
    """A shallow type check: enough to catch `epochs=ten`."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    if origin is not None:
        kinds = (list, tuple) if origin in (list, tuple) else origin
        return isinstance(value, kinds)
    if hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, str | Path)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_describe(part) for part in typing.get_args(hint))
    if hint is type(None):
        return "null"
    return getattr(hint, "__name__", str(hint))


NOT_IDENTITY = ("output_dir", "result_file", "console", "tracking", "importance_rows")
NOT_TRAINING = ("resume", "threads", "log_every", "prefetch", "keep_last", "checkpoint_every")

NOT_DATA = ("rebuild", "store", "engine", "ray_address")
DYNAMIC = ("vocabulary", "dynamic", "capacity", "min_count", "evict")
"""Keys of `embedding` that a fitted vocabulary does not read."""


def drop_unread(values: dict[str, Any]) -> None:
    """Take out of a plain configuration what a fitted vocabulary does not read."""
    embedding = values.get("embedding") or {}
    if embedding.get("vocabulary") == "fitted":
        for key in DYNAMIC:
            embedding.pop(key, None)


def identity(cfg: DictConfig) -> str:
    """A hash of everything that decides what a run computes; two runs with one are the same run."""
    values = plain(cfg)
    for key in NOT_IDENTITY:
        values.pop(key, None)
    if values.get("init_from") is None:  # as for runs that were begun before it existed
        values.pop("init_from", None)
    for key in NOT_TRAINING:
        values.get("trainer", {}).pop(key, None)
    for key in NOT_DATA:
        values.get("data", {}).pop(key, None)
    # Where tables lie changes no number; a run continues on other machines.
    (values.get("embedding") or {}).pop("sharding", None)
    drop_unread(values)  # as before they could be chosen
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
