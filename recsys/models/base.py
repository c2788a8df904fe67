"""Contracts of the model families. A model is plain torch: no id, optimiser or metric in it.

Letters   B rows, F slots, D embedding width, N dense columns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError


@dataclass(frozen=True)
class Tasks:
    """The labels of a data set, as tasks.

    Example:
        >>> tasks = Tasks(("click", "conversion"), (-1, 0))
        >>> len(tasks), tasks.pairs
        (2, [(0, 1)])
    """

    names: tuple[str, ...]
    """Labels, in the order of the logits."""
    parents: tuple[int, ...]
    """For each task the one that must hold before it can, or -1."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(parent, task) of every nested task."""
        return [(parent, task) for task, parent in enumerate(self.parents) if parent >= 0]


@dataclass(frozen=True, kw_only=True)
class ModelInputs:
    """What the schema dictates: a model's constructor gets those of these it has a parameter for.

    `num_fields`, `embed_dim` and `num_dense` are every model's first three parameters; a model that
    reads histories also takes `histories`, one that tells its slots apart by name takes `slots`,
    one that learns several labels takes `tasks`.
    """

    num_fields: int
    """F, the slots of `Embedded.fields`."""
    embed_dim: int
    """D, the width of a slot."""
    num_dense: int
    """N, the columns of `Embedded.dense`."""
    slots: tuple[str, ...] | None = None
    """Name of each slot, `field` or `field.k` for the k-th lookup; None while data is unread."""
    histories: Mapping[str, int] = field(default_factory=dict)
    """Name of each history in schema order -> width of its vectors; empty while data is unread."""
    tasks: Tasks | None = None
    """The labels, for models that learn several; None while data is unread."""


class InteractionModel(nn.Module, ABC):
    """From vectors to logits, float32 and never squashed.

    A subclass takes `num_fields`, `embed_dim` and `num_dense` (and what else of `ModelInputs` it
    needs), which the schema dictates, and its own keyword-only hyperparameters, which its YAML file
    lists with the same names and defaults.
    """

    needs_history: ClassVar[bool] = False
    """True when `forward` reads `Embedded.history` and `Embedded.target` (DIN and its kin); other
    models get each history as one mean-pooled slot."""

    needs_fields: ClassVar[bool] = True
    """False when `forward` reads only first-order weights (LR): the tables then have no vectors."""

    min_fields: ClassVar[int] = 0
    """Fewest slots that the model can work with."""

    learns_tasks: ClassVar[bool] = False
    """True when `forward` has a logit for each of several labels, [B, K]."""

    needs_linear: bool = False
    """True when `forward` reads `Embedded.linear` (LR, FM, DeepFM and their kin). A model sets it
    in its constructor, since it may depend on a hyperparameter."""

    needs_second: bool = False
    """True when `forward` reads `Embedded.second`, a second table of the same size (FGCNN,
    ARM-Net+). Set in the constructor as well."""

    joined_histories: tuple[str, ...] = ()
    """Histories that it reads side by side, event by event: changing one alone makes no row. Set in
    the constructor."""

    def __init__(self, num_fields: int, embed_dim: int, num_dense: int) -> None:
        super().__init__()
        if num_fields < self.min_fields:
            raise ConfigError(
                f"{type(self).__name__} needs at least {self.min_fields} field(s) with vectors, "
                f"got {num_fields}. Use embedding.numeric=vector, keep more columns, or choose "
                "another model."
            )
        if num_fields < 1 and num_dense < 1:
            raise ValueError(
                "the model has neither fields nor dense columns to read; the schema must keep at "
                "least one input column."
            )
        self.num_fields = num_fields
        self.embed_dim = embed_dim
        self.num_dense = num_dense

    @abstractmethod
    def forward(self, embedded: Embedded) -> Tensor:
        """Logits of a batch of vectors, in the shape of its labels."""

    def training_outputs(self, embedded: Embedded) -> tuple[Tensor, Tensor | None]:
        """What a training step needs: logits, and a loss [B] of the model's own to be added to
        each row's cross-entropy (DIEN's auxiliary loss, FinalNet's distillation), or None."""
        return self(embedded), None

    def regularization(self) -> Tensor:
        """Extra loss that does not depend on the rows, scalar; zero unless the paper has one."""
        return torch.zeros(())

    def explain(self, embedded: Embedded) -> dict[str, Tensor]:
        """Named tensors that plots show: attention [B, L, H, F, F], gates [B, F], ..."""
        return {}

    def rows_are_independent(self) -> bool:
        """True when row i's logit in training mode does not depend on the other rows.

        Such a model may be trained in blocks of rows that stay in the processor's cache; batch
        normalisation is what breaks it.
        """
        return not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in self.modules())

    def check_input(self, embedded: Embedded) -> None:
        """Raise when the batch does not have the sizes the model was built for."""
        fields, dense = tuple(embedded.fields.shape[1:]), embedded.dense.shape[1]
        if fields != (self.num_fields, self.embed_dim) or dense != self.num_dense:
            raise ValueError(
                f"{type(self).__name__} was built for fields [B, {self.num_fields}, "
                f"{self.embed_dim}] and dense [B, {self.num_dense}], got fields "
                f"{list(embedded.fields.shape)} and dense {list(embedded.dense.shape)}. Build the "
                "model from the schema of this data."
            )
        if self.needs_linear and embedded.linear is None:
            raise ValueError(
                f"{type(self).__name__} needs first-order weights, but Embedded.linear is None; "
                "build the embedding with linear=True."
            )
        if self.needs_second and embedded.second is None:
            raise ValueError(
                f"{type(self).__name__} needs a second table, but Embedded.second is None; build "
                "the embedding with second=True."
            )


class CTRModel(InteractionModel):
    """A click model: `forward(Embedded) -> logit [B]`."""
