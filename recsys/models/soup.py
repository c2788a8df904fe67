"""Soups: one model whose weights are the mean of several that began alike.

Source   Wortsman et al., "Model soups", ICML 2022, arXiv:2203.05482: uniform soup, and Recipe 1
         (greedy soup).
Differs  None in the mean, which is taken in float64. That two runs began with the same weights and
         give every value the same code is not taken on trust: digests of both are compared.

Runs that begin with the same weights end in one basin of the loss more often than not, where the
mean of their weights is a good model of the same size; runs of two initialisations do not: their
hidden units, and the axes of their vectors, stand for different things.

Letters   M ingredients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from recsys.data.encode import FeaturePipeline
from recsys.errors import CheckpointError, ConfigError
from recsys.models.saved import FORMAT, WEIGHTS, ModelSpec, no_model, read_card
from recsys.models.saved_cf import is_cf

Weights: TypeAlias = Mapping[str, Tensor]
_LAYOUT = ("layout", "dim", "ratio", "lookups", "numeric")
"""Embedding options that say what a row of a table means."""


class Mean:
    """The running mean of models' weights; whole numbers (batch counters) are those of the first.

    Example:
        >>> mean = Mean()
        >>> mean.add({"w": torch.tensor([1.0])})
        >>> mean.plus({"w": torch.tensor([3.0])})["w"], mean.weights()["w"]
        (tensor([2.]), tensor([1.]))
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self._types: dict[str, torch.dtype] = {}

    def add(self, weights: Weights) -> None:
        """Take a model in."""
        if not self.count:
            self._types = {name: one.dtype for name, one in weights.items()}
            self._sums = {name: _wide(one).clone() for name, one in weights.items()}
        else:
            for name, total in self._sums.items():
                if total.is_floating_point():
                    total += weights[name]
        self.count += 1

    def weights(self) -> dict[str, Tensor]:
        """Of the models so far."""
        return {name: self._narrow(name, one, self.count) for name, one in self._sums.items()}

    def plus(self, weights: Weights) -> dict[str, Tensor]:
        """What the mean would be with one model more."""
        return {
            name: self._narrow(
                name,
                total + weights[name] if total.is_floating_point() else total,
                self.count + 1,
            )
            for name, total in self._sums.items()
        }

    def _narrow(self, name: str, total: Tensor, count: int) -> Tensor:
        mean = total / count if total.is_floating_point() else total.clone()
        return mean.to(self._types[name])


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


@dataclass(frozen=True)
class Soup:
    """Which ingredients were kept, and what they make."""

    kept: tuple[int, ...]
    """In the order in which they were taken."""
    weights: dict[str, Tensor]
    scores: tuple[float, ...]
    """Of the soup after each of them."""


def uniform_soup(ingredients: Sequence[Callable[[], Weights]]) -> dict[str, Tensor]:
    """The mean of all.

    Args:
        ingredients: M of them, loaded one at a time.
    """
    mean = Mean()
    for load in ingredients:
        mean.add(load())
    return mean.weights()


def greedy_soup(
    ingredients: Sequence[Callable[[], Weights]],
    scores: Sequence[float],
    score: Callable[[Weights], float],
) -> Soup:
    """The best ingredient, and each other one, best first, whose addition makes the soup better.

    Args:
        ingredients: M of them, loaded one at a time.
        scores: Of each by itself on held-out rows, higher is better.
        score: Of a soup on the same rows.

    Example:
        >>> makers = [lambda w=w: {"w": torch.tensor(w)} for w in (0.0, 4.0, 9.0)]
        >>> soup = greedy_soup(makers, [2.0, 3.0, 1.0], lambda s: 3.9 - abs(s["w"].item() - 3))
        >>> soup.kept, soup.weights["w"]
        ((1,), tensor(4.))
    """
    order = sorted(range(len(ingredients)), key=lambda i: -scores[i])
    mean, kept, reached = Mean(), [order[0]], [scores[order[0]]]
    mean.add(ingredients[order[0]]())
    for index in order[1:]:
        weights = ingredients[index]()
        found = score(mean.plus(weights))
        if found > reached[-1]:
            mean.add(weights)
            kept.append(index)
            reached.append(found)
    return Soup(tuple(kept), mean.weights(), tuple(reached))


