"""HoME: a hierarchy of experts whose outputs are comparable, whose owners are fixed, and whose
gates always reach every task's own ones.

Source   Wang et al. (Kuaishou), KDD 2025, arXiv:2408.05430: expert normalisation with Swish, the
         hierarchy mask of meta and task layers, the feature gate and the self gate.
Differs  Read from the paper's first pages and from descriptions of the rest: this is a
         reconstruction of what they say, not a copy of equations. Known choices of ours: every
         layer of an expert is normalised, not the last alone; feature gates are 2 sigmoid(v A B)
         with B = 0 at the start, so that nothing is gated then, and have a fixed rank; a self gate
         of a single expert is sigmoid, of several softmax; its sum is added to that of the main
         gate.
Shapes   B rows, F slots, D embedding, N dense columns, K tasks, C categories, S inputs, I width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.experts import Experts, Gates, Towers, expert_names, visible
from recsys.layers.stacked import StackedLinear
from recsys.models.base import Tasks
from recsys.models.multitask import MTLModel

SHARED = "shared"
NORM_EPS = 1e-3


class FeatureGate(nn.Module):
    """A factor in (0, 2) for every number of each of S inputs, from that input: x * g(x).

    g(x) = sum_l softmax(x W)_l 2 sigmoid(x A_l B_l), with A_l [I, r] and B_l [r, I].

    Args:
        num: S.
        in_dim: I.
        num_loras: Low-rank maps of each input.
        rank: r.

    Shape:
        x       [B, I], of which each of the S makes its own, or [B, S, I]
        return  [B, S, I]

    Example:
        >>> FeatureGate(2, 3, num_loras=2, rank=1)(torch.ones(1, 3)).round(decimals=3).tolist()
        [[[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]]
    """

    def __init__(self, num: int, in_dim: int, *, num_loras: int, rank: int) -> None:
        super().__init__()
        self.num, self.num_loras = num, num_loras
        maps = num * num_loras
        self.down = StackedLinear(maps, in_dim, rank, [num_loras] * num, bias=False)
        self.up = StackedLinear(maps, rank, in_dim, bias=False)
        nn.init.zeros_(self.up.weight)
        self.choice = StackedLinear(num, in_dim, num_loras, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        factors = self.up(self.down(x)).sigmoid() * 2
        factors = factors.view(len(x), self.num, self.num_loras, x.shape[-1])
        gate = (self.choice(x).softmax(dim=2).unsqueeze(3) * factors).sum(dim=2)
        return gate * (x if x.dim() == 3 else x.unsqueeze(1))


class HoMEHead(nn.Module):
    """Meta layer, task layer and towers on an input of any making.

    Args:
        in_dim: Width of the input.
        tasks: K of them.
        categories: The tasks of each category, as positions.
        num_shared: Shared experts of each layer.
        num_category: Experts of each category and layer.
        num_task: Experts of each task.
        meta_dims: Hidden layers of the meta layer's experts.
        task_dims: Hidden layers of the task layer's experts.
        tower_dims: Hidden layers of each tower; none: a linear map.
        num_loras: Low-rank maps of a feature gate.
        lora_rank: Their rank.
        dropout: Probability after each hidden layer, in [0, 1).

    Shape:
        x       [B, in_dim]     what the shared experts of the meta layer read
        own     [B, K, in_dim]  a category's experts read the mean of its tasks'; None: x
        return  [B, K]          logits
    """

    of_category: Tensor
    sources: Tensor

    def __init__(
        self,
        in_dim: int,
        tasks: Tasks,
        categories: Sequence[Sequence[int]],
        *,
        num_shared: int,
        num_category: int,
        num_task: int,
        meta_dims: Sequence[int],
        task_dims: Sequence[int],
        tower_dims: Sequence[int],
        num_loras: int,
        lora_rank: int,
        dropout: float,
    ) -> None:
        super().__init__()
        category_names = [f"category {number}" for number in range(len(categories))]
        category_of = {task: number for number, one in enumerate(categories) for task in one}
        share = torch.tensor(
            [[(t in one) / len(one) for t in range(len(tasks))] for one in categories],
            device="cpu",
        )
        device = torch.get_default_device()
        self.register_buffer("of_category", share.to(device), persistent=False)

        # Meta layer: shared and category experts; no expert of a task yet.
        groups = [(SHARED, num_shared), *((name, num_category) for name in category_names)]
        names = expert_names(groups)
        readers = [name for name, _ in groups]
        every = [readers, *([SHARED, name] for name in category_names)]
        gate = {"num_loras": num_loras, "rank": lora_rank}
        self.meta_features = FeatureGate(len(readers), in_dim, **gate)
        self.meta_experts = normalised(groups, in_dim, meta_dims, dropout)
        self.meta_gates = Gates(readers, names, in_dim, visible(groups, every))
        own = visible(groups, [[reader] for reader in readers])
        self.meta_self_gates = Gates(readers, names, in_dim, own, sigmoid_alone=True)

        # Task layer: a task sees shared, its own category's and its own experts.
        width = self.meta_experts.out_dim
        positions = [1 + category_of[task] for task in range(len(tasks))]
        sources = torch.tensor([*range(len(readers)), *positions], device="cpu")
        self.register_buffer("sources", sources.to(device), persistent=False)
        groups += [(name, num_task) for name in tasks.names]
        names = expert_names(groups)
        seen = [
            [SHARED, category_names[category_of[task]], name]
            for task, name in enumerate(tasks.names)
        ]
        self.task_features = FeatureGate(len(sources), width, **gate)
        self.task_experts = normalised(groups, width, task_dims, dropout)
        self.task_gates = Gates(tasks.names, names, 2 * width, visible(groups, seen))
        own = visible(groups, [[name] for name in tasks.names])
        self.task_self_gates = Gates(tasks.names, names, width, own, sigmoid_alone=True)
        self.towers = Towers(
            len(tasks), self.task_experts.out_dim, tower_dims, activation="silu", dropout=dropout
        )

    def forward(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        if own is not None:
            x = torch.cat([x.unsqueeze(1), self.of_category @ own], dim=1)
        inputs = self.meta_features(x)
        gates = self.meta_gates(inputs) + self.meta_self_gates(inputs)
        z = self.meta_experts.mixed(inputs, gates)

        inputs = self.task_features(z[:, self.sources])
        of_tasks = inputs[:, -len(self.task_gates.readers) :]
        parts = z[:, self.sources[-len(self.task_gates.readers) :]]
        both = torch.cat([parts, z[:, :1].expand_as(parts)], dim=2)
        gates = self.task_gates(both) + self.task_self_gates(of_tasks)
        logits: Tensor = self.towers(self.task_experts.mixed(inputs, gates))
        return logits


def normalised(
    groups: Sequence[tuple[str, int]], in_dim: int, hidden_dims: Sequence[int], dropout: float
) -> Experts:
    """Experts of several groups, each group with an input of its own: Swish(BN(.)) at each layer,
    which keeps their outputs alive and of one scale."""
    return Experts(
        expert_names(groups),
        in_dim,
        hidden_dims,
        counts=[count for _, count in groups],
        activation="silu",
        dropout=dropout,
        batch_norm=True,
        norm_eps=NORM_EPS,
    )


class HoME(MTLModel):
    """Hierarchy of multi-gate experts.

    Args:
        categories: Tasks that belong together, `[[click, long_view], [like, follow]]`: every task
            in exactly one; null: all in one. In the paper, what is watched and what is done.
        num_shared: Shared experts of each layer.
        num_category: Experts of each category and layer.
        num_task: Experts of each task.
        meta_dims: Hidden layers of the meta layer's experts.
        task_dims: Hidden layers of the task layer's experts.
        tower_dims: Hidden layers of each tower; none: a linear map.
        num_loras: Low-rank maps of a feature gate.
        lora_rank: Their rank.
        dropout: Probability after each hidden layer, in [0, 1).

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B, K]     float32 logits

    Raises:
        ConfigError: The categories do not partition the tasks.

    Example:
        >>> tasks = Tasks(("click", "like", "follow"), (-1, -1, -1))
        >>> model = HoME(
        ...     num_fields=3, embed_dim=4, num_dense=0, tasks=tasks,
        ...     categories=[["click"], ["like", "follow"]],
        ... )
        >>> model(Embedded.random(batch=2, fields=3, dim=4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        tasks: Tasks | None = None,
        *,
        categories: Sequence[Sequence[str]] | None = None,
        num_shared: int = 2,
        num_category: int = 2,
        num_task: int = 1,
        meta_dims: Sequence[int] = (128,),
        task_dims: Sequence[int] = (64,),
        tower_dims: Sequence[int] = (64,),
        num_loras: int = 2,
        lora_rank: int = 16,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense, tasks)
        sizes = {
            "num_shared": num_shared, "num_category": num_category, "num_task": num_task,
            "num_loras": num_loras, "lora_rank": lora_rank,
        }  # fmt: skip
        for key, value in sizes.items():
            if value < 1:
                raise ConfigError(f"{key} is {value}; it must be at least 1.")
        self.head = HoMEHead(
            self.flat_dim,
            self.tasks,
            partition(categories, self.tasks if self.tasks_known else None),
            num_shared=num_shared,
            num_category=num_category,
            num_task=num_task,
            meta_dims=meta_dims,
            task_dims=task_dims,
            tower_dims=tower_dims,
            num_loras=num_loras,
            lora_rank=lora_rank,
            dropout=dropout,
        )

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        logits: Tensor = self.head(embedded.flat())
        return logits


def partition(categories: Sequence[Sequence[str]] | None, tasks: Tasks | None) -> list[list[int]]:
    """Categories of task names as positions, checked; while tasks are unknown, one of two tasks.

    Raises:
        ConfigError: a name is unknown, or a task is in no category or in several.

    Example:
        >>> partition([["like"], ["click"]], Tasks(("click", "like"), (-1, -1)))
        [[1], [0]]
    """
    shape = isinstance(categories, Sequence) and not isinstance(categories, str)
    if categories is not None and (
        not shape or not categories or any(isinstance(one, str) or not one for one in categories)
    ):
        raise ConfigError(
            f"categories is {categories}; it is a list of lists of labels, such as "
            "[[click,long_view],[like,follow]], or null."
        )
    if tasks is None:
        return [[0, 1]]
    if categories is None:
        return [list(range(len(tasks)))]
    given = [name for one in categories for name in one]
    for name in given:
        if name not in tasks.names:
            raise ConfigError(
                f'categories has "{name}", which is no label of this data.'
                f"{did_you_mean(name, tasks.names)}"
            )
    wrong = [name for name in tasks.names if given.count(name) != 1]
    if wrong:
        told = ", ".join(f"{name} {given.count(name)} times" for name in wrong)
        raise ConfigError(
            f"categories must hold every label exactly once, but there is {told}. Labels: "
            f"{', '.join(tasks.names)}."
        )
    return [[tasks.names.index(name) for name in one] for one in categories]
