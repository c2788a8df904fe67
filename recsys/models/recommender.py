"""A whole model: the embedding lookup and the interaction model on top of it.

Letters   B rows, K labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.data.schema import Schema
from recsys.embedding.lookup import EmbeddingLookup, EmbeddingOptions, SlotPlan, table_of
from recsys.embedding.storage import Storage
from recsys.errors import ConfigError
from recsys.models.base import InteractionModel, ModelInputs, Tasks


class Recommender(nn.Module):
    """`Batch -> logits`, [B] for one label, [B, K] for several.

    Args:
        lookup: Turns ids into vectors.
        model: Turns vectors into logits.
    """

    def __init__(self, lookup: EmbeddingLookup, model: InteractionModel) -> None:
        super().__init__()
        self.lookup = lookup
        self.model = model

    @classmethod
    def build(
        cls,
        schema: Schema,
        embedding: EmbeddingOptions,
        make_model: Callable[[ModelInputs], InteractionModel],
        make_storage: Callable[[int, int], Storage],
        pool_histories: bool = True,
        vectors: bool = True,
        kept: Mapping[str, Tensor] | None = None,
        separate_tables: bool = False,
    ) -> Recommender:
        """Size the model by the schema, then the lookup by what the model wants.

        Args:
            schema: Fitted schema.
            embedding: Layout and width.
            make_model: From what the schema dictates to the model.
            make_storage: `(num_rows, width) -> Storage`.
            pool_histories: False when the model reads `Embedded.history`.
            vectors: False when it reads only `Embedded.linear`.
            kept: Table name -> mask of its rows that a gate left; None for all.
            separate_tables: True when each label has vectors of its own: rows are then as many
                times as wide.
        """
        tasks = Tasks(schema.labels, schema.parents)
        if separate_tables:
            embedding = dataclasses.replace(embedding, dim=embedding.dim * len(tasks))
        layout = embedding.build_layout(schema)
        plan = SlotPlan.of(schema, layout, embedding.numeric, pool_histories)
        model = make_model(
            ModelInputs(
                num_fields=plan.num_fields,
                embed_dim=embedding.dim if vectors else 0,
                num_dense=plan.num_dense,
                slots=plan.names,
                histories={
                    field.name: embedding.dim * layout.table(table_of(field)).lookups
                    for field in plan.sequences
                },
                tasks=tasks,
            )
        )
        if len(tasks) > 1 and not model.learns_tasks:
            raise ConfigError(
                f"{type(model).__name__} learns one label, but this data has {len(tasks)}: "
                f"{', '.join(tasks.names)}. Choose one of them, data.labels=[{tasks.names[0]}], or "
                "an mtl model."
            )
        lookup = EmbeddingLookup(
            schema,
            embedding,
            make_storage,
            linear=model.needs_linear,
            second=model.needs_second,
            pool_histories=pool_histories,
            vectors=vectors,
            kept=kept,
        )
        return cls(lookup, model)

    def forward(self, batch: Batch) -> Tensor:
        return self.model(self.lookup(batch))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that prediction needs, by name: `model.*`, `numeric`, `tables.<table>.*`."""
        out = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        out["numeric"] = self.lookup.numeric.detach()
        for name, value in self.lookup.tables_state().items():
            out[f"tables.{name}"] = value
        return out

    @torch.no_grad()
    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `tensors`.

        Raises:
            KeyError, ValueError, RuntimeError: names or shapes belong to another model.
        """

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        if tensors["numeric"].shape != self.lookup.numeric.shape:
            raise ValueError(
                f"numeric vectors are {list(tensors['numeric'].shape)} in the checkpoint and "
                f"{list(self.lookup.numeric.shape)} here"
            )
        self.lookup.numeric.copy_(tensors["numeric"])
        self.lookup.load_tables_state(part("tables."))

    def num_parameters(self) -> dict[str, int]:
        """Trainable numbers: in the tables, and outside them."""
        dense = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        embedding = self.lookup.storage.num_weights
        return {"embedding": embedding, "dense": dense + self.lookup.numeric.numel()}
