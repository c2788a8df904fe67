"""A model of users and items behind POST /recommend: external ids in, external ids out.

The lists are those of `pipelines.recommend`. Each user of each request is answered as if alone.

Letters   n users asked for.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.retrieval.candidates import Candidates, Lists
from recsys.retrieval.external_ids import positions_in
from recsys.serving.json_body import checked_list, kind_of, parse_object
from recsys.serving.problems import RequestError, shown

DEFAULT_K = 10


@dataclass(frozen=True)
class Asked:
    """Users [n], by external id, and the length of their lists."""

    users: list[int] | list[str]
    k: int


class Listing:
    """Recommends items to users.

    Args:
        candidates: Finds items.
        run: What it is called; its own id where the model knows one.
        max_users: Of one request.
        max_k: Length of a list.
        popular: Users without training pairs get the most popular items; else they are an error.
    """

    route = "/recommend"

    def __init__(
        self, candidates: Candidates, run: str, max_users: int, max_k: int, popular: bool = False
    ) -> None:
        saved = candidates.saved
        self.candidates = candidates
        self.run = str(saved.facts.get("run_id") or run)
        self.name = saved.spec.class_name
        self.max_users = max_users
        self.max_k = min(max_k, saved.data.num_items)
        self._popular = popular
        self._integers = pa.types.is_integer(saved.data.user_ids.type)
        self.interface: dict[str, Any] = {
            "users": str(saved.data.user_ids.type),
            "items": str(saved.data.item_ids.type),
            "titles": saved.data.titles is not None,
        }
        (first,) = self.answer([self.read(json.dumps(self.example()).encode())[0]])
        if isinstance(first, Exception):
            raise first

    def read(self, body: bytes) -> tuple[Asked, int]:
        """Users of a body, and how many."""
        found = parse_object(body, "users", ("k",))
        users = checked_list(found, "users", self.max_users, "users")
        for row, user in enumerate(users):
            if not self._is_id(user):
                raise RequestError(
                    422,
                    f"user {row} is {shown(user)}, {kind_of(user)}; ids of users are "
                    f"{'integers of 64 bits' if self._integers else 'strings'} here.",
                    column="users",
                    row=row,
                )
        k = found.get("k", min(DEFAULT_K, self.max_k))
        if type(k) is float and k.is_integer():
            k = int(k)
        if type(k) is not int or not 1 <= k <= self.max_k:
            raise RequestError(
                422, f"k is {shown(k)}; it must be an integer of 1 to {self.max_k:,}.", column="k"
            )
        return Asked(users, k), len(users)

    def _is_id(self, user: object) -> bool:
        if not self._integers:
            return type(user) is str
        return type(user) is int and -(2**63) <= user < 2**63

    def answer(self, jobs: Sequence[Asked]) -> list[bytes | Exception]:
        """`{"run": ..., "recommendations": [{"user", "source", "items": [...]}, ...]}` of each."""
        return [self._one(job) for job in jobs]

    def _one(self, job: Asked) -> bytes | Exception:
        data = self.candidates.saved.data
        codes = positions_in(data.user_ids, pa.array(job.users, data.user_ids.type))
        if not self._popular and (codes < 0).any():
            row = int(np.flatnonzero(codes < 0)[0])
            return RequestError(
                404,
                f"user {shown(job.users[row])} is not among the {data.num_users:,} users of "
                f"training ({int((codes < 0).sum()):,} such). Leave it out, or start the server "
                "with fallback=popularity.",
                column="users",
                row=row,
            )
        known = codes >= 0
        found: list[list[dict[str, Any]]] = [[] for _ in job.users]
        if known.any():
            lists = self._items(self.candidates.lists(codes[known], job.k), int(known.sum()))
            for place, items in zip(np.flatnonzero(known).tolist(), lists, strict=True):
                found[place] = items
        if not known.all():
            (popular,) = self._items(self.candidates.popular(job.k), 1)
            for place in np.flatnonzero(~known).tolist():
                found[place] = popular
        answers = [
            {"user": user, "source": "model" if ours else "popularity", "items": items}
            for user, ours, items in zip(job.users, known.tolist(), found, strict=True)
        ]
        return json.dumps({"run": self.run, "recommendations": answers}).encode()

    def _items(self, lists: Lists, users: int) -> list[list[dict[str, Any]]]:
        """Items of each user, best first."""
        data = self.candidates.saved.data
        columns = {"item": lists.items.to_pylist(), "score": lists.scores.astype(float).tolist()}
        if data.titles is not None:
            at = positions_in(data.item_ids, lists.items)
            columns["title"] = data.titles.take(pa.array(at, mask=at < 0)).to_pylist()
        out: list[list[dict[str, Any]]] = [[] for _ in range(users)]
        names = list(columns)
        for row, values in zip(
            lists.rows.tolist(), zip(*columns.values(), strict=True), strict=True
        ):
            out[row].append(dict(zip(names, values, strict=True)))
        return out

    def example(self) -> dict[str, Any]:
        """The first user."""
        return {
            "users": [self.candidates.saved.data.user_ids[0].as_py()],
            "k": min(5, self.max_k),
        }

    def facts(self) -> dict[str, Any]:
        """How it searches."""
        exact = self.candidates.index is None
        return {"search": "exact" if exact else "index"}

    def request_schema(self) -> dict[str, Any]:
        user: dict[str, Any] = {"type": "string"}
        if self._integers:
            user = {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}
        return {
            "type": "object",
            "required": ["users"],
            "additionalProperties": False,
            "properties": {
                "users": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": self.max_users,
                    "items": user,
                },
                "k": {"type": "integer", "minimum": 1, "maximum": self.max_k},
            },
        }

    def answer_schema(self) -> dict[str, Any]:
        item: dict[str, Any] = {"item": {}, "score": {"type": "number"}}
        if self.interface["titles"]:
            item["title"] = {"type": ["string", "null"]}
        answer = {
            "type": "object",
            "required": ["user", "source", "items"],
            "properties": {
                "user": {},
                "source": {"enum": ["model", "popularity"]},
                "items": {
                    "type": "array",
                    "items": {"type": "object", "required": list(item), "properties": item},
                },
            },
        }
        return {
            "type": "object",
            "required": ["run", "recommendations"],
            "properties": {
                "run": {"type": "string"},
                "recommendations": {"type": "array", "items": answer},
            },
        }
