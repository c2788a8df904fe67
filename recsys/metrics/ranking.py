"""Full ranking: every item is scored for every test user, and the best of them are judged.

Definitions, for a user with n test items, of a list of k (hits_r is 1 where the item of rank r is
a test item; a list may be shorter than k, the missing ranks are no hits):

    recall     sum hits / n                      precision  sum hits / k
    hit_rate   1 if there is any hit             mrr        1 / rank of the first hit, 0 without one
    ndcg       sum hits_r / log2(r + 1), over the same sum of min(k, n) ones
    map        sum hits_r * precision of the first r, over min(k, n)

and their mean over the users that have test items. Of all these users' lists together:

    coverage   share of the catalogue that is in any list
    novelty    mean of -log2 of the item's share of the train pairs, an item without any taken for
               one with a single pair

Items of train, and of whatever else is masked, are never recommended. A test item that is masked
for its user cannot be hit but counts in n; an item never seen in train competes like any other.
Both are counted. Ties between scores go to the item of the lower number.

Source    Protocol of NGCF (Wang et al., SIGIR 2019) and LightGCN (He et al., SIGIR 2020, Sec. 4.1).
Differs   Masked items are left out instead of scored low. Means are exactly rounded sums, so that
          the order of users does not change them.
Letters   U users, I items, n users with test items, K the longest list asked for, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.errors import ConfigError, SchemaError
from recsys.metrics.classification import Floats
from recsys.metrics.top_items import (
    ItemLists,
    block_users,
    bytes_per_score,
    check_length,
    default_block_bytes,
    top_of_scores,
    top_of_vectors,
)

Scores: TypeAlias = Callable[[Tensor], Tensor]
"""Users [b] int64 -> scores of all items [b, I], higher is better."""

BUCKETS = ("head", "middle", "tail")
"""Items that together hold the first, second and last third of the train pairs, by popularity."""

_RANK_BYTES = 64  # per place of a list while it is judged


@dataclass(frozen=True, eq=False)
class Ranking:
    """What a full ranking found."""

    metrics: dict[str, float]
    """`recall_at_20`, and so on for every metric and k; NaN where nothing defines one."""
    counts: dict[str, int]
    """What the metrics rest on: users, items, pairs, and the special cases among them."""
    users: NDArray[np.int64]
    """[n] the users that have test items, ascending."""
    per_user: dict[str, Floats]
    """[n] each metric that is a mean over users, before the mean; NaN for a user who has no test
    item in a popularity bucket."""


class FullRanking:
    """Judges models by the lists they give to all test users.

    Made once, called for every model or epoch.

    Args:
        test: The pairs to find.
        train: The pairs that models learnt from: never recommended, and the measure of popularity.
        masked: Further pairs that are never recommended, such as those of the validation part when
            testing.
        ks: Lengths of lists, each within 1 and I.
        block_bytes: What a block of users may take, about: its scores where they are written, and
            its lists while they are judged. By default 24 MiB, 1 GiB for scores on a GPU.

    Raises:
        ConfigError: a k is below 1 or above the catalogue, or none is given.
        SchemaError: the sets of pairs differ in users or items, or are not ascending.

    Example:
        >>> from recsys.data.pairs import Pairs
        >>> train = Pairs(np.array([0, 1, 3]), np.array([0, 1, 2], np.int32), num_items=4)
        >>> test = Pairs(np.array([0, 2, 2]), np.array([1, 3], np.int32), num_items=4)
        >>> scores = torch.tensor([[9.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
        >>> found = FullRanking(test, train, ks=(1, 2)).of_scores(lambda users: scores[users])
        >>> found.metrics["recall_at_1"], found.metrics["precision_at_2"]
        (0.5, 0.5)
        >>> found.counts["num_users_without_test"]
        1
    """

    def __init__(
        self,
        test: ItemLists,
        train: ItemLists,
        masked: Sequence[ItemLists] = (),
        *,
        ks: Sequence[int] = (20,),
        block_bytes: int | None = None,
    ) -> None:
        self.num_users, self.num_items = len(test.offsets) - 1, test.num_items
        self.ks = tuple(sorted(set(ks)))
        if not self.ks:
            raise ConfigError("no length of lists was asked for; give at least one k, such as 20.")
        for k in self.ks:
            check_length(k, self.num_items)
        self.block_bytes = block_bytes
        self._test_keys = self._keys("test", test)
        train_keys = self._keys("train", train)
        more = [self._keys("masked", pairs) for pairs in masked]
        keys = np.unique(np.concatenate([train_keys, *more])) if more else train_keys
        self._masked = _Lists.of(keys, self.num_users, self.num_items)
        num_test = np.diff(test.offsets)
        self.users: NDArray[np.int64] = np.flatnonzero(num_test)
        self._num_test = num_test[self.users]
        degrees = np.bincount(train.items, minlength=self.num_items)
        self._novelty = -np.log2(np.maximum(degrees, 1) / max(len(train_keys), 1))
        self._bucket = popularity_buckets(degrees)
        # Test items of each user in each bucket, [n, 3].
        rows = np.repeat(np.arange(len(self.users)), self._num_test)
        cells = rows * len(BUCKETS) + self._bucket[test.items]
        shape = (len(self.users), len(BUCKETS))
        self._in_bucket = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
        self.counts = {
            "num_users": self.num_users,
            "num_items": self.num_items,
            "num_train_pairs": len(train_keys),
            "num_test_pairs": len(self._test_keys),
            "num_test_users": len(self.users),
            "num_users_without_test": self.num_users - len(self.users),
            "num_masked_test_pairs": int(_contains(keys, self._test_keys).sum()),
            "num_unseen_test_pairs": int((degrees[test.items] == 0).sum()),
        }
        for name, count in zip(BUCKETS, self._in_bucket.sum(axis=0), strict=True):
            self.counts[f"num_test_pairs_{name}"] = int(count)

    def of_vectors(self, user_vectors: Tensor, item_vectors: Tensor) -> Ranking:
        """Judge the dot products of vectors; see `top_of_vectors` for what it costs.

        Shape:
            user_vectors  [U, D]
            item_vectors  [I, D]

        Raises:
            NonFiniteError: a score is NaN.
            SchemaError: there are other numbers of users or items than in the pairs.
        """
        expected = (self.num_users, self.num_items)
        if (len(user_vectors), len(item_vectors)) != expected:
            raise SchemaError(
                f"vectors of {len(user_vectors):,} users and {len(item_vectors):,} items; the "
                f"pairs know {expected[0]:,} and {expected[1]:,}."
            )
        tally = self._tally()
        for users in self._users().split(self._lists_at_once()):
            top = top_of_vectors(
                user_vectors, item_vectors, users, self.ks[-1], self._masked, self.block_bytes
            )
            tally.add(top.items)
        return tally.ranking()

    @torch.no_grad()
    def of_scores(self, scores: Scores, device: torch.device | str = "cpu") -> Ranking:
        """Judge a function that scores all items for some users.

        Args:
            scores: Called with users on `device`, ascending, for as many as fit the bytes.
            device: Where `scores` expects the users.

        Raises:
            NonFiniteError: a score is NaN.
            SchemaError: the scores are not [b, I].
        """
        device = torch.device(device)
        block_bytes = self.block_bytes or default_block_bytes(device)
        fitting = block_users(block_bytes, self.num_items, bytes_per_score(device))
        tally = self._tally()
        for users in self._users().split(min(fitting, self._lists_at_once())):
            given = scores(users.to(device))
            if given.shape != (len(users), self.num_items):
                raise SchemaError(
                    f"scores of shape {tuple(given.shape)} for {len(users)} users; expected "
                    f"{(len(users), self.num_items)}, one for every item."
                )
            tally.add(top_of_scores(given, users, self.ks[-1], self._masked).items)
        return tally.ranking()

    def _users(self) -> Tensor:
        return torch.from_numpy(self.users)

    def _lists_at_once(self) -> int:
        block_bytes = self.block_bytes or default_block_bytes(torch.device("cpu"))
        return max(1, block_bytes // (self.ks[-1] * _RANK_BYTES))

    def _tally(self) -> _Tally:
        return _Tally(self)

    def _keys(self, name: str, pairs: ItemLists) -> NDArray[np.int64]:
        """user * I + item of every pair, ascending."""
        sizes = (len(pairs.offsets) - 1, pairs.num_items)
        if sizes != (self.num_users, self.num_items):
            raise SchemaError(
                f"{name} pairs know {sizes[0]:,} users and {sizes[1]:,} items, but the test pairs "
                f"{self.num_users:,} and {self.num_items:,}; number all of them alike."
            )
        users = np.repeat(np.arange(self.num_users, dtype=np.int64), np.diff(pairs.offsets))
        keys = users * self.num_items + pairs.items
        known = not len(keys) or (pairs.items.min() >= 0 and pairs.items.max() < self.num_items)
        if not known or not (np.diff(keys) > 0).all():
            raise SchemaError(
                f"the {name} items of each user must ascend within 0 and {self.num_items - 1}, "
                "each once; build the set with Pairs.of."
            )
        return keys


def hit_metrics(
    hits: NDArray[np.bool_], num_test: NDArray[np.int64], ks: Sequence[int]
) -> dict[str, Floats]:
    """Every metric of single lists at every k, from one matrix of hits.

    Shape:
        hits      [n, K]  whether the item of each rank is a test item
        num_test  [n]     test items of each user, at least 1
        return    {name: [n]}

    Example:
        >>> hits = np.array([[False, True]])
        >>> {name: value[0].item() for name, value in hit_metrics(hits, np.array([1]), [2]).items()}
        {'recall_at_2': 1.0, 'precision_at_2': 0.5, 'hit_rate_at_2': 1.0, 'ndcg_at_2': 0.6309297535\
714575, 'map_at_2': 0.5, 'mrr_at_2': 0.5}
    """
    ranks = np.arange(1, hits.shape[1] + 1)
    discount = 1 / np.log2(ranks + 1)
    best = np.cumsum(discount)
    found = np.cumsum(hits, axis=1)
    gain = np.cumsum(hits * discount, axis=1)
    precision = np.cumsum(hits * (found / ranks), axis=1)
    first = np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)
    values: dict[str, Floats] = {}
    for k in ks:
        hit, reachable = found[:, k - 1], np.minimum(num_test, k)
        values[f"recall_at_{k}"] = hit / num_test
        values[f"precision_at_{k}"] = hit / k
        values[f"hit_rate_at_{k}"] = (hit > 0).astype(np.float64)
        values[f"ndcg_at_{k}"] = gain[:, k - 1] / best[reachable - 1]
        values[f"map_at_{k}"] = precision[:, k - 1] / reachable
        values[f"mrr_at_{k}"] = np.where(hit > 0, first, 0.0)
    return values


def popularity_buckets(degrees: NDArray[np.int64]) -> NDArray[np.int8]:
    """Bucket of each item, [I], numbers of `BUCKETS`, from its train pairs [I].

    An item falls where the pairs of all more popular items end: those that hold less than a third
    of all pairs leave it in the head. So equally popular items share a bucket.

    Example:
        >>> popularity_buckets(np.array([1, 6, 1, 3, 0])).tolist()
        [2, 0, 2, 1, 2]
    """
    distinct, bucket_of = np.unique(-degrees, return_inverse=True)
    pairs = -distinct * np.bincount(bucket_of, minlength=len(distinct))
    above = np.cumsum(pairs) - pairs
    bucket = np.minimum(len(BUCKETS) * above // max(int(pairs.sum()), 1), len(BUCKETS) - 1)
    bucket[distinct == 0] = len(BUCKETS) - 1
    return bucket[bucket_of].astype(np.int8)


class _Tally:
    """Gathers lists block by block, in the order of the users."""

    def __init__(self, setting: FullRanking) -> None:
        self._setting = setting
        self._done = self._short = 0
        self._values: dict[str, Floats] = {}
        self._shown = {k: np.zeros(setting.num_items, np.int64) for k in setting.ks}

    def add(self, items: Tensor) -> None:
        """Lists [b, K] of the next users; -1 after the last candidate."""
        setting, lists = self._setting, items.cpu().numpy()
        part = slice(self._done, self._done + len(lists))
        self._done = part.stop
        keys = setting.users[part, None] * setting.num_items + lists
        there = lists >= 0
        hits = there & _contains(setting._test_keys, keys)
        values = hit_metrics(hits, setting._num_test[part], setting.ks)
        bucket = np.where(hits, setting._bucket[lists], -1)
        for number, name in enumerate(BUCKETS):
            total = setting._in_bucket[part, number]
            for k in setting.ks:
                found = (bucket[:, :k] == number).sum(axis=1)
                share = np.divide(found, total, out=np.full(len(lists), np.nan), where=total > 0)
                values[f"recall_{name}_at_{k}"] = share
        for name, value in values.items():
            every = self._values.setdefault(name, np.empty(len(setting.users)))
            every[part] = value
        for k, shown in self._shown.items():
            shown += np.bincount(lists[:, :k][there[:, :k]], minlength=len(shown))
        self._short += int((~there[:, -1]).sum())

    def ranking(self) -> Ranking:
        """The means over everything that was added."""
        setting = self._setting
        metrics = {name: _mean(values[~np.isnan(values)]) for name, values in self._values.items()}
        for k, shown in self._shown.items():
            total = int(shown.sum())
            metrics[f"coverage_at_{k}"] = float((shown > 0).mean()) if total else math.nan
            novelty = math.fsum((shown * setting._novelty).tolist())
            metrics[f"novelty_at_{k}"] = novelty / total if total else math.nan
        counts = {**setting.counts, "num_short_lists": self._short}
        return Ranking(metrics, counts, setting.users, self._values)


@dataclass(frozen=True)
class _Lists:
    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    num_items: int

    @classmethod
    def of(cls, keys: NDArray[np.int64], num_users: int, num_items: int) -> _Lists:
        users, items = np.divmod(keys, max(num_items, 1))
        counts = np.bincount(users, minlength=num_users)
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return cls(offsets, items.astype(np.int32), num_items)


def _contains(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each wanted key is among the ascending keys."""
    if not len(keys):
        return np.zeros(wanted.shape, np.bool_)
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.asarray(keys[at] == wanted)


def _mean(values: Floats) -> float:
    return math.fsum(values.tolist()) / len(values) if len(values) else math.nan
