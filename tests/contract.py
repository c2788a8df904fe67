"""What every ctr and mtl model must do, as assertions that take a model."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded, History
from recsys.models.base import InteractionModel, ModelInputs, Tasks
from recsys.models.saved import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"num_fields": 5, "embed_dim": 8}
HISTORIES = {"history": 4, "other": 3}
"""Longest list of each history."""
TASKS = Tasks(("click", "conversion", "like", "follow"), (-1, 0, -1, -1))
"""What mtl models learn."""
FAMILIES = ("ctr", "mtl")


def stems(family: str) -> list[str]:
    """Every model of a family that is a network, by the stem of its YAML file."""
    found = sorted(path.stem for path in (ROOT / f"configs/{family}").glob("*.yaml"))
    return [stem for stem in found if issubclass(model_class(stem), InteractionModel)]


def family_of(stem: str) -> str:
    """The family whose folder has the model's YAML file."""
    (family,) = (one for one in FAMILIES if (ROOT / f"configs/{one}/{stem}.yaml").is_file())
    return family


def options(stem: str) -> dict[str, Any]:
    """The YAML file's keys and values, `_target_` included."""
    return yaml.safe_load(yaml_file(stem).read_text())


def yaml_file(stem: str) -> Path:
    """Where a model's options are listed."""
    return ROOT / f"configs/{family_of(stem)}/{stem}.yaml"


def model_class(stem: str) -> type[InteractionModel]:
    module, name = options(stem)["_target_"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def keywords(cls: type[InteractionModel]) -> dict[str, Any]:
    """Keyword-only constructor arguments and their defaults."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def as_lists(value: Any) -> Any:
    """Tuples, nested ones too, as YAML writes them."""
    return [as_lists(one) for one in value] if isinstance(value, tuple) else value


def make(stem: str, inputs: ModelInputs, **overrides: Any) -> InteractionModel:
    """The model as its YAML file describes it, for these inputs, with some options replaced."""
    chosen = {k: v for k, v in options(stem).items() if k != "_target_"} | overrides
    return ModelSpec(family_of(stem), options(stem)["_target_"], chosen).make(inputs)


def model_inputs(num_dense: int = 0, num_fields: int = SIZES["num_fields"]) -> ModelInputs:
    dim = SIZES["embed_dim"]
    return ModelInputs(
        num_fields=num_fields,
        embed_dim=dim,
        num_dense=num_dense,
        slots=tuple(f"field{i}" for i in range(num_fields)),
        histories=dict.fromkeys(HISTORIES, dim),
        tasks=TASKS,
    )


def build(stem: str, num_dense: int = 0, seed: int = 0, **overrides: Any) -> InteractionModel:
    """As `make`, for the sizes of `inputs`."""
    torch.manual_seed(seed)
    return make(stem, model_inputs(num_dense), **overrides)


def inputs(
    batch: int, num_dense: int = 0, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Embedded:
    return Embedded.random(
        batch=batch,
        fields=SIZES["num_fields"],
        dim=SIZES["embed_dim"],
        dense=num_dense,
        histories=HISTORIES,
        seed=seed,
        dtype=dtype,
    )


def select(embedded: Embedded, rows: Tensor) -> Embedded:
    """The given rows, in the given order."""
    parts = [embedded.rows(int(row), int(row) + 1) for row in rows]
    return stack(parts)


def stack(parts: list[Embedded]) -> Embedded:
    first = parts[0]

    def cat(get: Any) -> Tensor:
        return torch.cat([get(part) for part in parts])

    history = {}
    for name, value in first.history.items():
        lengths = cat(lambda part, n=name: part.history[n].lengths)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        values = cat(lambda part, n=name: part.history[n].values)
        history[name] = History(values, offsets, value.longest)
    return Embedded(
        fields=cat(lambda part: part.fields),
        dense=cat(lambda part: part.dense),
        linear=None if first.linear is None else cat(lambda part: part.linear),
        second=None if first.second is None else cat(lambda part: part.second),
        history=history,
        target={name: cat(lambda part, n=name: part.target[n]) for name in first.target},
    )


def loss_of(model: InteractionModel, embedded: Embedded) -> Tensor:
    """A sum over rows, so that it may be computed in blocks."""
    logit, own = model.training_outputs(embedded)
    label = (embedded.fields[:, 0, 0] > 0).float()
    if logit.dim() == 2:
        label = label.unsqueeze(1).expand_as(logit)
    loss = nn.functional.binary_cross_entropy_with_logits(logit, label, reduction="sum")
    return loss if own is None else loss + own.sum()


def gradients(model: InteractionModel, embedded: Embedded) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    loss_of(model, embedded).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_output(model: InteractionModel, embedded: Embedded) -> None:
    logit = model(embedded)
    tasks = (len(TASKS),) if model.learns_tasks else ()
    assert logit.shape == (len(embedded), *tasks)
    assert logit.dtype == torch.float32
    assert torch.isfinite(logit).all()


def assert_gradient_reaches_everything(model: InteractionModel, embedded: Embedded) -> None:
    """Every parameter, and every dense column (asked once weights that start at zero moved)."""
    grads = gradients(model, embedded)
    untouched = [name for name, grad in grads.items() if grad is None or not grad.any()]
    if model.learns_tasks and untouched:  # what lies below weights that start at zero
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape) * 0.1)
        again = gradients(model, embedded)
        untouched = [n for n in untouched if again[n] is None or not again[n].any()]
    assert not untouched
    assert all(torch.isfinite(grad).all() for grad in grads.values() if grad is not None)
    if model.num_dense:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01)
        embedded.dense.requires_grad_(True)
        gradients(model, embedded)
        assert embedded.dense.grad is not None
        assert (embedded.dense.grad != 0).any(dim=0).all()


def assert_rows_do_not_mix(model: InteractionModel, embedded: Embedded) -> None:
    """In evaluation a row's logit is a function of that row: permuted, alone, or beside others."""
    model.eval()
    batch = len(embedded)
    logit = model(embedded)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(select(embedded, order)), logit[order], rtol=1e-5, atol=1e-5)
    alone = torch.stack([model(embedded.rows(row, row + 1))[0] for row in range(min(batch, 4))])
    torch.testing.assert_close(alone, logit[: len(alone)], rtol=1e-5, atol=1e-5)
    other = stack([embedded.rows(0, 1), inputs(batch - 1, model.num_dense, seed=99)])
    torch.testing.assert_close(model(other)[0], logit[0], rtol=1e-5, atol=1e-5)


