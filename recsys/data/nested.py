"""Nested labels: one that can hold only where another does, as a conversion after a click.

    nested = {"cart": "click", "pay": "cart"}          label -> its parent

    click   cart      pay               cart and pay become
    0       missing   missing           0, 0: what cannot have happened did not
    1       missing   1                 as they are
    missing 1         missing           as they are
    0       1         -                 refused: one of the two is wrong

Letters   B rows, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.errors import SchemaError, did_you_mean

if TYPE_CHECKING:
    from recsys.data.readers import Chunk


class Nested(Mapping[str, str]):
    """Label to parent, in the order of the labels; it cannot change, so a schema can be hashed.

    Args:
        pairs: Label to the label that must hold before it can.
        labels: All labels, in order.

    Raises:
        SchemaError: A name is no label, a label is its own parent, or parents go round in a circle.

    Example:
        >>> Nested({"conversion": "click"}, ("click", "conversion"))
        {'conversion': 'click'}
    """

    def __init__(self, pairs: Any = None, labels: Sequence[str] = ()) -> None:
        if not isinstance(pairs or {}, Mapping):
            raise SchemaError(
                f"nested={pairs!r} must map labels to their parents: data.nested.<label>=<parent>."
            )
        wanted = dict(pairs or {})
        for label, parent in wanted.items():
            for name in (label, parent):
                if name not in labels:
                    raise SchemaError(
                        f'data.nested.{label}={parent}: "{name}" is no label.'
                        f"{did_you_mean(str(name), labels)}"
                    )
            if label == parent:
                raise SchemaError(
                    f"data.nested.{label}={parent}: a label cannot be its own parent. Name the "
                    f"label that must hold before it, or leave data.nested.{label} out."
                )
        self._pairs = tuple((label, wanted[label]) for label in labels if label in wanted)
        for label in self:
            path = [label]
            while path[-1] in self and path.count(path[-1]) == 1:
                path.append(self[path[-1]])
            if path.count(path[-1]) > 1:
                raise SchemaError(
                    f"data.nested goes round in a circle: {' needs '.join(path)}. Leave one out."
                )

    def __getitem__(self, label: str) -> str:
        return dict(self._pairs)[label]

    def __iter__(self) -> Iterator[str]:
        return (label for label, _ in self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def __hash__(self) -> int:
        return hash(frozenset(self._pairs))

    def __repr__(self) -> str:
        return repr(dict(self._pairs))


def parents_first(parents: Sequence[int]) -> list[int]:
    """Labels that have a parent, each after its own.

    Example:
        >>> parents_first([1, 2, -1, -1])
        [1, 0]
    """
    depth = []
    for label in range(len(parents)):
        steps = 0
        while parents[label] >= 0:
            label, steps = parents[label], steps + 1
        depth.append(steps)
    return [label for label in sorted(range(len(parents)), key=depth.__getitem__) if depth[label]]


def fill_nested(
    labels: Sequence[np.ndarray], names: Sequence[str], parents: Sequence[int], chunk: Chunk
) -> None:
    """Write 0 where a nested label is missing and its parent is 0, in place.

    Args:
        labels: One array [B] per label: 0, 1, or NaN where missing.
        names: Of the labels.
        parents: For each label the position of its parent, or -1.
        chunk: The rows, for error messages.

    Raises:
        SchemaError: A nested label is 1 where its parent is 0.
    """
    for label in parents_first(parents):
        values, without = labels[label], labels[parents[label]] == 0
        wrong = np.flatnonzero(without & (values == 1))
        if wrong.size:
            child, parent = names[label], names[parents[label]]
            raise SchemaError(
                f'label "{child}" is 1 where "{parent}" is 0 in {chunk.where(int(wrong[0]))} '
                f'({wrong.size} such rows in this part), but it is nested in "{parent}". Set '
                f"data.nested.{child} to the label that must hold before it, or leave it out."
            )
        values[without] = 0
