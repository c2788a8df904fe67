"""Rows that are looked up once and scored many times, with fields weakened, amplified or shuffled.

A mask scales everything that a field brings: its vectors (a second table's too), first-order
weights, dense number, or the events of a history; the gates of OptFS and AutoField stand at the
same place. Shuffling gives every row another row's value of the field, whole, which is what
permuting its raw column does. Ids are encoded and looked up once; a pass costs the interaction
part of the model alone.

Letters   n rows, F fields, S slots, D width, V variants, P shuffles, K labels, b rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys.data.encode import EncodedTable
from recsys.embedding.embedded import Embedded, History
from recsys.embedding.lookup import table_of
from recsys.errors import SchemaError
from recsys.models.recommender import Recommender

BLOCK_ROWS = 4096
"""Rows of one forward pass, over all variants in it: they stay in the processor's cache."""
BLOCK_ROWS_CUDA = 262_144


@dataclass(frozen=True)
class Variant:
    """One way of changing what the model sees."""

    masks: Mapping[int, float] = field(default_factory=dict)
    """Position of a field -> factor, where it is not 1."""
    shuffled: Mapping[int, int] = field(default_factory=dict)
    """Position of a field -> number of the shuffle that it takes."""


class MaskedRows:
    """Log-loss of every row under any variant.

    Args:
        recommender: Trained; left in evaluation mode, on its device.
        rows: Encoded rows with labels [n] or [n, K]; rows without any label are left out. With
            several labels a row's loss is the mean over those it has.
        num_shuffles: P.
        seed: Of the shuffles.

    Raises:
        SchemaError: fewer than two rows have a label.
    """

    def __init__(
        self, recommender: Recommender, rows: EncodedTable, num_shuffles: int, seed: int = 0
    ) -> None:
        rows = _labelled(rows)
        assert rows.label is not None
        self._model = recommender.eval().model
        device = recommender.lookup.storage.device
        batch = rows.to_batch().to(device)
        with torch.no_grad():
            self._whole = recommender.lookup(batch)
        self._labels = batch.label.reshape(len(rows), -1).double()
        self._weights = torch.ones(len(rows), dtype=torch.float64, device=device)
        if batch.weight is not None:
            self._weights = batch.weight.double() / batch.weight.double().mean()
        self._block = BLOCK_ROWS if device.type == "cpu" else BLOCK_ROWS_CUDA
        rng = np.random.default_rng(seed)
        orders = np.stack([rng.permutation(len(rows)) for _ in range(num_shuffles)])
        self.orders = torch.from_numpy(orders).to(device)
        """[P, n]: in shuffle p row r has the value of row orders[p, r]."""
        self._places(recommender)

    def _places(self, recommender: Recommender) -> None:
        """Where each field stands: in slots, dense columns, histories, and targets of histories."""
        lookup, joined = recommender.lookup, recommender.model.joined_histories
        schema, plan = lookup.schema, lookup.plan
        sequences = [one.name for one in plan.sequences]
        slots = [one if one in schema.names else one.rpartition(".")[0] for one in plan.names]
        dense = [one.name for one in schema.dense] if plan.num_dense else []
        units: list[tuple[str, ...]] = []
        for name in schema.names:
            unit = joined if name in joined else (name,)
            if unit not in units and name in {*slots, *dense, *sequences}:
                units.append(unit)
        self.fields = tuple(" + ".join(unit) for unit in units)
        """F names in schema order; histories that are read side by side are one field."""
        of = {name: number for number, unit in enumerate(units) for name in unit}
        device = self._labels.device

        def places(names: Sequence[str]) -> Tensor:
            return torch.tensor([of[name] for name in names], dtype=torch.int64, device=device)

        self._of_slot, self._of_dense = places(slots), places(dense)
        self._of_history = {name: of[name] for name in sequences}
        self._targets = {
            one.name: [at for at, slot in enumerate(slots) if slot == table_of(one)]
            for one in plan.sequences
        }

    def __len__(self) -> int:
        return len(self._labels)

    def losses(
        self, variants: Sequence[Variant], progress: Callable[[int], None] | None = None
    ) -> Tensor:
        """Each row's log-loss under each variant, times its weight over the mean weight.

        Args:
            variants: V of them; costs V * n rows of the interaction model.
            progress: Told how many variants are done.

        Shape:
            return [V, n] float64, on a CPU
        """
        out = torch.empty(len(variants), len(self), dtype=torch.float64)
        for some, rows in self._blocks(len(variants)):
            part = [variants[i] for i in range(some.start, some.stop)]
            out[some, rows] = self._losses(part, rows).cpu()
            if progress is not None and rows.stop == len(self):
                progress(some.stop)
        return out

    def means(
        self, variants: Sequence[Variant], progress: Callable[[int], None] | None = None
    ) -> np.ndarray:
        """Log-loss over all rows, [V] float64."""
        parts = [
            self.losses(variants[start : start + 256]).mean(1).numpy()
            for start in self._told(range(0, len(variants), 256), progress)
        ]
        return np.concatenate(parts) if parts else np.empty(0)

    @staticmethod
    def _told(starts: range, progress: Callable[[int], None] | None) -> Iterator[int]:
        for start in starts:
            yield start
            if progress is not None:
                progress(min(start + starts.step, starts.stop))

    def _blocks(self, num_variants: int) -> Iterator[tuple[slice, slice]]:
        """Variants and rows that make a forward pass of a good size."""
        together = max(self._block // len(self), 1)
        for first in range(0, num_variants, together):
            some = slice(first, min(first + together, num_variants))
            for start in range(0, len(self), self._block):
                yield some, slice(start, min(start + self._block, len(self)))

    @torch.no_grad()
    def _losses(self, variants: Sequence[Variant], rows: slice) -> Tensor:
        """Losses [V, b] of a block of rows."""
        logits = self._model(self._embedded(variants, rows)).double()
        logits = logits.view(len(variants), rows.stop - rows.start, -1)
        labels = self._labels[rows].expand(logits.shape)
        there = ~labels.isnan()
        each = binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
        return (each * there).sum(2) / there.sum(2) * self._weights[rows]

    def _embedded(self, variants: Sequence[Variant], rows: slice) -> Embedded:
        """What the model sees: the block's rows once for each variant, variant by variant."""
        masks = torch.ones(len(variants), len(self.fields))
        for number, one in enumerate(variants):
            for at, factor in one.masks.items():
                masks[number, at] = factor
        masks = masks.to(self._labels.device)

        def changed(whole: Tensor | None, of: Tensor) -> Tensor | None:
            """A tensor [n, X, ...] of columns that belong to fields, as [V * b, X, ...]."""
            if whole is None:
                return None
            tail = (1,) * (whole.dim() - 2)
            factors = masks[:, of].reshape(len(variants), 1, len(of), *tail)
            out = whole[rows].unsqueeze(0) * factors
            for number, one in enumerate(variants):
                for at, shuffle in one.shuffled.items():
                    columns = (of == at).nonzero().squeeze(1)
                    others = self.orders[shuffle, rows].unsqueeze(1)
                    out[number][:, columns] = whole[others, columns] * factors[number][:, columns]
            return out.flatten(0, 1)

        fields = changed(self._whole.fields, self._of_slot)
        dense = changed(self._whole.dense, self._of_dense)
        assert fields is not None
        assert dense is not None
        made = Embedded(
            fields=fields,
            dense=dense,
            linear=changed(self._whole.linear, self._of_slot),
            second=changed(self._whole.second, self._of_slot),
        )
        for name, whole in self._whole.history.items():
            at = self._of_history[name]
            made.history[name] = self._history(whole, at, variants, rows)
            made.target[name] = fields[:, self._targets[name]].flatten(1)
        return made

    def _history(
        self, whole: History, at: int, variants: Sequence[Variant], rows: slice
    ) -> History:
        """The lists of a history, row by row and variant by variant."""
        own = torch.arange(rows.start, rows.stop, device=whole.offsets.device)
        taken = torch.cat(
            [self.orders[one.shuffled[at], rows] if at in one.shuffled else own for one in variants]
        )
        lengths = whole.lengths[taken]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        starts = whole.offsets[taken] - offsets[:-1]
        events = torch.arange(int(offsets[-1]), device=taken.device)
        events = events + starts.repeat_interleave(lengths, output_size=len(events))
        values = whole.values[events]
        if any(at in one.masks for one in variants):
            factors = values.new_tensor([one.masks.get(at, 1.0) for one in variants])
            factors = factors.repeat_interleave(len(own)).repeat_interleave(lengths)
            values = values * factors.unsqueeze(1)
        longest = max(1, int(lengths.max())) if len(lengths) else 1
        return History(values, offsets, longest)


def _labelled(rows: EncodedTable) -> EncodedTable:
    """The rows that have a label."""
    label = rows.label
    there = np.zeros(0) if label is None else ~np.isnan(label.reshape(len(rows), -1)).all(1)
    if there.sum() < 2:
        raise SchemaError(
            f"interactions are measured on rows with labels; {int(there.sum())} of {len(rows):,} "
            "rows have one. Give rows with the label column."
        )
    return rows if there.all() else rows.take(np.flatnonzero(there))
