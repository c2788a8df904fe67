"""What every CTR model must do, as assertions that take a model."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded, History
from recsys.models.base import CTRModel, ModelInputs
from recsys.models.saved import ModelSpec

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"num_fields": 5, "embed_dim": 8}
HISTORIES = {"history": 4, "other": 3}
"""Longest list of each history."""


def ctr_stems() -> list[str]:
    """Every CTR model that is a network, by the stem of its YAML file."""
    stems = sorted(path.stem for path in (ROOT / "configs/ctr").glob("*.yaml"))
    return [stem for stem in stems if issubclass(model_class(stem), CTRModel)]


def options(stem: str) -> dict[str, Any]:
    """The YAML file's keys and values, `_target_` included."""
    return yaml.safe_load((ROOT / f"configs/ctr/{stem}.yaml").read_text())


def model_class(stem: str) -> type[CTRModel]:
    module, name = options(stem)["_target_"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def keywords(cls: type[CTRModel]) -> dict[str, Any]:
    """Keyword-only constructor arguments and their defaults."""
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def make(stem: str, inputs: ModelInputs, **overrides: Any) -> CTRModel:
    """The model as its YAML file describes it, for these inputs, with some options replaced."""
    chosen = {k: v for k, v in options(stem).items() if k != "_target_"} | overrides
    return ModelSpec("ctr", options(stem)["_target_"], chosen).make(inputs)


def model_inputs(num_dense: int = 0, num_fields: int = SIZES["num_fields"]) -> ModelInputs:
    dim = SIZES["embed_dim"]
    return ModelInputs(
        num_fields=num_fields,
        embed_dim=dim,
        num_dense=num_dense,
        slots=tuple(f"field{i}" for i in range(num_fields)),
        histories=dict.fromkeys(HISTORIES, dim),
    )


def build(stem: str, num_dense: int = 0, seed: int = 0, **overrides: Any) -> CTRModel:
    """As `make`, for the sizes of `inputs`."""
    torch.manual_seed(seed)
    return make(stem, model_inputs(num_dense), **overrides)


def inputs(batch: int, num_dense: int = 0, seed: int = 0) -> Embedded:
    return Embedded.random(
        batch=batch,
        fields=SIZES["num_fields"],
        dim=SIZES["embed_dim"],
        dense=num_dense,
        histories=HISTORIES,
        seed=seed,
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


def loss_of(model: CTRModel, embedded: Embedded) -> Tensor:
    """A sum over rows, so that it may be computed in blocks."""
    logit, own = model.training_outputs(embedded)
    label = (embedded.fields[:, 0, 0] > 0).float()
    loss = nn.functional.binary_cross_entropy_with_logits(logit, label, reduction="sum")
    return loss if own is None else loss + own.sum()


def gradients(model: CTRModel, embedded: Embedded) -> dict[str, Tensor | None]:
    model.zero_grad(set_to_none=True)
    loss_of(model, embedded).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_output(model: CTRModel, embedded: Embedded) -> None:
    logit = model(embedded)
    assert logit.shape == (len(embedded),)
    assert logit.dtype == torch.float32
    assert torch.isfinite(logit).all()


def assert_gradient_reaches_everything(model: CTRModel, embedded: Embedded) -> None:
    """Every parameter, and every dense column (asked once weights that start at zero moved)."""
    grads = gradients(model, embedded)
    untouched = [name for name, grad in grads.items() if grad is None or not grad.any()]
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


def assert_rows_do_not_mix(model: CTRModel, embedded: Embedded) -> None:
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


def assert_blocks_add_up(model: CTRModel, embedded: Embedded) -> None:
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
