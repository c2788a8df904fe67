"""What can be exported: a table of vectors under the ids that people know their owners by.

Letters   N rows, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

from recsys.errors import ConfigError
from recsys.models.saved_cf import SavedCF
from recsys.models.two_sided import TowersModel

COSINE, INNER_PRODUCT = "cosine", "inner_product"
SIMILARITIES = (COSINE, INNER_PRODUCT)


class VectorSource(Protocol):
    """Vectors of users, of items, or of the values of a field. A model that has such vectors is
    exported, indexed and served by giving one of these for each of its sides."""

    @property
    def name(self) -> str:
        """`users`, `items` or the field."""

    @property
    def similarity(self) -> str:
        """What compares two vectors: `inner_product`, or `cosine`, which ignores their lengths."""

    @property
    def dim(self) -> int:
        """D."""

    @property
    def ids(self) -> pa.Array:
        """External ids [N], integers or strings, each once."""

    @property
    def popularity(self) -> np.ndarray | None:
        """How often each was seen in training [N] int64; None where nobody counted."""

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """The vectors in the order of the ids, [at most `rows`, D] float32 at a time."""


@dataclass(frozen=True, eq=False)
class MatrixVectors:
    """Vectors that are in memory already.

    Args:
        name: `users`, `items` or a field.
        similarity: One of `SIMILARITIES`.
        ids: [N] external ids.
        vectors: [N, D] float32.
        popularity: [N] int64 or None.
    """

    name: str
    similarity: str
    ids: pa.Array
    vectors: np.ndarray
    popularity: np.ndarray | None = None

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        for start in range(0, len(self.vectors), rows):
            yield self.vectors[start : start + rows]


def vectors_of_cf(saved: SavedCF) -> dict[str, VectorSource]:
    """Users and items of a model whose scores are dot products.

    Raises:
        ConfigError: the model has no vectors.
    """
    found = saved.vectors()
    if found is None:
        raise ConfigError(
            f"{saved.spec.class_name} has no vectors: it scores items by other means. Export the "
            "run of a model that has, such as cf=lightgcn or cf=ultragcn."
        )
    data, model = saved.data, saved.model
    similarity = model.similarity if isinstance(model, TowersModel) else INNER_PRODUCT
    sides = (("users", data.user_ids, data.train.user_degrees),
             ("items", data.item_ids, data.train.item_degrees))  # fmt: skip
    return {
        name: MatrixVectors(name, similarity, ids, tensor.detach().float().numpy(), degrees)
        for (name, ids, degrees), tensor in zip(sides, found, strict=True)
    }
