"""Boosted trees over a store: streamed in, grown round by round, saved as text.

Letters   n rows of a store, B rows of a block, M features.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from recsys.data.encode import EncodedTable
from recsys.data.schema import Schema
from recsys.data.store import Store
from recsys.errors import CheckpointError, ConfigError
from recsys.models.tree_features import TreeFeatures, stored_rows

# LightGBM prints by itself; what it has to say is for those who listen.
lightgbm.register_logger(
    logging.getLogger(__name__), info_method_name="debug", warning_method_name="debug"
)

FILE = "trees.txt"
SCORED_ROWS = 16384
"""Rows scored at a time."""


class StoreRows(lightgbm.Sequence):
    """Rows of a store as LightGBM reads them: a block of float64 at a time, never all of them.

    A million rows of 39 features raise the peak of the process by 350 MiB, 150 of them the mapped
    files themselves; by 680 MiB when LightGBM is given one float64 matrix.
    """

    batch_size = 8192
    SAMPLED_ROWS = 256

    def __init__(self, store: Store, features: TreeFeatures) -> None:
        self.store = store
        self.features = features
        self._start = -1
        self._block = np.empty((0, 0))

    def __len__(self) -> int:
        return self.store.num_rows

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return self.features.matrix(stored_rows(self.store, start, stop))
        if isinstance(index, list):
            return np.stack([self[one] for one in index])
        # Bins are found from single rows in ascending order: one block serves many of them.
        start = int(index) // self.SAMPLED_ROWS * self.SAMPLED_ROWS
        if start != self._start:
            self._block = self[start : start + self.SAMPLED_ROWS]
            self._start = start
        return self._block[int(index) - start]


class Trees:
    """Grown trees that score encoded rows.

    Args:
        text: The model as LightGBM writes it.
        features: How rows become features.
        threads: CPU threads; 0 is all.
    """

    def __init__(self, text: str, features: TreeFeatures, threads: int = 0) -> None:
        self.text = text
        self.features = features
        self.threads = threads
        self.booster = lightgbm.Booster(model_str=text)
        if self.booster.num_feature() != len(features.names):
            raise CheckpointError(
                f"the trees were grown on {self.booster.num_feature()} features, but the pipeline "
                f"gives {len(features.names)}. They belong to different runs."
            )

    @classmethod
    def load(cls, folder: Path, schema: Schema, list_tokens: int) -> Trees:
        """Read what `save` wrote.

        Raises:
            CheckpointError: the file is missing or damaged, or belongs to another schema.
        """
        file = Path(folder) / FILE
        try:
            return cls(file.read_text(), TreeFeatures(schema, list_tokens))
        except (OSError, UnicodeDecodeError, lightgbm.basic.LightGBMError) as error:
            raise CheckpointError(
                f"{folder} is not a saved model: {error}. Name a run that finished, or its "
                "output folder."
            ) from error

    def save(self, folder: Path) -> None:
        """Write the trees as text into a folder."""
        (Path(folder) / FILE).write_text(self.text)

    def logits_of(self, encoded: EncodedTable) -> np.ndarray:
        """Logits [B] float32, the same whatever the block and the number of threads."""
        out = np.empty(len(encoded), np.float32)
        for start in range(0, len(encoded), SCORED_ROWS):
            part = self.features.matrix(_part(encoded, start, start + SCORED_ROWS))
            out[start : start + len(part)] = self.booster.predict(
                part, raw_score=True, num_threads=self.threads
            )
        return out

    def contributions(self, encoded: EncodedTable) -> np.ndarray:
        """What each feature adds to the logit (TreeSHAP), the bias last: [B, M + 1]; rows sum to
        the logit."""
        matrix = self.features.matrix(encoded)
        return self.booster.predict(matrix, pred_contrib=True, num_threads=self.threads)

    @property
    def num_trees(self) -> int:
        return int(self.booster.num_trees())

    @property
    def num_leaves(self) -> int:
        """Leaves of all trees: the numbers that were learnt."""
        lines = (line for line in self.text.splitlines() if line.startswith("num_leaves="))
        return sum(int(line.partition("=")[2]) for line in lines)

    def gains(self) -> np.ndarray:
        """Share of each feature in the loss that all splits saved, [M]."""
        gain = self.booster.feature_importance("gain").astype(np.float64)
        return gain / (gain.sum() or 1.0)


class Growing:
    """Trees while they grow.

    Args:
        parameters: As LightGBM names them.
        features: How rows become features.
        train: Rows to learn from.
        val: Rows to validate on, or None.
    """

    def __init__(
        self, parameters: dict[str, Any], features: TreeFeatures, train: Store, val: Store | None
    ) -> None:
        self.features = features
        self.threads = int(parameters.get("num_threads", 0))
        self._parameters = parameters
        self._labels = _labels(train)
        self._weights = None if train.weight is None else np.asarray(train.weight)
        data = self._dataset(train, None)
        self._booster = lightgbm.Booster(parameters, data)
        if val is not None:
            self._booster.add_valid(self._dataset(val, data), "val")

    def _dataset(self, store: Store, reference: lightgbm.Dataset | None) -> lightgbm.Dataset:
        return lightgbm.Dataset(
            StoreRows(store, self.features),
            label=_labels(store),
            weight=None if store.weight is None else np.asarray(store.weight),
            reference=reference,
            categorical_feature=self.features.categorical,
            params=self._parameters,
        ).construct()

    def grow(self) -> bool:
        """Add one tree; False when no split is worth making any more."""
        return not self._booster.update()

    def val_logits(self) -> np.ndarray:
        """Logits of the validation rows so far [n] float32, kept up to date by each tree."""
        return self._logits(self._booster.eval_valid)

    def train_loss(self) -> float:
        """Mean log-loss of the training rows, weighted as they are."""
        z = self._logits(self._booster.eval_train).astype(np.float64)
        losses = np.logaddexp(0.0, np.where(self._labels > 0, -z, z))
        return float(np.average(losses, weights=self._weights))

    def _logits(self, evaluate: Any) -> np.ndarray:
        found: list[np.ndarray] = []

        def read(probability: np.ndarray, _: Any) -> tuple[str, float, bool]:
            found.append(probability)
            return "read", 0.0, False

        evaluate(read)  # the public way to what the trees say so far, without scoring anew
        p = np.clip(found[-1], 1e-300, 1 - 1e-16)
        return (np.log(p) - np.log1p(-p)).astype(np.float32)

    def finish(self, num_trees: int) -> Trees:
        """The first so many trees; reads its own text, so that what is scored is what is saved."""
        text = self._booster.model_to_string(num_iteration=num_trees)
        return Trees(text, self.features, self.threads)


def _labels(store: Store) -> np.ndarray:
    if store.label.ndim != 1:
        raise ConfigError(
            f"trees learn one label, but these rows have {store.label.shape[1]}: "
            f"{', '.join(store.schema.labels)}. Choose one with data.label."
        )
    return np.asarray(store.label)


def _part(rows: EncodedTable, start: int, stop: int) -> EncodedTable:
    ragged = {}
    for name, (values, offsets) in rows.ragged.items():
        ends = offsets[start : stop + 1]
        ragged[name] = (values[ends[0] : ends[-1]], ends - ends[0])
    return EncodedTable(rows.ids[start:stop], rows.dense[start:stop], ragged)
