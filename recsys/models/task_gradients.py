"""Whether tasks pull what they share in one direction or against each other.

Source   Yu et al. (PCGrad), NeurIPS 2020, arXiv:2001.06782, definition 1: two tasks conflict where
         the cosine of their gradients is below zero.
Differs  The cosine is taken over the numbers that both tasks move, not over all: what belongs to
         one task alone says nothing about a conflict, and would only draw every cosine to zero.
Letters  K tasks, P numbers.
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
from recsys.models.recommender import Recommender


@dataclass(frozen=True)
class TaskGradients:
    """Cosines between the gradients of tasks, over some rows.

    Shape:
        weights  [K, K]  towards the dense weights; NaN where two tasks share none
        vectors  [K, K]  towards the rows of the tables, each row's gradient summed over the
                         positions that read it; NaN as above
    """

    tasks: tuple[str, ...]
    weights: np.ndarray
    vectors: np.ndarray

    def least(self) -> dict[str, float]:
        """The worst conflict of each kind; nothing where no two tasks share anything."""
        pairs = np.triu_indices(len(self.tasks), 1)
        found = {"weights": self.weights[pairs], "vectors": self.vectors[pairs]}
        return {
            f"cosine_{name}_min": float(np.nanmin(values))
            for name, values in found.items()
            if np.isfinite(values).any()
        }


def task_gradients(
    recommender: Recommender, batches: Iterable[Batch], losses: Any
) -> TaskGradients | None:
    """Send rows through a model and compare its tasks; nothing of it changes.

    Args:
        recommender: A trained model of several labels; None is returned for one.
        batches: Rows with labels, on its device.
        losses: `(logits, batch) -> [K]`, sums over rows.
    """
    tasks = recommender.lookup.schema.labels
    if len(tasks) < 2:
        return None
    parameters = [p for p in recommender.model.parameters() if p.requires_grad]
    total = [torch.zeros(len(tasks), p.numel(), device=p.device) for p in parameters]
    # Dot products of tasks, and squared lengths over what the other task moves too.
    dot, length = torch.zeros(2, len(tasks), len(tasks), dtype=torch.float64)
    was_training = recommender.training
    recommender.eval()
    for batch in batches:
        with reads_of(recommender.lookup.storage) as reads:
            by_task = losses(recommender(batch), batch)
        outputs = [vectors for _, vectors in reads]
        rows = [_gradients(loss, [*outputs, *parameters]) for loss in by_task]
        for at, found in enumerate(total):
            found += torch.stack([row[len(outputs) + at] for row in rows])
        if reads:
            distinct, inverse = torch.cat([index for index, _ in reads]).unique(return_inverse=True)
            per_read = torch.stack(
                [
                    torch.cat([flat.view_as(v) for flat, v in zip(row, outputs, strict=False)])
                    for row in rows
                ]
            )
            summed = per_read.new_zeros(len(tasks), len(distinct), per_read.shape[2])
            _compare(summed.index_add_(1, inverse, per_read).flatten(1), dot, length)
    recommender.train(was_training)
    vectors_cosine = _cosine(dot, length)
    dot, length = torch.zeros(2, len(tasks), len(tasks), dtype=torch.float64)
    for found in total:
        _compare(found, dot, length)
    return TaskGradients(tasks, _cosine(dot, length), vectors_cosine)


def _gradients(loss: Tensor, towards: list[Tensor]) -> list[Tensor]:
    """Flat gradients, zeros where a tensor plays no part."""
    found = torch.autograd.grad(loss, towards, retain_graph=True, allow_unused=True)
    return [
        (torch.zeros_like(tensor) if gradient is None else gradient).flatten()
        for tensor, gradient in zip(towards, found, strict=True)
    ]


def _compare(gradients: Tensor, dot: Tensor, length: Tensor) -> None:
    """Add dot products and lengths of gradients [K, P]; zeros are what a task does not move."""
    gradients = gradients.double()
    dot += (gradients @ gradients.T).cpu()
    length += (gradients.square() @ (gradients != 0).double().T).cpu()


def _cosine(dot: Tensor, length: Tensor) -> np.ndarray:
    both = (length * length.T).sqrt()
    return torch.where(both > 0, dot / both, torch.nan).clamp(-1.0, 1.0).numpy()


@contextmanager
def reads_of(storage: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Within the block, what was read of a table: rows [n] and their vectors [n, W].

    A bag's sum stands for each of its rows: the gradient of a sum is that of every term.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor | None]) -> Any:
        rows, bag_rows, bag_offsets = (*inputs, None, None)[:3]
        vectors, bags = output
        if not vectors.requires_grad:
            vectors = vectors.detach().requires_grad_()
        if len(rows):
            found.append((rows, vectors))
        if bags is None or bag_rows is None or bag_offsets is None or not len(bag_rows):
            return vectors, bags
        bag = torch.arange(len(bag_offsets) - 1, device=bag_rows.device)
        bag = bag.repeat_interleave(bag_offsets.diff(), output_size=len(bag_rows))
        # Each read gets a tensor of its own, so that its gradient can be asked for.
        reads = torch.zeros(len(bag_rows), bags.shape[1], device=bags.device, requires_grad=True)
        found.append((bag_rows, reads))
        return vectors, bags + torch.zeros_like(bags).index_add(0, bag, reads)

    handle = storage.register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()
