"""The rows that copies of a model are compared on, block by block, encoded by its own pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import DictConfig, OmegaConf

from pipelines.tracked_run import EXAMPLE_ROWS, EXAMPLES_AMONG, OUTPUTS, telling_rows
from recsys import config
from recsys.data.encode import EncodedTable
from recsys.data.prepare import prepare
from recsys.data.readers import Source
from recsys.data.store import Store
from recsys.errors import ConfigError, SchemaError
from recsys.models.saved import SavedModel
from recsys.models.tree_features import stored_rows
from recsys.tracking.console import Console


class ComparedRows:
    """The rows that copies are compared on: those of `data.path`, or the run's test rows.

    Args:
        path: File, folder or glob; None for the run's test rows.
        saved: The model.
        folder: Where it lies.
        batch_rows: Rows of a block.
        most: Rows at most; None: all.
        console: Told of progress.

    Raises:
        ConfigError: the run's own rows cannot be had any more.
        SchemaError: there are no rows, or a column is missing.
    """

    name: str
    num_rows: int
    store: Store | None = None
    split: str
    """`test`, `val`, or `data`: what metrics are named after."""
    example: pd.DataFrame
    """A few raw rows."""

    def __init__(
        self,
        path: Any,
        saved: SavedModel,
        folder: Path,
        batch_rows: int,
        most: int | None,
        console: Console,
    ) -> None:
        self._saved, self._batch_rows = saved, batch_rows
        if path is None:
            self._of_run(folder, console)
        else:
            self._of_path(path)
        self.num_rows = self.num_rows if most is None else min(self.num_rows, most)
        if not self.num_rows:
            raise SchemaError(f"{self.name} has no rows to compare copies on. Give others.")

    def _of_run(self, folder: Path, console: Console) -> None:
        remedy = "Name rows to compare on: data.path=new.parquet"
        file = folder.parent / "config.yaml"
        if not file.is_file():
            raise ConfigError(f"{folder} lies without its run's config.yaml. {remedy}.")
        cfg = OmegaConf.load(file)
        if not isinstance(cfg, DictConfig) or cfg.get("data") is None:
            raise ConfigError(f"{file} names no data. {remedy}.")
        raw, options = config.build_dataset(cfg.data, self._saved.spec.family)
        data = prepare(
            raw, replace(options, rebuild=False), OUTPUTS / "prepared", console.preparing
        )
        if data.digest != self._saved.facts.get("data_digest"):
            raise ConfigError(f"the data of run {folder.parent} has changed since. {remedy}.")
        self.split = "val" if data.test is None else "test"
        store = data.stores.get(self.split)
        if store is None:
            raise ConfigError(f"the run's data has neither test nor validation rows. {remedy}.")
        self.store, self.name, self.num_rows = store, f"{raw.name} {self.split}", store.num_rows
        head = next(iter(raw.files.values())).head(EXAMPLES_AMONG, data.pipeline.schema.names)
        self.example = telling_rows(head, EXAMPLE_ROWS).to_pandas()

    def _of_path(self, path: Any) -> None:
        self.source = Source.open(path)
        self.split, self.name = "data", str(path)
        self._saved.pipeline.require(list(self.source.columns))
        self.num_rows = self.source.num_rows
        head = self.source.head(EXAMPLES_AMONG, self._saved.pipeline.schema.names)
        self.example = telling_rows(head, EXAMPLE_ROWS).to_pandas()

    def blocks(self) -> Iterator[EncodedTable]:
        """Encoded rows, with labels where there are any."""
        left = self.num_rows
        for block in self._of_source() if self.store is None else self._of_store():
            yield block if len(block) <= left else block.take(np.arange(left))
            left -= len(block)
            if left <= 0:
                return

    def _of_store(self) -> Iterator[EncodedTable]:
        store = self.store
        assert store is not None

        def part(column: np.ndarray | None, start: int, stop: int) -> np.ndarray | None:
            return None if column is None else np.asarray(column[start:stop])

        for start in range(0, store.num_rows, self._batch_rows):
            stop = min(start + self._batch_rows, store.num_rows)
            yield replace(
                stored_rows(store, start, stop),
                label=part(store.label, start, stop),
                weight=part(store.weight, start, stop),
                group=part(store.group, start, stop),
            )

    def _of_source(self) -> Iterator[EncodedTable]:
        schema, columns = self._saved.pipeline.schema, set(self.source.columns)
        wanted = [*schema.names]
        if set(schema.labels) <= columns:
            wanted += schema.labels
        wanted += [c for c in (schema.weight, schema.group) if c is not None and c in columns]
        for batch in self.source.batches(list(dict.fromkeys(wanted)), self._batch_rows):
            yield self._saved.pipeline.transform(batch.table)
