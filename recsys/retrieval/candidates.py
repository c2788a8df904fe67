"""The items that a model of users and items would show: by an index or exactly, under conditions.

Letters   U users, I items, n users asked for, m rows of all lists, k length of a list, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError, SchemaError
from recsys.metrics.top_items import (
    TopItems,
    block_users,
    bytes_per_score,
    check_length,
    top_of_scores,
    top_of_vectors,
)
from recsys.models.saved_cf import BLOCK_BYTES, SavedCF
from recsys.retrieval.external_ids import positions_in
from recsys.retrieval.index_folder import SavedIndex
from recsys.retrieval.vector_index import unit

FEW_DENIED = 1_000
"""An index searches for so many more items and leaves them out; more are searched exactly."""


@dataclass(frozen=True, eq=False)
class Lists:
    """Lists of items one after the other, best first within each."""

    rows: np.ndarray
    """[m] which of the users asked for, ascending."""
    items: pa.Array
    """[m] external ids."""
    scores: np.ndarray
    """[m] float32."""

    @property
    def ranks(self) -> np.ndarray:
        """[m] place within its list, from 1."""
        starts = np.flatnonzero(np.diff(self.rows, prepend=-1))
        lengths = np.diff(np.append(starts, len(self.rows)))
        return np.arange(len(self.rows)) - np.repeat(starts, lengths) + 1


class Candidates:
    """Finds the best items of users.

    Args:
        saved: The model.
        index: Of its items, if an index is to be searched; it must be of the model's run.
        allowed: [I] bool, items that may be shown; None: all.
        known: Show items that a user has in the training pairs as well.

    Raises:
        CheckpointError: the index is of another run or of other data.
        ConfigError: nothing is allowed, or the model has no vectors to search an index by.
        SchemaError: the index has vectors of another width.
    """

    def __init__(
        self,
        saved: SavedCF,
        index: SavedIndex | None = None,
        allowed: np.ndarray | None = None,
        known: bool = False,
    ) -> None:
        self.saved = saved
        found = saved.vectors()
        self.vectors = None if found is None else tuple(part.detach().float() for part in found)
        self.known = known
        self.allowed = None if allowed is None or allowed.all() else allowed
        if self.allowed is not None and not self.allowed.any():
            raise ConfigError(
                f"none of the {len(self.allowed):,} items is left by where, allow and deny. Ask "
                "for less."
            )
        self.exact_because = ""
        """Why an index that was given is not searched."""
        self.index = index
        if index is not None:
            self._check(index)

    def _check(self, index: SavedIndex) -> None:
        if self.vectors is None:
            raise ConfigError(
                f"{self.saved.spec.class_name} has no vectors to search an index by. Leave index "
                "out: its items are scored one by one."
            )
        index.require_run(self.saved.facts)
        if index.index.dim != self.vectors[1].shape[1]:
            raise SchemaError(
                f"the index has vectors of width {index.index.dim}, the model of width "
                f"{self.vectors[1].shape[1]}. Export and build again."
            )
        denied = 0 if self.allowed is None else int((~self.allowed).sum())
        if denied > FEW_DENIED:
            self.index = None
            self.exact_because = (
                f"{denied:,} items may not be shown: the others are searched exactly"
            )
        else:
            self._positions = index.index.positions_of(self.saved.data.item_ids)

    def lists(self, users: np.ndarray, k: int) -> Lists:
        """The k best items of some users; fewer where no more are left.

        Args:
            users: [n] int64 codes.
            k: At least 1, at most I.

        Raises:
            ConfigError: k is below 1 or above I.
        """
        check_length(k, self.saved.data.num_items)
        if self.index is not None:
            return self._of_index(self.index, users, k)
        top = self._exact(torch.from_numpy(users), k)
        items = top.items.numpy()
        rows, places = np.nonzero(items >= 0)
        return Lists(
            rows,
            self.saved.data.item_ids.take(pa.array(items[rows, places])),
            top.scores.numpy()[rows, places],
        )

    def similar(self, item: int, k: int) -> Lists:
        """The items whose vectors have the largest cosine with an item's, itself left out.

        Raises:
            ConfigError: the model has no vectors, or k is below 1 or above I.
        """
        if self.vectors is None:
            raise ConfigError(
                f"{self.saved.spec.class_name} has no vectors to compare items by. Ask for users, "
                "or take the run of a model that has, such as cf=lightgcn."
            )
        check_length(k, self.saved.data.num_items)
        directions = unit(self.vectors[1].numpy())
        scores = torch.from_numpy(directions @ directions[item])[None]
        scores[0, item] = -torch.inf
        if self.allowed is not None:
            scores[:, torch.from_numpy(~self.allowed)] = -torch.inf
        top = top_of_scores(scores, torch.zeros(1, dtype=torch.int64), k)
        items, found = top.items.numpy()[0], top.scores.numpy()[0]
        there = items >= 0
        ids = self.saved.data.item_ids.take(pa.array(items[there]))
        return Lists(np.zeros(there.sum(), np.int64), ids, found[there])

    def popular(self, k: int) -> Lists:
        """The items of the most training pairs, for a user of whom nothing is known."""
        check_length(k, self.saved.data.num_items)
        scores = self.saved.data.train.item_degrees.astype(np.float32)
        if self.allowed is not None:
            scores[~self.allowed] = -np.inf
        order = np.argsort(-scores, kind="stable")[:k]
        order = order[np.isfinite(scores[order])]
        ids = self.saved.data.item_ids.take(pa.array(order))
        return Lists(np.zeros(len(order), np.int64), ids, scores[order])

    def _exact(self, users: torch.Tensor, k: int) -> TopItems:
        seen = None if self.known else self.saved.data.train
        if self.vectors is None:
            return self._scored(users, k, seen)
        everyone, items = self.vectors
        if self.allowed is None:
            return top_of_vectors(everyone, items, users, k, seen, BLOCK_BYTES)
        kept = np.flatnonzero(self.allowed)
        left = None if seen is None else among(seen, self.allowed)
        top = top_of_vectors(
            everyone, items[torch.from_numpy(kept)], users, min(k, len(kept)), left, BLOCK_BYTES
        )
        codes = np.append(kept, -1)[top.items.numpy()]  # -1 stays -1
        return TopItems(torch.from_numpy(codes.astype(np.int32)), top.scores)

    @torch.no_grad()
    def _scored(self, users: torch.Tensor, k: int, seen: Pairs | None) -> TopItems:
        block = block_users(
            BLOCK_BYTES, self.saved.data.num_items, bytes_per_score(torch.device("cpu"))
        )
        parts = []
        for part in users.split(block):
            scores = self.saved.model.scores(part)
            if self.allowed is not None:
                scores[:, torch.from_numpy(~self.allowed)] = -torch.inf
            parts.append(top_of_scores(scores, part, k, seen))
        return TopItems(*(torch.cat(one) for one in zip(*parts, strict=True)))

    def _of_index(self, index: SavedIndex, users: np.ndarray, k: int) -> Lists:
        assert self.vectors is not None
        train, nothing = self.saved.data.train, np.empty(0, np.int64)
        denied = nothing if self.allowed is None else np.flatnonzero(~self.allowed)
        excluded = []
        for user in users.tolist():
            codes = denied if self.known else np.union1d(denied, train.of_user(user))
            there = self._positions[codes.astype(np.int64)]
            excluded.append(there[there >= 0])
        queries = self.vectors[0][torch.from_numpy(users)].numpy()
        found = index.index.search(queries, min(k, len(index.index)), excluded=excluded)
        rows, places = np.nonzero(found.positions >= 0)
        ids = index.index.ids.take(pa.array(found.positions[rows, places]))
        return Lists(rows, ids, found.scores[rows, places])


def among(pairs: Pairs, allowed: np.ndarray) -> Pairs:
    """The pairs of allowed items [I bool], these numbered anew.

    Example:
        >>> pairs = Pairs.of(np.array([0, 0, 1]), np.array([0, 2, 1]), 2, 3)
        >>> among(pairs, np.array([False, True, True])).of_user(0).tolist()
        [1]
    """
    kept = pairs.taken(allowed[pairs.items])
    number = np.cumsum(allowed) - 1
    return Pairs(kept.offsets, number[kept.items].astype(np.int32), int(allowed.sum()))


def allowed_items(
    ids: pa.Array,
    allow: pa.Array | None = None,
    deny: pa.Array | None = None,
    fulfilled: np.ndarray | None = None,
) -> np.ndarray | None:
    """Which items may be shown, [I] bool; None: all.

    Args:
        ids: [I] external ids of the catalogue.
        allow: Only these, where given; ids that the catalogue lacks are passed over.
        deny: None of these.
        fulfilled: [I] bool of a condition.
    """
    if allow is None and deny is None and fulfilled is None:
        return None
    mask = np.ones(len(ids), bool) if fulfilled is None else fulfilled.copy()
    if allow is not None:
        listed = np.zeros(len(ids), bool)
        there = positions_in(ids, allow)
        listed[there[there >= 0]] = True
        mask &= listed
    if deny is not None:
        there = positions_in(ids, deny)
        mask[there[there >= 0]] = False
    return mask
