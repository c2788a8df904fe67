"""LightGBM: gradient-boosted trees, the yardstick that a network on tabular data has to beat.

Source   Ke et al., NeurIPS 2017; categories are split by sorted gradient statistics as in Fisher,
         JASA 1958 (LightGBM's own documentation, "Optimal Split for Categorical Features").
Differs  Growing the trees is the lightgbm package's work. Rows reach it from the same prepared
         store as every other model, as `recsys.models.tree_features` says; early stopping watches
         `trainer.monitor`, any of this library's metrics, rather than one of LightGBM's.
Shapes   n rows, M features.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.data.schema import Schema
    from recsys.data.store import Store
    from recsys.models.trees import Growing, Trees

MAX_SEED = 2**31 - 1
"""LightGBM's seeds are 32-bit."""


class LightGBM:
    """Boosted trees over codes and numbers; not a network, so without embeddings and optimiser.

    Args:
        num_rounds: Trees, at most.
        learning_rate: Factor on each tree's contribution.
        patience: Rounds without improvement before growing stops; 0 never stops.
        eval_rounds: Rounds between validations (`trainer.eval_every` wins).
        num_leaves: Leaves of a tree, at most.
        max_depth: Depth of a tree, at most; -1 has no limit.
        min_data_in_leaf: Rows of a leaf, at least.
        feature_fraction: Share of the features that a tree may use, in (0, 1].
        bagging_fraction: Share of the rows that a tree sees, in (0, 1].
        bagging_rounds: Rounds for which a bag of rows is kept.
        lambda_l1: L1 penalty on leaf values.
        lambda_l2: L2 penalty on leaf values.
        max_bin: Bins of a number, at most; a category keeps the values of 99 % of its rows.
        max_cat_to_onehot: Categories up to which each one is split off by itself.
        max_cat_threshold: Split points of a category that are tried, at most.
        cat_smooth: Rows' worth of smoothing of a category's statistics.
        cat_l2: L2 penalty of splits by category, added to `lambda_l2`.
        min_data_per_group: Rows of a group of categories, at least.
        list_tokens: Most frequent tokens of a multi-valued field with a feature of their own.

    Raises:
        ConfigError: a value is out of range.

    Example:
        >>> LightGBM(num_leaves=15).parameters(seed=1)["num_leaves"]
        15
    """

    boosted: ClassVar[bool] = True
    """Grown by rounds rather than trained by steps: `pipelines.train` runs it another way."""

    def __init__(
        self,
        *,
        num_rounds: int = 1000,
        learning_rate: float = 0.05,
        patience: int = 50,
        eval_rounds: int = 5,
        num_leaves: int = 63,
        max_depth: int = -1,
        min_data_in_leaf: int = 50,
        feature_fraction: float = 0.8,
        bagging_fraction: float = 0.8,
        bagging_rounds: int = 1,
        lambda_l1: float = 0.0,
        lambda_l2: float = 1.0,
        max_bin: int = 255,
        max_cat_to_onehot: int = 4,
        max_cat_threshold: int = 32,
        cat_smooth: float = 10.0,
        cat_l2: float = 10.0,
        min_data_per_group: int = 100,
        list_tokens: int = 16,
    ) -> None:
        self.num_rounds = _whole("num_rounds", num_rounds, 1)
        self.patience = _whole("patience", patience, 0)
        self.eval_rounds = _whole("eval_rounds", eval_rounds, 1)
        self.list_tokens = _whole("list_tokens", list_tokens, 0)
        if max_depth == 0 or max_depth < -1:
            raise ConfigError(f"ctr.max_depth={max_depth}; it must be at least 1, or -1: no limit.")
        self._options = {
            "learning_rate": _above_zero("learning_rate", learning_rate),
            "num_leaves": _whole("num_leaves", num_leaves, 2),
            "max_depth": max_depth,
            "min_data_in_leaf": _whole("min_data_in_leaf", min_data_in_leaf, 1),
            "feature_fraction": _above_zero("feature_fraction", feature_fraction, 1.0),
            "bagging_fraction": _above_zero("bagging_fraction", bagging_fraction, 1.0),
            "bagging_freq": _whole("bagging_rounds", bagging_rounds, 1),
            "lambda_l1": _not_negative("lambda_l1", lambda_l1),
            "lambda_l2": _not_negative("lambda_l2", lambda_l2),
            "max_bin": _whole("max_bin", max_bin, 2),
            "max_cat_to_onehot": _whole("max_cat_to_onehot", max_cat_to_onehot, 1),
            "max_cat_threshold": _whole("max_cat_threshold", max_cat_threshold, 1),
            "cat_smooth": _not_negative("cat_smooth", cat_smooth),
            "cat_l2": _not_negative("cat_l2", cat_l2),
            "min_data_per_group": _whole("min_data_per_group", min_data_per_group, 1),
        }

    @property
    def learning_rate(self) -> float:
        return float(self._options["learning_rate"])

    def parameters(self, seed: int = 0, threads: int = 0) -> dict[str, Any]:
        """What LightGBM is told; the same seed gives the same trees with any number of threads.

        Args:
            seed: Of the bags of rows and features.
            threads: CPU threads; 0 is all.
        """
        return {
            "objective": "binary",
            "metric": "none",  # metrics are this library's
            "verbosity": -1,
            "seed": seed % MAX_SEED,
            "num_threads": threads,
            # One layout of the histograms, not the faster of two as a timing has it: their sums
            # differ in the last bits.
            "deterministic": True,
            "force_col_wise": True,
            **self._options,
        }

    def start(self, train: Store, val: Store | None, seed: int = 0, threads: int = 0) -> Growing:
        """Stream the rows into LightGBM's bins (about one byte per number), ready for round 1."""
        from recsys.models.tree_features import TreeFeatures
        from recsys.models.trees import Growing

        features = TreeFeatures(train.schema, self.list_tokens)
        return Growing(self.parameters(seed, threads), features, train, val)

    def load(self, folder: Path, schema: Schema) -> Trees:
        """Read trees that were saved into a folder.

        Raises:
            CheckpointError: they are missing or damaged, or belong to another schema.
        """
        from recsys.models.trees import Trees

        return Trees.load(folder, schema, self.list_tokens)


def _whole(name: str, value: int, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"ctr.{name}={value}; it must be a whole number, {least} or more.")
    return value


def _above_zero(name: str, value: float, most: float = float("inf")) -> float:
    if not 0.0 < value <= most:
        allowed = "above 0" if most == float("inf") else f"above 0 and at most {most:g}"
        raise ConfigError(f"ctr.{name}={value}; it must be {allowed}.")
    return value


def _not_negative(name: str, value: float) -> float:
    if not value >= 0.0:
        raise ConfigError(f"ctr.{name}={value}; it must be 0 or more.")
    return value
