from __future__ import annotations

import pytest
import torch

from recsys.errors import ConfigError
from tests import contract


def test_equals_the_module_as_a_loop() -> None:
    model = contract.build("aitm", 2, hidden_dims=[6]).double()
    embedded = contract.inputs(7, 2, dtype=torch.float64)
    q = model.networks(embedded.flat())
    z = [q[:, 0]]
    for t in range(1, len(contract.TASKS)):
        p = model.passed_on[t - 1](z[-1])
        pair = [p, q[:, t]]
        scores = torch.stack([(model.key(u) * model.query(u)).sum(1) / 6**0.5 for u in pair], dim=1)
        w = scores.softmax(dim=1)
        z.append(sum(w[:, i, None] * model.value(u) for i, u in enumerate(pair)))
    out = model.outputs.output
    logits = [one @ out.weight[t, 0] + out.bias[t, 0] for t, one in enumerate(z)]
    torch.testing.assert_close(model(embedded), torch.stack(logits, dim=1).float())


def test_calibrator_holds_nested_labels_alone() -> None:
    model = contract.build("aitm", constraint=0.5)
    embedded = contract.inputs(40)
    logits, own = model.training_outputs(embedded)
    p = logits.sigmoid()
    assert own is not None
    torch.testing.assert_close(own, 0.5 * (p[:, 1] - p[:, 0]).clamp(min=0))  # conversion, click
    assert contract.build("aitm", constraint=0.0).training_outputs(embedded)[1] is None


def test_negative_constraint() -> None:
    with pytest.raises(ConfigError, match="constraint is -1"):
        contract.build("aitm", constraint=-1.0)
