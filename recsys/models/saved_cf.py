"""A trained model of users and items as a folder: external ids in, external ids out.

    model/
        model.json           what to build: class and hyperparameters
        weights.safetensors  everything that scoring needs
        interactions/        external ids, titles, columns, and the training pairs
        columns/             of towers: the fitted pipelines of what they read

Nothing in it is pickled, and loading it runs no code but this library's.

Letters   U users, I items, D width, n users asked for.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.data.atomic import atomic_folder
from recsys.data.encode import Raw
from recsys.data.interactions import ITEM, USER, Interactions
from recsys.data.pairs import Pairs
from recsys.data.side_tables import SideTables, save_pipelines
from recsys.errors import CheckpointError, ConfigError, SchemaError, did_you_mean
from recsys.metrics.top_items import block_users, bytes_per_score, top_of_scores, top_of_vectors
from recsys.models.collaborative import CFModel, EmbeddingModel
from recsys.models.registry import call, import_target
from recsys.models.saved import WEIGHTS, ModelSpec, no_model, read_card
from recsys.models.two_sided import TowersModel

FORMAT = {"format": "recsys-cf-model", "version": 1}
BLOCK_BYTES = 64 * 2**20
"""Scores of a block of users, where scores are written."""


def make_cf(spec: ModelSpec, train: Pairs, tables: SideTables | None = None) -> CFModel:
    """Build a model for some training pairs; it has learnt nothing yet.

    Args:
        spec: What to build.
        train: The pairs to learn from.
        tables: What towers read of users and items; None: nothing but the ids.

    Raises:
        ConfigError: a hyperparameter is unknown or impossible.
    """
    cls = import_target(spec.target)
    given: dict[str, Any] = {"num_users": train.num_users, "num_items": train.num_items}
    if isinstance(cls, type) and issubclass(cls, EmbeddingModel):
        given = {"train": train}
        if issubclass(cls, TowersModel):
            given["tables"] = tables
    model = call(cls, dict(spec.arguments), given, spec.family)
    if not isinstance(model, CFModel):
        raise ConfigError(f"{spec.target} is not a model of users and items.")
    return model


def tables_for(spec: ModelSpec, data: Interactions, train: Pairs) -> SideTables | None:
    """What a model reads of users and items beside some training pairs; None: nothing."""
    cls = import_target(spec.target)
    if not (isinstance(cls, type) and issubclass(cls, TowersModel)):
        return None
    return SideTables.fit(data, train, bool(spec.arguments.get("history", False)))


def check_cf(spec: ModelSpec) -> None:
    """Raise ConfigError for hyperparameters that no data could make possible."""
    cls = import_target(spec.target)
    if isinstance(cls, type) and issubclass(cls, TowersModel):  # only the data knows its columns
        known = {"user_fields": None, "item_fields": None}
        spec = dataclasses.replace(spec, arguments={**spec.arguments, **known})
    size = 10_000
    codes = np.arange(size)
    with torch.device("meta"):
        make_cf(spec, Pairs.of(codes, codes, size, size))


def is_cf(folder: Path) -> bool:
    """Whether a saved model is one of users and items."""
    try:
        card = json.loads((folder / "model.json").read_text())
    except (OSError, ValueError):
        return False  # whoever loads it says what is wrong
    return bool(card.get("format") == FORMAT["format"])


class SavedCF:
    """A trained model with the ids of its users and items.

    Args:
        model: On a CPU.
        data: What it learnt from, with external ids; its training pairs are what users have.
        spec: What the model is.
        facts: Run id, data set, digest: shown, never used.
    """

    def __init__(
        self,
        model: CFModel,
        data: Interactions,
        spec: ModelSpec,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model.eval()
        self.data = data
        self.spec = spec
        self.facts = dict(facts or {})

    @torch.no_grad()
    def vectors(self) -> tuple[Tensor, Tensor] | None:
        """Vectors of users [U, D] and items [I, D] whose dot products are the scores; None for a
        model that has none."""
        return self.model() if isinstance(self.model, EmbeddingModel) else None

    @torch.no_grad()
    def encode(self, side: str, rows: Raw) -> Tensor:
        """Vectors of raw rows, of users or items that training knew or of new ones [n, D].

        Args:
            side: user or item.
            rows: The columns that the tower of that side reads, its id among them; null where not
                known.

        Raises:
            ConfigError: the model is not made of towers, or there is no such side.
            SchemaError: a column is missing or holds what it may not.
        """
        if not isinstance(self.model, TowersModel):
            raise ConfigError(
                f"{self.spec.class_name} knows users and items by their pairs alone; only towers "
                "encode rows. Choose the run of a towers model."
            )
        model = self.model
        sides = {
            USER: (model.user_side, model.encode_user),
            ITEM: (model.item_side, model.encode_item),
        }
        if side not in sides:
            raise ConfigError(f'there is no side "{side}".{did_you_mean(side, sides)}')
        table, encode = sides[side]
        return encode(table.pipeline.transform(rows).to_batch())

    @torch.no_grad()
    def recommend(
        self, users: Sequence[int | str] | pa.Array, k: int, *, known: bool = False
    ) -> pa.Table:
        """The best k items of some users, best first.

        Args:
            users: External ids [n].
            k: Length of a list, at most I.
            known: Recommend items that the user already has in the training pairs as well.

        Returns:
            Columns user, rank (from 1), item, score, and title where items have one. A user with
            fewer than k items left has fewer rows.

        Raises:
            SchemaError: a user is not among those of training.
            ConfigError: k is below 1 or above I.
        """
        codes = torch.from_numpy(self.user_codes(users))
        excluded = None if known else self.data.train
        vectors = self.vectors()
        if vectors is not None:
            found = top_of_vectors(*vectors, codes, k, excluded, BLOCK_BYTES)
            items, scores = found.items.numpy(), found.scores.numpy()
        else:
            cpu = torch.device("cpu")
            block = block_users(BLOCK_BYTES, self.data.num_items, bytes_per_score(cpu))
            parts = [
                top_of_scores(self.model.scores(part), part, k, excluded)
                for part in codes.split(block)
            ]
            items = np.concatenate([part.items.numpy() for part in parts])
            scores = np.concatenate([part.scores.numpy() for part in parts])
        there = items >= 0
        rows, ranks = np.nonzero(there)
        taken = pa.array(items[there])
        columns = {
            "user": self.data.user_ids.take(pa.array(codes.numpy()[rows])),
            "rank": pa.array((ranks + 1).astype(np.int32)),
            "item": self.data.item_ids.take(taken),
            "score": pa.array(scores[there]),
        }
        if self.data.titles is not None:
            columns["title"] = self.data.titles.take(taken)
        return pa.table(columns)

    def user_codes(self, users: Sequence[int | str] | pa.Array) -> np.ndarray:
        """Positions of external ids [n] among the users, int64.

        Raises:
            SchemaError: one of them is unknown.
        """
        kind = self.data.user_ids.type
        try:
            wanted = users if isinstance(users, pa.Array) else pa.array(list(users), kind)
            found = pc.index_in(wanted.cast(kind), self.data.user_ids)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            example = self.data.user_ids[0].as_py()
            raise SchemaError(
                f"users are {kind} such as {example!r}, but these are not ({error})."
            ) from error
        if found.null_count:
            first = wanted.filter(found.is_null())[0].as_py()
            raise SchemaError(
                f"user {first!r} is not among the {self.data.num_users:,} users of training "
                f"({found.null_count:,} such). Leave it out, or train again with its pairs."
            )
        codes: np.ndarray = found.to_numpy(zero_copy_only=False).astype(np.int64)
        return codes

    def save(self, folder: Path) -> Path:
        """Write the folder, whole or not at all."""
        card = {**FORMAT, "model": dataclasses.asdict(self.spec), "facts": self.facts}
        with atomic_folder(folder) as temporary:
            state = {name: tensor.cpu() for name, tensor in self.model.state_dict().items()}
            save_file({name: t.contiguous() for name, t in state.items()}, temporary / WEIGHTS)
            (temporary / "model.json").write_text(json.dumps(card, indent=1))
            self.data.save(temporary / "interactions")
            if isinstance(self.model, TowersModel):
                sides = (self.model.user_side.pipeline, self.model.item_side.pipeline)
                save_pipelines(temporary / "columns", *sides)
        return folder

    @classmethod
    def load(cls, folder: Path) -> SavedCF:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the folder is missing, incomplete, damaged or of another version.
        """
        folder = Path(folder)
        card = read_card(folder, FORMAT)
        try:
            weights = load_file(folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise no_model(folder, error) from error
        spec = ModelSpec(**card["model"])
        data = Interactions.load(folder / "interactions")
        columns = folder / "columns"
        tables = SideTables.load(columns, data) if columns.exists() else None
        model = make_cf(spec, data.train, tables)
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"the weights in {folder} do not fit its card: {error}"
            ) from error
        return cls(model, data, spec, card["facts"])
