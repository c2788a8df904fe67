from __future__ import annotations

import torch

from recsys.layers.stacked import StackedLinear
from tests import contract


def test_equals_one_network_with_towers_as_loops() -> None:
    model = contract.build("sharedbottom", 2, hidden_dims=[6], tower_dims=[4]).double()
    embedded = contract.inputs(9, 2, dtype=torch.float64)
    bottom = model.bottom[0](embedded.flat()).relu()
    hidden, output = model.towers.hidden[0], model.towers.output
    assert isinstance(hidden, StackedLinear)
    logits = [
        (bottom @ hidden.weight[t].T + hidden.bias[t]).relu() @ output.weight[t, 0]
        + output.bias[t, 0]
        for t in range(len(contract.TASKS))
    ]
    torch.testing.assert_close(model(embedded), torch.stack(logits, dim=1).float())


def test_number_of_parameters() -> None:
    model = contract.build("sharedbottom", hidden_dims=[6], tower_dims=[])
    assert contract.num_parameters(model) == 40 * 6 + 6 + 4 * (6 + 1)
