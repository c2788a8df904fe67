"""How the experts of a trained model are: alive, used, learning.

Source   The three diseases that Wang et al. (HoME), KDD 2025, arXiv:2408.05430, name: expert
         collapse (outputs that are mostly zero), degradation (a shared expert that one task owns),
         underfitting (a task's own experts that it ignores, whose gradient is then small).
Letters  B rows, G experts, R readers of a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.layers.experts import Experts, Gates
from recsys.models.recommender import Recommender

NOTHING = 1e-3
"""An output counts as zero below this share of its block's root mean square: exact zeros of ReLU,
and the little that Swish leaves of what it shuts."""


@dataclass(frozen=True)
class ExpertHealth:
    """One block of experts, over some rows.

    Shape:
        zero_share     [G]  share of an expert's outputs that are zero
        gradient_norm  [G]  of the loss towards an expert's first weights
    """

    block: str
    """Name of the module."""
    names: tuple[str, ...]
    """Of the experts."""
    zero_share: np.ndarray
    gradient_norm: np.ndarray


@dataclass(frozen=True)
class GateHealth:
    """One bank of gates, over some rows.

    Shape:
        weight  [R, G]  mean weight of each expert for each reader
        mask    [R, G]  where a reader sees an expert
    """

    block: str
    readers: tuple[str, ...]
    names: tuple[str, ...]
    weight: np.ndarray
    mask: np.ndarray


def examine_experts(
    recommender: Recommender, batches: Iterable[Batch], loss: Any
) -> tuple[list[ExpertHealth], list[GateHealth]]:
    """Send rows through a model and look at its experts and gates; nothing of it changes.

    Args:
        recommender: A trained model; without experts there is nothing to find.
        batches: Rows with labels, on its device.
        loss: `(logits, batch) -> scalar`, a sum over rows: what the gradients are of.
    """
    blocks = {n: m for n, m in recommender.model.named_modules() if isinstance(m, Experts)}
    gates = {n: m for n, m in recommender.model.named_modules() if isinstance(m, Gates)}
    if not blocks:
        return [], []
    zeros: dict[str, Tensor] = {}
    weights: dict[str, Tensor] = {}
    rows, firsts = 0, [block.first_layer().weight for block in blocks.values()]
    sums = [torch.zeros_like(first) for first in firsts]
    was_training = recommender.training
    recommender.eval()
    for batch in batches:
        with outputs_of({**blocks, **gates}) as outputs:
            total = loss(recommender(batch), batch)
        for found, gradient in zip(sums, torch.autograd.grad(total, firsts), strict=True):
            found += gradient
        rows += len(batch)
        for name, output in outputs.items():
            if name in gates:
                weights[name] = weights.get(name, 0) + output.sum(dim=0)
            else:
                scale = output.square().mean().sqrt()
                dead = (output.abs() <= NOTHING * scale).float().mean(dim=2).sum(dim=0)
                zeros[name] = zeros.get(name, 0) + dead
    recommender.train(was_training)
    health = [
        ExpertHealth(
            name,
            block.names,
            (zeros[name] / rows).cpu().numpy(),
            (gradient / rows).flatten(1).norm(dim=1).cpu().numpy(),
        )
        for (name, block), gradient in zip(blocks.items(), sums, strict=True)
    ]
    used = [
        GateHealth(
            name,
            bank.readers,
            bank.names,
            (weights[name] / rows).cpu().numpy(),
            bank.mask.cpu().numpy(),
        )
        for name, bank in gates.items()
    ]
    return health, used


@contextmanager
def outputs_of(modules: dict[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Within the block, what each module returned last, detached."""
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            found[name] = output.detach()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def summary(health: list[ExpertHealth], gates: list[GateHealth]) -> dict[str, float]:
    """The worst of each disease over all blocks, as metrics.

    Returns:
        `zero_share_max`: of the expert with most zeros. `gradient_share_min`: smallest gradient
        norm over the median one of its block. `gate_weight_min`: smallest mean weight over the
        equal share of what its reader sees. `gate_owned_max`: largest share of an expert's weight
        that a single reader has, over experts that several see.
    """
    if not health:
        return {}
    ratios = [h.gradient_norm.min() / max(float(np.median(h.gradient_norm)), 1e-30) for h in health]
    least, owned = [], [0.0]
    for bank in gates:
        equal = 1 / bank.mask.sum(axis=1, keepdims=True)
        least.append(float((bank.weight / equal)[bank.mask].min()))
        for column in bank.weight.T[bank.mask.sum(axis=0) > 1]:
            owned.append(float(column.max() / max(column.sum(), 1e-30)))
    return {
        "zero_share_max": max(float(h.zero_share.max()) for h in health),
        "gradient_share_min": float(min(ratios)),
        "gate_weight_min": min(least, default=1.0),
        "gate_owned_max": max(owned),
    }
