"""Errors shown to users: what is wrong with its value, what is allowed, what to do."""

import difflib
from collections.abc import Iterable


class SchemaError(ValueError):
    """The data does not fit the schema: a column, a value or a file is not what was declared."""


class ConfigError(ValueError):
    """The configuration names a key, a choice or a value that does not exist or does not fit."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, incomplete, corrupted, or belongs to another model or schema."""


class WorkerError(RuntimeError):
    """A process that did a part of the work, here or on another machine, died or failed."""


class NonFiniteError(FloatingPointError):
    """A feature, a loss or a gradient is NaN or infinite."""


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """Suggest the closest allowed name, as a sentence to append to an error message.

    Returns:
        `" Did you mean x?"`, or the sorted list of what is allowed when nothing is close.

    Example:
        >>> did_you_mean("num_head", ["num_heads", "dropout"])
        ' Did you mean num_heads?'
        >>> did_you_mean("zzz", ["num_heads", "dropout"])
        ' Allowed: dropout, num_heads.'
    """
    options = sorted(set(allowed))
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]}?"
    return f" Allowed: {', '.join(options)}." if options else ""
