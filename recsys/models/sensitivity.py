"""First-order importance of fields in a trained model: no column is permuted, nothing refitted.

    mask     |d loss / d m_f| at m_f = 1, where m_f scales everything that field f brings; its mean
             over batches. Source: SFS (Wang et al., CIKM 2022), as in the benchmark ERASE (Jia
             et al., KDD 2024).
    removal  mean over rows of |g . (mean - e)|: what a row's loss would change, to first order, if
             the field's vector e were its mean. Source: SHARK (Zhang et al., CIKM 2023), F-Perm.

Both rank fields at the cost of one backward pass, where permutations cost one forward pass for each
field and repeat. They see a field only as far as the loss is linear in it.

Differs  First-order weights and a second table count as parts of their field; numbers without a
vector are vectors of width one. With several labels the loss is the mean over those that are there.
A history that the model reads as a sequence is no slot, and is not ranked.

Letters   B rows, F fields, D width, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys.data.batch import Batch
from recsys.embedding.embedded import Embedded
from recsys.errors import SchemaError
from recsys.models.recommender import Recommender


@dataclass(frozen=True)
class Sensitivity:
    """Importance of each field, in nats of log-loss.

    Shape:
        mask, removal  [F] float64
    """

    fields: tuple[str, ...]
    mask: np.ndarray
    removal: np.ndarray
    num_rows: int


def sensitivity(recommender: Recommender, batches: Sequence[Batch]) -> Sensitivity:
    """Measure a model in evaluation mode.

    Args:
        recommender: Trained.
        batches: Labelled rows, gone through twice.

    Raises:
        SchemaError: there are no rows.
    """
    if not batches:
        raise SchemaError("sensitivity needs labelled rows; give some.")
    recommender.eval()
    device = recommender.lookup.storage.table().device
    slots = _slots(recommender)
    fields = tuple(name for name in recommender.lookup.schema.names if name in slots)
    of_slot = torch.tensor([fields.index(one) for one in slots], device=device)
    means, rows = _means(recommender, batches, device)
    mask, removal = torch.zeros(2, len(fields), dtype=torch.float64, device=device)
    for batch in batches:
        embedded = _looked_up(recommender, batch, device)
        parts = _parts(embedded)
        for part in parts.values():
            part.requires_grad_(True)
        for name, part in parts.items():
            setattr(embedded, name, part)
        loss = _loss(recommender.model(embedded), batch.label.to(device))
        found = torch.autograd.grad(loss, list(parts.values()), allow_unused=True)
        scaled, moved = torch.zeros(2, len(batch), len(slots), dtype=torch.float64, device=device)
        for (name, part), gradient in zip(parts.items(), found, strict=True):
            if gradient is None:
                continue
            at = _columns(name, part, len(slots))
            scaled[:, at] += _dot(gradient, part.detach())
            moved[:, at] += _dot(gradient, means[name] - part.detach())
        by_field = torch.zeros(2, len(batch), len(fields), dtype=torch.float64, device=device)
        by_field[0].index_add_(1, of_slot, scaled)
        by_field[1].index_add_(1, of_slot, moved)
        mask += by_field[0].sum(0).abs()
        removal += by_field[1].abs().sum(0)
    return Sensitivity(fields, (mask / rows).cpu().numpy(), (removal / rows).cpu().numpy(), rows)


def _slots(recommender: Recommender) -> list[str]:
    """The field of each slot, then of each dense column."""
    schema, plan = recommender.lookup.schema, recommender.lookup.plan
    names = [one if one in schema.names else one.rpartition(".")[0] for one in plan.names]
    return names + ([one.name for one in schema.dense] if plan.num_dense else [])


def _looked_up(recommender: Recommender, batch: Batch, device: torch.device) -> Embedded:
    with torch.no_grad():
        return recommender.lookup(batch.to(device))


def _parts(embedded: Embedded) -> dict[str, Tensor]:
    """What belongs to slots or dense columns, apart from the tables."""
    every = {name: getattr(embedded, name) for name in ("fields", "second", "linear", "dense")}
    return {
        name: part.detach().clone()
        for name, part in every.items()
        if part is not None and part.shape[1]
    }


def _means(
    recommender: Recommender, batches: Sequence[Batch], device: torch.device
) -> tuple[dict[str, Tensor], int]:
    """Mean of every part over the rows, and their number."""
    sums: dict[str, Tensor] = {}
    rows = 0
    for batch in batches:
        for name, part in _parts(_looked_up(recommender, batch, device)).items():
            total = part.double().sum(0)
            sums[name] = sums[name] + total if name in sums else total
        rows += len(batch)
    return {name: (total / rows).float() for name, total in sums.items()}, rows


def _columns(name: str, part: Tensor, num_slots: int) -> slice:
    """Where a part's columns stand among slots and dense columns."""
    return slice(num_slots - part.shape[1], num_slots) if name == "dense" else slice(part.shape[1])


def _dot(gradient: Tensor, value: Tensor) -> Tensor:
    """[B, F, D] or [B, F] to [B, F]."""
    product = (gradient * value).double()
    return product.sum(-1) if product.dim() == 3 else product


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum over rows of the mean over their labels."""
    logits, labels = logits.reshape(len(logits), -1), labels.reshape(len(logits), -1)
    there = ~labels.isnan()
    each = binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
    return ((each * there).sum(1) / there.sum(1).clamp(min=1)).sum()
