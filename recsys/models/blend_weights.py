"""Weights of a blend: those that are best for some users whose items are known.

Only every member's best items can come first in a blend, nearly: they are collected once, with the
scores that all members give them, and each trial of weights costs a sum and a sort of these.

Letters  U users, I items, n users judged, M members, c candidates of a user, k length of a list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.metrics.ranking import hit_metrics
from recsys.metrics.top_items import block_users, bytes_per_score, top_of_scores
from recsys.models.blend import standardized
from recsys.models.collaborative import CFModel, Progress

BLOCK_BYTES = 256 * 2**20
"""Scores of a block of users, all members together."""

JUDGED = 4096
"""Users whose candidates are summed and sorted at a time."""

SMALLEST_STEP = 0.03
"""The search of weights ends where changing one by this share no longer helps."""


@dataclass(frozen=True)
class Candidates:
    """Every member's best items of some users, with the scores that all members give them."""

    scores: Tensor
    """[M, n, c] standardised; minus infinity beyond a user's last candidate."""
    hits: Tensor
    """[n, c] whether the candidate is to be found."""
    num_test: np.ndarray
    """[n] how many items are."""

    @classmethod
    def of(
        cls,
        members: Sequence[CFModel],
        users: Tensor,
        left: Pairs,
        held: Pairs,
        best: int,
        progress: Progress,
    ) -> Candidates:
        """Collect them.

        Args:
            members: M models that have learnt from `left`.
            users: [n] int64.
            left: Pairs that are never recommended.
            held: Pairs to be found.
            best: Items of each member for each user; c is M times as many.
            progress: Told how many users are done.
        """
        best = min(best, left.num_items)
        width = best * len(members)
        scores = torch.full((len(members), len(users), width), -torch.inf)
        hits = torch.zeros(len(users), width, dtype=torch.bool)
        row_bytes = bytes_per_score(torch.device("cpu")) + 4 * len(members)
        block = block_users(BLOCK_BYTES, left.num_items, row_bytes)
        done = 0
        for part in users.split(block):
            rows = slice(done, done + len(part))
            given = [standardized(member.scores(part)) for member in members]
            tops = [top_of_scores(one, part, best, left).items for one in given]
            items, _ = torch.cat(tops, dim=1).long().sort(dim=1)
            # An item counts once; -1 stands where a user has fewer.
            there = (items >= 0) & (items != items.roll(1, dims=1))
            there[:, 0] = items[:, 0] >= 0
            for number, one in enumerate(given):
                found = one.gather(1, items.clamp_min(0))
                scores[number, rows] = torch.where(there, found, -torch.inf)
            wanted = held.contains(
                part.repeat_interleave(width).numpy(), items.clamp_min(0).flatten().numpy()
            )
            hits[rows] = torch.from_numpy(wanted).view(len(part), width) & there
            done += len(part)
            progress(done, len(users))
        return cls(scores, hits, held.user_degrees[users.numpy()].astype(np.int64))

    def metric(self, name: str, k: int, weights: np.ndarray) -> float:
        """A metric of the lists that weights [M] give, such as `recall_at_20`, as the mean over
        users; k is that of its name."""
        found = torch.zeros(len(self.hits), k, dtype=torch.bool)
        # Minus infinity times a weight of 0 is no number.
        used = [(number, float(weight)) for number, weight in enumerate(weights) if weight > 0]
        for start in range(0, len(found), JUDGED):
            rows = slice(start, start + JUDGED)
            total = torch.zeros_like(self.scores[0, rows])
            for number, weight in used:
                total.add_(self.scores[number, rows], alpha=weight)
            best = total.topk(k, dim=1).indices
            found[rows] = self.hits[rows].gather(1, best)
        return float(hit_metrics(found.numpy(), self.num_test, (k,))[name].mean())


def best_weights(metric: Callable[[np.ndarray], float], count: int) -> list[float]:
    """Weights of sum 1 that a search along one weight at a time finds, from equal ones.

    Args:
        metric: Of weights [M], higher is better.
        count: M.

    Example:
        >>> best = best_weights(lambda w: -abs(w[0] - 0.8), 2)
        >>> round(best[0], 1)
        0.8
    """
    weights = np.full(count, 1 / count)
    value, step = metric(weights), 1.0
    while step > SMALLEST_STEP:
        moved = False
        for number in range(count):
            for factor in (1 + step, 1 / (1 + step), 0.0):
                tried = weights.copy()
                tried[number] *= factor
                if not tried.any() or not weights[number]:
                    continue
                tried /= tried.sum()
                found = metric(tried)
                if found > value:
                    weights, value, moved = tried, found, True
        if not moved:
            step /= 2
    return [float(weight) for weight in weights]
