"""From a `_target_` in a configuration to a class of this library, and to nothing else."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from recsys.errors import ConfigError, did_you_mean


def import_target(target: str) -> Callable[..., Any]:
    """Import `recsys.<module>.<name>`.

    A configuration or a saved model may come from anywhere, so it may name only what this library
    defines: anything else would be somebody's code run by a text file.

    Raises:
        ConfigError: the target is outside `recsys`, or does not exist.

    Example:
        >>> import_target("recsys.models.ctr.fm.FM").__name__
        'FM'
        >>> import_target("os.system")
        Traceback (most recent call last):
        recsys.errors.ConfigError: _target_ "os.system" is not part of recsys; a configuration ...
    """
    module_name, _, name = target.rpartition(".")
    if not module_name.startswith("recsys.") or name.startswith("_"):
        raise ConfigError(
            f'_target_ "{target}" is not part of recsys; a configuration may only build what this '
            "library defines."
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f'_target_ "{target}": there is no module {module_name}.') from error
    found = getattr(module, name, None)
    if not callable(found) or getattr(found, "__module__", None) != module_name:
        own = [
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", None) == module_name and not key.startswith("_")
        ]
        raise ConfigError(f'{module_name} does not define "{name}".{did_you_mean(name, own)}')
    return found


def call(
    function: Callable[..., Any], arguments: dict[str, Any], given: dict[str, Any], path: str
) -> Any:
    """Call with a configuration's arguments; a key the signature lacks is an error with a hint.

    Args:
        function: Constructor or recipe.
        arguments: What the configuration holds under `path`.
        given: What the program adds (sizes).
        path: Where the arguments stand, for messages: `ctr`, `data`.

    Raises:
        ConfigError: an unknown key.
    """
    parameters = inspect.signature(function).parameters
    allowed = [name for name in parameters if name not in given]
    for key in arguments:
        if key not in allowed:
            raise ConfigError(
                f"{path}.{key} is not an option of {getattr(function, '__name__', path)}."
                f"{did_you_mean(f'{path}.{key}', [f'{path}.{name}' for name in allowed])}"
            )
    return function(**given, **arguments)
