"""Ranks what was retrieved by a click model: raw rows are made of user, item and what is known.

Letters   m rows of all lists, k length of a list.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.errors import ConfigError, SchemaError, did_you_mean
from recsys.models.saved import SavedModel
from recsys.retrieval.candidates import Lists
from recsys.retrieval.feature_table import FeatureTable


class Ranker:
    """Scores pairs of a user and an item by a click model.

    Args:
        saved: The model; its pipeline says which columns a row has.
        tables: Of users and items; their columns complete the rows.
        columns: What the pipeline calls the id of a user and of an item.
        label: Of several labels the one to rank by.

    Raises:
        ConfigError: the model has several labels and none of this name.
        SchemaError: a column of the pipeline is in neither table, or in both.
    """

    def __init__(
        self,
        saved: SavedModel,
        tables: Sequence[FeatureTable | None],
        columns: tuple[str, str],
        label: str | None = None,
    ) -> None:
        self.saved = saved
        self.tables = tables
        self.columns = columns
        labels = saved.pipeline.schema.labels
        if len(labels) > 1 and label not in labels:
            raise ConfigError(
                f"rank_label={label}: the model predicts {len(labels)} labels."
                f"{did_you_mean(str(label), labels)}"
            )
        self.label = labels.index(label) if label in labels else 0
        own = [[] if t is None else [c for c in t.frame.columns if c != t.key] for t in tables]
        needed = set(saved.pipeline.schema.names)
        twice = sorted(needed.intersection(own[0]).intersection(own[1]))
        if twice:
            raise SchemaError(
                f"the column {twice[0]} is in the tables of both users and items. Rename it in one."
            )
        missing = sorted(needed.difference(own[0], own[1], columns))
        if missing:
            raise SchemaError(
                f"rank_by reads {', '.join(missing)}, which no table has. Give users= (columns of "
                f"users) and items= (columns of items) with them; data.user={columns[0]} and "
                f"data.item={columns[1]} name the ids."
            )

    def scores(self, users: pa.Array, items: pa.Array) -> np.ndarray:
        """Probabilities of rows, [m] float32; what a table does not know is missing to the model.

        Args:
            users: [m] external ids.
            items: [m] external ids.
        """
        frame = pl.DataFrame({
            self.columns[0]: pl.Series(users), self.columns[1]: pl.Series(items)
        })  # fmt: skip
        for table, column in zip(self.tables, self.columns, strict=True):
            if table is not None:
                right = table.frame.rename({table.key: column})
                frame = frame.join(right, on=column, how="left", maintain_order="left")
        found = self.saved.predict(frame.select(self.saved.pipeline.schema.names))
        return found if found.ndim == 1 else found[:, self.label]

    def ranked(self, lists: Lists, users: pa.Array, k: int) -> tuple[Lists, np.ndarray]:
        """The k best of every list by the click model, and what retrieval scored them.

        Args:
            lists: Candidates.
            users: External ids of the users asked for.
            k: Length of a list.
        """
        scores = self.scores(users.take(pa.array(lists.rows)), lists.items)
        order = np.lexsort((lists.ranks, -scores, lists.rows))
        best = Lists(lists.rows[order], lists.items.take(pa.array(order)), scores[order])
        kept = best.ranks <= k
        cut = Lists(best.rows[kept], best.items.filter(pa.array(kept)), best.scores[kept])
        return cut, lists.scores[order][kept]