@dataclass(frozen=True)
class Ingredient:
    """A finished run of a network, its weights unread."""

    name: str
    """What a person calls it."""
    folder: Path
    """Of its saved model."""
    spec: ModelSpec
    embedding: Mapping[str, Any]
    facts: Mapping[str, Any]
    pipeline: FeaturePipeline
    pipeline_digest: str

    @classmethod
    def open(cls, name: str, folder: Path) -> Ingredient:
        """Read all but the weights.

        Raises:
            ConfigError: it is of a kind that cannot be averaged.
            CheckpointError: the folder is damaged.
        """
        if is_cf(folder):
            raise ConfigError(
                f"{name} is a model of users and items; soups are of ctr and mtl networks. "
                "pipelines.blend adds up what such models score."
            )
        card = read_card(folder, FORMAT)
        spec = ModelSpec(**card["model"])
        if spec.boosted:
            raise ConfigError(f"{name} is made of trees, which have no weights to average.")
        if "tables" in card:
            raise ConfigError(
                f"{name} is a copy with {card['tables']} tables. Name the run it was made of, "
                f"{card['facts'].get('run_id')}."
            )
        try:
            with safe_open(folder / WEIGHTS, framework="pt") as file:
                pruned = any(key.endswith(".kept") for key in file.keys())  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise no_model(folder, error) from error
        if pruned:
            raise ConfigError(
                f"{name} was trained with gate=optfs: its tables have only the rows that its own "
                "gates left. Train without a gate."
            )
        if card["embedding"].get("vocabulary", "fitted") != "fitted":
            raise ConfigError(
                f"{name} was trained with embedding.vocabulary=dynamic: its rows belong to the ids "
                "that its own training gave them to. Train with a fitted vocabulary."
            )
        pipeline = FeaturePipeline.load(folder / "pipeline")
        return cls(
            name, folder, spec, card["embedding"], card["facts"], pipeline, pipeline.digest()
        )

    def weights(self) -> dict[str, Tensor]:
        """All of them, from the disk.

        Raises:
            CheckpointError: the file is damaged.
        """
        try:
            return load_file(self.folder / WEIGHTS)
        except (OSError, ValueError, SafetensorError) as error:
            raise CheckpointError(
                f"the weights in {self.folder} cannot be read: {error}"
            ) from error


def check_alike(ingredients: Sequence[Ingredient]) -> None:
    """Refuse what must not be averaged.

    Raises:
        ConfigError: other models, other codes, another beginning, or one run alone; with the
            reason.
    """
    if len({one.folder.resolve() for one in ingredients}) < 2:
        named = ", ".join(one.name for one in ingredients) or "none"
        raise ConfigError(
            f"runs=[{named}]; a soup needs two or more different runs. Example: "
            "python -m pipelines.soup 'runs=[<run id>,<run id>]'"
        )
    first = ingredients[0]
    for one in ingredients[1:]:
        both = f"{first.name} and {one.name}"
        if one.spec.target != first.spec.target:
            raise ConfigError(
                f"{both} are different models, {first.spec.class_name} and {one.spec.class_name}: "
                "their weights have nothing in common."
            )
        # Dropout acts in training alone; all else is part of what the weights mean.
        keys = sorted({*one.spec.arguments, *first.spec.arguments})
        mine = {key: first.spec.arguments.get(key) for key in keys if "dropout" not in key}
        its = {key: one.spec.arguments.get(key) for key in keys if "dropout" not in key}
        mine |= {f"embedding.{key}": first.embedding.get(key) for key in _LAYOUT}
        its |= {f"embedding.{key}": one.embedding.get(key) for key in _LAYOUT}
        differ = [key for key in mine if mine[key] != its[key]]
        if differ:
            told = ", ".join(f"{key}={mine[key]} and {its[key]}" for key in differ)
            raise ConfigError(
                f"{both} are built differently ({told}): a weight of one is not that of the other. "
                "Average runs that differ in learning rate, batches, dropout, length or seed of "
                "the batches alone."
            )
        if one.pipeline_digest != first.pipeline_digest:
            raise ConfigError(
                f"{both} give values different codes: their vocabularies or scales were fitted on "
                "other rows, so one row of a table stands for different values. Train both on "
                "the same data."
            )
        begins = [run.facts.get("initial_digest") for run in (first, one)]
        if None in begins:
            raise ConfigError(
                f"{(first, one)[begins.index(None)].name} does not say with which weights it began "
                "(it had sharded tables, or is older than soups). Train it again."
            )
        if begins[0] != begins[1]:
            raise ConfigError(
                f"{both} began with different weights (digests {begins[0]} and {begins[1]}): "
                "hidden units of one stand for other things than those of the other, and their "
                "mean for nothing. Begin both with one run's weights, init_from=<run id>, or train "
                "both with one seed."
            )