def assert_blocks_add_up(model: InteractionModel, embedded: Embedded) -> None:
    """Gradients summed over blocks of rows equal those of the whole batch."""
    model.train()
    whole = gradients(model, embedded)
    model.zero_grad(set_to_none=True)
    for start in range(0, len(embedded), 7):
        loss_of(model, embedded.rows(start, min(start + 7, len(embedded)))).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-5, msg=name)


def fit_xor(stem: str, steps: int = 150, **overrides: Any) -> float:
    """Accuracy on fresh rows after training on a pure second-order signal.

    Two of three fields decide: the label is 1 when exactly one of their codes is odd, so that no
    field alone says anything. The vectors are trained with the model.
    """
    vocabulary, dim = 8, 8
    torch.manual_seed(0)
    model = make(
        stem,
        ModelInputs(num_fields=3, embed_dim=dim, num_dense=0, slots=("a", "b", "c")),
        **overrides,
    )
    table = nn.Embedding(3 * vocabulary, dim)
    second = nn.Embedding(3 * vocabulary, dim)
    weight = nn.Embedding(3 * vocabulary, 1)
    nn.init.normal_(table.weight, std=0.1)
    nn.init.normal_(second.weight, std=0.1)
    nn.init.zeros_(weight.weight)
    modules = nn.ModuleList([model, table, second, weight])
    optimizer = torch.optim.Adam(modules.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)

    def rows(count: int) -> tuple[Embedded, Tensor]:
        codes = torch.randint(0, vocabulary, (count, 3), generator=generator)
        label = ((codes[:, 0] + codes[:, 1]) % 2).float()
        slots = codes + vocabulary * torch.arange(3)
        empty = torch.zeros(count, 0)
        linear = weight(slots).squeeze(2)
        return Embedded(table(slots), empty, linear=linear, second=second(slots)), label

    for _ in range(steps):
        embedded, label = rows(256)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(embedded), label).backward()
        optimizer.step()
    modules.eval()
    with torch.no_grad():
        embedded, label = rows(2000)
        return ((model(embedded) > 0).float() == label).float().mean().item()


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
