"""Which labels of a data set a run learns."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from recsys.errors import ConfigError, did_you_mean


def choose_labels(
    dataset: str, names: Sequence[str] | None, every: Collection[str], key: str = "labels"
) -> tuple[str, ...]:
    """The names that were asked for, in their order; None asks for the first there is.

    Args:
        dataset: Its name, for messages.
        names: What the user gave.
        every: What may be given, the main one first.
        key: Option that held the names, without `data.`.

    Raises:
        ConfigError: A name is unknown or given twice, or there is none.

    Example:
        >>> choose_labels("adult", None, ("income", "marital"))
        ('income',)
    """
    if names is None:
        names = tuple(every)[:1]
    chosen = (names,) if isinstance(names, str) else tuple(names)
    for name in chosen:
        if name not in every:
            raise ConfigError(
                f"data.{key} has {name}, which is not a label of {dataset}."
                f"{did_you_mean(str(name), every)}"
            )
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigError(
            f"data.{key}={list(chosen)}; give one or more of {', '.join(every)}, each once."
        )
    return chosen
