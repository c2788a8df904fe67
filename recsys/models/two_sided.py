"""Contract of the towers: one encoder for users, one for items, and a dot product between them.

Letters   U users, I items, B rows, P items encoded at a time, F slots, D embedding width,
          O width of the output.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.batch import Batch, Ragged
from recsys.data.interactions import USER
from recsys.data.pairs import Pairs
from recsys.data.schema import NUM_RESERVED, UNSEEN
from recsys.data.side_tables import HISTORY, SideTable, SideTables
from recsys.embedding.lookup import EmbeddingLookup, EmbeddingOptions
from recsys.embedding.storage import DenseStorage
from recsys.embedding.table_rows import TableRows
from recsys.errors import ConfigError
from recsys.models.collaborative import EmbeddingModel

BLOCK_ROWS = 65_536
"""Users or items encoded at a time where all are."""


class Side(nn.Module):
    """The table of one side and the vectors of its values.

    Args:
        table: Every user, or every item, and its columns.
        embedding: Layout and width.
    """

    def __init__(self, table: SideTable, embedding: EmbeddingOptions) -> None:
        super().__init__()
        self.pipeline = table.pipeline
        self.rows = TableRows(table.rows)
        self.lookup = EmbeddingLookup(table.pipeline.schema, embedding, DenseStorage)
        # Without numbers there is no vector to learn for them, and an optimiser has no state of it.
        self.lookup.numeric.requires_grad_(self.lookup.numeric.numel() > 0)

    @property
    def num_fields(self) -> int:
        """F."""
        return self.lookup.plan.num_fields

    @torch.no_grad()
    def set_ids(self, name: str, vectors: Tensor) -> None:
        """Give the ids [R] the vectors [R, D]; ids that training does not know keep theirs.

        Raises:
            ConfigError: the tower does not read the id.
        """
        names = [one.name for one in self.pipeline.schema.coded]
        if name not in names:
            raise ConfigError(f"the {name} tower does not read the id; add {name} to its fields.")
        codes = self.rows.ids[:, names.index(name)]
        known = codes >= NUM_RESERVED
        self.lookup.storage.table()[self.lookup.layout.rows_of(codes[known], name)] = vectors[known]

    def batch(self, rows: Tensor, unseen_share: float = 0.0, id_name: str = "") -> Batch:
        """Rows of the table [B]; of a share of them, drawn here, the id reads as unseen."""
        batch = self.rows(rows)
        names = [one.name for one in self.pipeline.schema.coded]
        if unseen_share and id_name in names:
            drawn = torch.rand(len(rows), device=rows.device) < unseen_share
            batch.ids[drawn, names.index(id_name)] = UNSEEN
        return batch


class TowersModel(EmbeddingModel):
    """Two towers over the columns of users and items, their ids among them.

    A subclass takes `train` and `tables`, which the data dictates, and its own keyword-only
    hyperparameters, which its YAML file lists with the same names and defaults.

    Args:
        train: The pairs to learn from.
        tables: What is known of users and items; None: nothing but the ids.
        history: The user tower reads the mean vector of the user's training items, in place of the
            id; `tables` have them.
        embedding: Layout and width of the vectors of values, the same for both sides.
        user_fields: Columns that the user tower reads, `user` is the id; None for all.
        item_fields: Columns that the item tower reads, `item` is the id; None for all.
        out_dim: O.

    Raises:
        ConfigError: the history is to be read beside the id.
        SchemaError: a column is not there.
    """

    history_codes: Tensor

    similarity = "inner_product"
    """What compares two vectors: `inner_product`, or `cosine`, which are then of length 1."""

    def __init__(
        self,
        train: Pairs,
        tables: SideTables | None,
        history: bool,
        embedding: EmbeddingOptions,
        user_fields: Sequence[str] | None,
        item_fields: Sequence[str] | None,
        out_dim: int,
    ) -> None:
        super().__init__(train, out_dim)
        tables = SideTables.of_ids(train, history) if tables is None else tables
        sizes = (len(tables.users.rows), len(tables.items.rows))
        if sizes != (train.num_users, train.num_items):
            raise ValueError(
                f"the tables have {sizes[0]:,} users and {sizes[1]:,} items, the pairs "
                f"{train.num_users:,} and {train.num_items:,}. Fit them on this data."
            )
        self.history = history
        if history:
            user_fields = _fields_beside_history(tables.users, user_fields)
        self.user_side = Side(tables.users.select(user_fields), embedding)
        self.item_side = Side(tables.items.select(item_fields), embedding)
        if history:  # lists stand in the order of the pairs: each pair says the code of its item
            values, _ = tables.users.rows.ragged[HISTORY]
            codes = np.zeros(train.num_items, values.dtype)
            codes[train.items] = values
            self.register_buffer("history_codes", torch.from_numpy(codes), persistent=False)

    @abstractmethod
    def encode_user(self, batch: Batch) -> Tensor:
        """Vectors of users [B, O] from rows of their columns."""

    @abstractmethod
    def encode_item(self, batch: Batch) -> Tensor:
        """Vectors of items [P, O] from rows of their columns."""

    def user_rows(self, users: Tensor, items: Tensor, unseen_share: float) -> Batch:
        """Rows of users [B] to learn from: none has in its history the item [B] to be found."""
        batch = self.user_side.batch(users, unseen_share, USER)
        if self.history:
            whole = batch.ragged[HISTORY]
            batch.ragged[HISTORY] = without(whole, self.history_codes[items])
        return batch

    def forward(self) -> tuple[Tensor, Tensor]:
        return (
            _encode_all(self.user_side, self.encode_user),
            _encode_all(self.item_side, self.encode_item),
        )


def _fields_beside_history(table: SideTable, names: Sequence[str] | None) -> list[str]:
    """Columns of users with the history, and without the id: its vector learns which items the
    user has, so that a history without one of them gives away the item that is to be found."""
    if names is None:
        return [name for name in table.pipeline.schema.names if name != USER]
    if USER in names:
        raise ConfigError(
            f"user_fields={list(names)} has the id, but history=true is read in its place: both "
            "together give away the item that is to be found. Leave one of them out."
        )
    return [*names, HISTORY]


def _encode_all(side: Side, encode: Callable[[Batch], Tensor]) -> Tensor:
    rows = torch.arange(len(side.rows), device=side.rows.ids.device)
    return torch.cat([encode(side.batch(part)) for part in rows.split(BLOCK_ROWS)])


def without(lists: Ragged, codes: Tensor) -> Ragged:
    """Lists without one code each.

    Shape:
        lists    B lists
        codes    [B]
        return   B lists

    Example:
        >>> lists = Ragged(torch.tensor([4, 5, 6, 5]), torch.tensor([0, 1, 4]))
        >>> without(lists, torch.tensor([3, 5]))
        Ragged(values=tensor([4, 6]), offsets=tensor([0, 1, 2]))
    """
    lengths = lists.lengths
    rows = torch.arange(len(codes), device=codes.device).repeat_interleave(lengths)
    kept = lists.values != codes[rows]
    lengths = torch.bincount(rows[kept], minlength=len(codes))
    return Ragged(lists.values[kept], torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))


def embedding_options(
    embed_dim: int, layout: str, ratio: float, init_std: float
) -> EmbeddingOptions:
    """The options of both sides' vectors.

    Raises:
        ConfigError: a value is out of range.
    """
    if init_std <= 0:
        raise ConfigError(f"init_std is {init_std}; it must be above 0, or all vectors are equal.")
    return EmbeddingOptions(dim=embed_dim, layout=layout, ratio=ratio, init_std=init_std)
