from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.base import ModelInputs, Tasks
from tests import contract


def make(parents: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    tasks = Tasks(tuple("abcd"[: len(parents)]), parents)
    return contract.make(
        "esmm",
        ModelInputs(num_fields=3, embed_dim=4, num_dense=0, tasks=tasks),
        hidden_dims=[5],
    ).to(dtype)


@pytest.mark.parametrize("parents", [(-1, 0), (1, -1), (-1, 0, 1), (2, -1, 1, -1)])
def test_probabilities_multiply_along_the_chain(parents: tuple[int, ...]) -> None:
    model = make(parents)
    embedded = Embedded.random(6, 3, 4, dtype=torch.float64)
    own = model.towers(embedded.flat()).sigmoid()
    p = model(embedded).sigmoid()
    for task, parent in enumerate(parents):
        expected = own[:, task]
        while parent >= 0:
            expected, parent = expected * own[:, parent], parents[parent]
        torch.testing.assert_close(p[:, task], expected, rtol=1e-5, atol=1e-6)


def test_its_loss_is_that_of_the_paper() -> None:
    """Eq. 3: cross-entropy of pCTR, and of pCTR * pCVR, over all rows."""
    model = make((-1, 0))
    embedded = Embedded.random(50, 3, 4, dtype=torch.float64)
    click = torch.arange(50) % 2
    both = click * (torch.arange(50) % 3 == 0)
    labels = torch.stack([click, both], dim=1).float()
    ours = F.binary_cross_entropy_with_logits(model(embedded), labels, reduction="sum")
    own = model.towers(embedded.flat()).sigmoid()
    paper = F.binary_cross_entropy(own[:, 0], labels[:, 0], reduction="sum")
    paper += F.binary_cross_entropy(own[:, 0] * own[:, 1], labels[:, 1], reduction="sum")
    torch.testing.assert_close(ours, paper, rtol=1e-5, atol=1e-5)


def test_needs_a_nested_label() -> None:
    with pytest.raises(ConfigError, match=r"none of a, b is declared.*data.nested"):
        make((-1, -1))
