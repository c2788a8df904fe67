"""DTRN: every task reads behaviour histories and fields in its own way, below any head.

Source   Liu et al., CIKM 2023, arXiv:2308.05996: the task-specific interest module (several
         behaviour histories through a parameter-efficient hypernetwork) and the task-specific
         representation refinement (like SENet).
Differs  Built from the abstract, which is what is public; all else is our reconstruction. Interest:
         one self-attention block per history is shared by the tasks, and its layer norm's gain and
         shift come from a small network of (task, history) embeddings; since that is linear in the
         normalised events, attention of K tasks costs one product with K queries, not K blocks.
         Refinement: w = 2 sigmoid(W2 relu(W1 [means of slots, task])), W2 = 0 at the start. Shared
         experts read the unrefined slots with the tasks' mean interest.
Shapes   B rows, F slots, D embedding, N dense columns, K tasks, P events of all rows, T the longest
         history, C width of an embedding of tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded, History
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.history_units import HistoryUnits
from recsys.layers.mlp import init_linear
from recsys.models.base import Tasks
from recsys.models.mtl.home import HoMEHead, partition
from recsys.models.mtl.mmoe import MMoEHead
from recsys.models.mtl.ple import PLEHead
from recsys.models.multitask import MTLModel

HEADS = ("mmoe", "ple", "home")


class TaskInterest(nn.Module):
    """What each task takes from one history, given the item at hand.

    n_j = LayerNorm(x_j + SelfAttention(x)_j) without gain and shift; those of task k are
    gamma_k, delta_k; the interest is sum_j a_kj (gamma_k n_j + delta_k) with
    a_kj = softmax_j(target . (gamma_k n_j + delta_k) / sqrt(D)). A row without events has zeros.

    Args:
        width: D of the events and of the target.
        condition_dim: C of tasks and of the history, side by side.
        hyper_dim: Hidden units of the hypernetwork.

    Shape:
        history    P events of width D
        target     [B, D]
        condition  [K, 2 C]
        return     [B, K, D]
    """

    def __init__(self, width: int, condition_dim: int, hyper_dim: int) -> None:
        super().__init__()
        self.width = width
        self.projections = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.hyper = nn.Sequential(
            nn.Linear(condition_dim, hyper_dim), nn.ReLU(), nn.Linear(hyper_dim, 2 * width)
        )
        init_linear(self)
        last = self.hyper[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)  # an ordinary layer norm at the start

    def forward(self, history: History, target: Tensor, condition: Tensor) -> Tensor:
        gamma, delta = self.hyper(condition).chunk(2, dim=1)  # [K, D] each
        gamma = gamma + 1
        x, mask = history.padded()
        q, k, v = self.projections(x).chunk(3, dim=2)
        # Rows without events attend to their padding, and are emptied below: a softmax of nothing
        # would be NaN, and its gradient too.
        some = mask.any(dim=1)[:, None, None]
        seen = mask.unsqueeze(1) | ~some
        attended = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        n = nn.functional.layer_norm(x + self.output(attended), (self.width,))
        # target . delta_k is the same for all events: the softmax does not see it.
        queries = target.unsqueeze(1) * gamma / self.width**0.5  # [B, K, D]
        scores = torch.bmm(queries, n.transpose(1, 2)).masked_fill(~seen, -torch.inf)
        taken = torch.bmm(scores.softmax(dim=2), n) * gamma + delta
        return torch.where(some, taken, 0.0)


class DTRN(MTLModel):
    """Deep task-specific bottom representation: own interests and own field weights per task.

    Args:
        head: mmoe, ple or home: what lies above, at the sizes below.
        task_dim: Width of the embeddings of tasks and of histories, C.
        hyper_dim: Hidden units of the hypernetwork and of the refinement.
        num_shared: Shared experts (of every level).
        num_specific: Experts of each task (ple, home), and of each category (home).
        expert_dims: Hidden layers of an expert; home: the first is the meta layer's, the rest the
            task layer's; ple: a level each.
        tower_dims: Hidden layers of each tower; none: a linear map.
        categories: home: tasks that belong together; null: all in one.
        dropout: Probability after each hidden layer, in [0, 1).

    Shape:
        fields   [B, F, D]  float32
        dense    [B, N]     float32
        history  name -> [P, D], jagged
        target   name -> [B, D]
        return   [B, K]     float32 logits

    Raises:
        ConfigError: The data has no history.

    Example:
        >>> tasks = Tasks(("click", "like"), (-1, -1))
        >>> model = DTRN(
        ...     num_fields=3, embed_dim=4, num_dense=0, histories={"clicked": 4}, tasks=tasks
        ... )
        >>> model(Embedded.random(batch=2, fields=3, dim=4, histories={"clicked": 5})).shape
        torch.Size([2, 2])
    """

    needs_history: ClassVar[bool] = True

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        slots: tuple[str, ...] | None = None,
        histories: Mapping[str, int] | None = None,
        tasks: Tasks | None = None,
        *,
        head: str = "mmoe",
        task_dim: int = 16,
        hyper_dim: int = 32,
        num_shared: int = 4,
        num_specific: int = 2,
        expert_dims: Sequence[int] = (128, 64),
        tower_dims: Sequence[int] = (64,),
        categories: Sequence[Sequence[str]] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense, tasks)
        if head not in HEADS:
            raise ConfigError(f'head is "{head}".{did_you_mean(head, HEADS)}')
        self.units = HistoryUnits("DTRN", embed_dim, slots, histories, joint=False)
        widths = self.units.widths
        self.task_embedding = nn.Parameter(torch.randn(len(self.tasks), task_dim))
        self.history_embedding = nn.Parameter(torch.randn(len(widths), task_dim))
        self.interests = nn.ModuleList(
            TaskInterest(width, 2 * task_dim, hyper_dim) for width in widths.values()
        )
        self.squeeze = nn.Linear(num_fields + task_dim, hyper_dim)
        self.excite = nn.Linear(hyper_dim, num_fields)
        init_linear(self.squeeze)
        nn.init.zeros_(self.excite.weight)
        nn.init.zeros_(self.excite.bias)
        self.head = self._head(
            head,
            self.flat_dim + sum(widths.values()),
            num_shared=num_shared,
            num_specific=num_specific,
            expert_dims=expert_dims,
            tower_dims=tower_dims,
            categories=categories,
            dropout=dropout,
        )

    def _head(
        self,
        head: str,
        in_dim: int,
        *,
        num_shared: int,
        num_specific: int,
        expert_dims: Sequence[int],
        tower_dims: Sequence[int],
        categories: Sequence[Sequence[str]] | None,
        dropout: float,
    ) -> nn.Module:
        if categories is not None and head != "home":
            raise ConfigError(f"categories is {categories}, which head={head} has no use for.")
        if head == "mmoe":
            return MMoEHead(
                in_dim, self.tasks, num_experts=num_shared, expert_dims=expert_dims,
                tower_dims=tower_dims, activation="relu", dropout=dropout, gate_dropout=0.0,
                batch_norm=False,
            )  # fmt: skip
        if head == "ple":
            return PLEHead(
                in_dim, self.tasks, num_specific=num_specific, num_shared=num_shared,
                levels=[[width] for width in expert_dims], tower_dims=tower_dims,
                activation="relu", dropout=dropout, gate_dropout=0.0, batch_norm=False,
            )  # fmt: skip
        if len(expert_dims) < 2:
            raise ConfigError(
                f"expert_dims is {list(expert_dims)}; head=home needs the width of the meta layer "
                "and that of the task layer, such as [128, 64]."
            )
        return HoMEHead(
            in_dim, self.tasks, partition(categories, self.tasks if self.tasks_known else None),
            num_shared=num_shared, num_category=num_specific, num_task=num_specific,
            meta_dims=expert_dims[:1], task_dims=expert_dims[1:], tower_dims=tower_dims,
            num_loras=2, lora_rank=16, dropout=dropout,
        )  # fmt: skip

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        interests = [
            interest(history, target, self._condition(number))
            for number, (interest, (history, target)) in enumerate(
                zip(self.interests, self.units.of(embedded), strict=True)
            )
        ]
        taken = torch.cat(interests, dim=2)  # [B, K, sum of widths]
        refined = embedded.fields.unsqueeze(1) * self.field_weights(embedded).unsqueeze(3)
        parts = [refined.flatten(2), taken]
        common = [embedded.fields.flatten(1), taken.mean(dim=1)]
        if self.num_dense:
            parts.insert(1, embedded.dense.unsqueeze(1).expand(-1, len(self.tasks), -1))
            common.insert(1, embedded.dense)
        logits: Tensor = self.head(torch.cat(common, dim=1), torch.cat(parts, dim=2))
        return logits

    def field_weights(self, embedded: Embedded) -> Tensor:
        """Factor in (0, 2) of each slot for each task, [B, K, F]."""
        tasks = self.task_embedding.expand(len(embedded), -1, -1)
        means = embedded.fields.mean(dim=2).unsqueeze(1).expand(-1, len(self.tasks), -1)
        hidden = self.squeeze(torch.cat([means, tasks], dim=2)).relu()
        weights: Tensor = self.excite(hidden).sigmoid() * 2
        return weights

    def _condition(self, history: int) -> Tensor:
        of_history = self.history_embedding[history].expand(len(self.tasks), -1)
        return torch.cat([self.task_embedding, of_history], dim=1)

    @torch.no_grad()
    def explain(self, embedded: Embedded) -> dict[str, Tensor]:
        """`gates.<task>` [B, F]: what each slot is multiplied by for a task."""
        self.check_input(embedded)
        weights = self.field_weights(embedded).unbind(dim=1)
        return {f"gates.{name}": one for name, one in zip(self.tasks.names, weights, strict=True)}
