from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recsys.embedding.embedded import Embedded, History
from recsys.errors import ConfigError
from recsys.layers.gru import Steps
from recsys.models.base import ModelInputs
from recsys.models.ctr.dien import DIEN, next_event_loss
from tests import contract
from tests.models.ctr.test_din import aligned

SMALL = {"hidden_dims": [10]}
VARIANTS: list[dict[str, object]] = [
    {"gru": "agru"},
    {"gru": "aigru"},
    {"attention_dims": [6]},
    {"aux_weight": 0.0},
    {"aux_weight": 0.0, "activation": "relu", "batch_norm": True, "dropout": 0.1},
    {"activation": "prelu", "attention_dims": [6], "attention_activation": "sigmoid"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_variants_keep_the_contract(options: dict[str, object]) -> None:
    model = contract.build("dien", 2, **(SMALL | options))
    contract.assert_output(model, contract.inputs(9, 2))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, 2))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, 2))


def test_rows_depend_on_each_other_through_negatives_or_dice_only() -> None:
    plain = {"activation": "relu", "aux_weight": 0.0}
    model = contract.build("dien", **plain)
    assert model.rows_are_independent()
    contract.assert_blocks_add_up(model, contract.inputs(19))
    assert not contract.build("dien", **(plain | {"aux_weight": 0.1})).rows_are_independent()
    assert not contract.build("dien", **(plain | {"activation": "dice"})).rows_are_independent()


def test_features_are_slots_and_the_evolved_interest() -> None:
    """Eq. 11: attention is a softmax of h W e_a over a row's states, here in a loop."""
    model = contract.build("dien", joint=True, activation="relu", **SMALL).eval()
    embedded = aligned(5)
    ((history, target),) = model.units.of(embedded)
    states = model.extractors[0](history, Steps.of(history))
    weights = torch.zeros(len(states))
    for row in range(5):
        start, stop = history.offsets[row : row + 2].tolist()
        scores = [
            float(states[j] @ (model.attention[0].matrix.weight @ target[row]))
            for j in range(start, stop)
        ]
        total = sum(math.exp(score) for score in scores)
        for j, score in zip(range(start, stop), scores, strict=True):
            weights[j] = math.exp(score) / total
    evolved = model.evolution[0](states, weights, Steps.of(history), num_rows=5)
    hidden = model.hidden(torch.cat([embedded.flat(), evolved], dim=1))
    torch.testing.assert_close(model(embedded), model.output(hidden).squeeze(1))
    explained = model.explain(embedded)
    assert set(explained) == {"interest.history"}
    for row in range(5):
        start, stop = history.offsets[row : row + 2].tolist()
        torch.testing.assert_close(
            explained["interest.history"][row, : stop - start], weights[start:stop]
        )


@pytest.mark.parametrize("lengths", [[3, 0, 1, 4], [2, 2], [5], [1, 1], [0, 0]], ids=str)
def test_next_event_loss_equals_a_loop(lengths: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    count = sum(lengths)
    torch.manual_seed(1)
    values, states = torch.randn(2, count, 3, dtype=torch.float64)
    pairs = [(row, j) for row, n in enumerate(lengths) for j in range(n - 1)]
    drawn = torch.rand(len(pairs), dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: drawn)
    found = next_event_loss(History(values, offsets, 5), states)
    expected = torch.zeros(len(lengths), dtype=torch.float64)
    for (row, j), number in zip(pairs, drawn.tolist(), strict=True):
        start, stop = offsets[row : row + 2].tolist()
        others = [p for p in range(count) if not start <= p < stop]
        if not others:
            continue
        h, right = states[start + j], values[start + j + 1]
        wrong = values[others[int(number * len(others))]]
        loss = -torch.log(torch.sigmoid(h @ right)) - torch.log(1 - torch.sigmoid(h @ wrong))
        expected[row] += loss / (lengths[row] - 1)
    torch.testing.assert_close(found, expected)


def test_negatives_are_drawn_from_all_events_of_other_rows() -> None:
    offsets = torch.tensor([0, 2, 5, 9])
    values = torch.eye(9)
    seen = torch.zeros(9)
    torch.manual_seed(0)
    for _ in range(200):
        states = torch.zeros(9, 9, requires_grad=True)
        next_event_loss(History(values, offsets, 4), states)[1].backward()
        pushed = states.grad.clamp(min=0).sum(0)  # away from negatives
        seen += (pushed > 0).float()
    assert (seen > 0).tolist() == [True] * 2 + [False] * 3 + [True] * 4


def test_auxiliary_loss_is_weighted_and_trains_the_extractor() -> None:
    embedded = contract.inputs(30)
    model = contract.build("dien", aux_weight=2.0, **SMALL)
    once = contract.build("dien", aux_weight=1.0, **SMALL)
    torch.manual_seed(3)
    _, own = model.training_outputs(embedded)
    torch.manual_seed(3)
    _, single = once.training_outputs(embedded)
    torch.testing.assert_close(own, 2 * single)
    assert own.shape == (30,)
    assert own.dtype == torch.float32
    own.sum().backward()
    assert model.extractors[0].weight_ih_l0.grad.any()
    assert contract.build("dien", aux_weight=0.0).training_outputs(embedded)[1] is None


def test_histories_may_be_empty() -> None:
    model = contract.build("dien", **SMALL)
    embedded = contract.inputs(5)
    for name, history in embedded.history.items():
        nothing = torch.zeros(6, dtype=torch.int64)
        embedded.history[name] = History(history.values[:0], nothing, 1)
    logit, own = model.training_outputs(embedded)
    assert own.tolist() == [0] * 5
    (logit + own).sum().backward()
    contract.assert_output(model.eval(), embedded)
    assert all(not tensor.any() for tensor in model.explain(embedded).values())


def test_no_history_is_an_error_before_training() -> None:
    inputs = ModelInputs(num_fields=3, embed_dim=4, num_dense=0, slots=("a", "b", "c"))
    with pytest.raises(ConfigError, match=r"DIEN reads histories.*kind=history"):
        contract.make("dien", inputs)
    unread = ModelInputs(num_fields=64, embed_dim=4, num_dense=0)
    assert isinstance(contract.make("dien", unread), DIEN)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"gru": "lstm"}, 'gru is "lstm"'), ({"aux_weight": -1.0}, "aux_weight is -1")],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("dien", **option)


def test_learns_what_came_last() -> None:
    """The label is a property of the newest event: a bag of the same events does not tell."""
    torch.manual_seed(0)
    dim, items, length = 8, 12, 4
    model = DIEN(1, dim, 0, histories={"seen": dim}, hidden_dims=[16], activation="relu")
    table = nn.Embedding(items, dim)
    optimizer = torch.optim.Adam([*model.parameters(), *table.parameters()], lr=0.02)

    def rows(count: int) -> tuple[Embedded, torch.Tensor]:
        events = torch.randint(0, items, (count, length))
        target = table(torch.zeros(count, dtype=torch.int64))
        history = History(table(events.flatten()), torch.arange(count + 1) * length, length)
        batch = Embedded(
            target.unsqueeze(1), torch.zeros(count, 0), history={"seen": history},
            target={"seen": target},
        )  # fmt: skip
        return batch, (events[:, -1] % 2).float()

    for _ in range(60):
        embedded, label = rows(128)
        optimizer.zero_grad()
        logit, own = model.training_outputs(embedded)
        loss = nn.functional.binary_cross_entropy_with_logits(logit, label) + 0.1 * own.mean()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        embedded, label = rows(2000)
        assert ((model(embedded) > 0) == label.bool()).float().mean() > 0.95
