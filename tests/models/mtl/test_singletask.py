from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.models.base import ModelInputs
from tests import contract


def test_a_task_sees_nothing_of_the_others() -> None:
    model = contract.build("singletask", 2).eval()
    embedded = contract.inputs(5, 2)
    embedded.fields.requires_grad_(True)
    for task in range(4):
        (gradient,) = torch.autograd.grad(model(embedded)[:, task].sum(), embedded.fields)
        own = slice(2 * task, 2 * task + 2)
        assert (gradient[:, :, own] != 0).any()
        gradient[:, :, own] = 0
        assert not gradient.any()


def test_each_equals_a_model_of_its_own() -> None:
    from recsys.models.ctr.mlp import MLP

    model = contract.build("singletask", 2, hidden_dims=[6, 3])
    embedded = contract.inputs(5, 2)
    for task in range(4):
        alone = MLP(num_fields=5, embed_dim=2, num_dense=2, hidden_dims=[6, 3], batch_norm=False)
        parameters = dict(model.networks.named_parameters())
        mine = [parameters[name][task] for name in parameters if name.endswith(("weight", "bias"))]
        for target, value in zip(alone.parameters(), mine, strict=True):
            target.data.copy_(value.view(target.shape))
        part = Embedded(embedded.fields[:, :, 2 * task : 2 * task + 2], embedded.dense)
        torch.testing.assert_close(model(embedded)[:, task], alone(part))


def test_width_must_be_that_of_all_tasks() -> None:
    with pytest.raises(ValueError, match="width 6 cannot be those of 4 tasks"):
        contract.make(
            "singletask",
            ModelInputs(num_fields=2, embed_dim=6, num_dense=0, tasks=contract.TASKS),
        )
