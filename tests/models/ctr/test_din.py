from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.embedding.embedded import Embedded, History
from recsys.errors import ConfigError, SchemaError
from recsys.models.base import ModelInputs
from recsys.models.ctr.din import DIN
from tests import contract

SMALL = {"attention_dims": [6], "hidden_dims": [10]}
VARIANTS: list[dict[str, object]] = [
    {"softmax": True},
    {"pooling": "sum"},
    {"pooling": "mean"},
    {"attention_activation": "prelu", "activation": "prelu"},
    {"attention_activation": "relu", "activation": "relu", "batch_norm": True},
    {"attention_activation": "sigmoid", "activation": "relu"},
    {"attention_dropout": 0.1, "dropout": 0.1},
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=str)


def aligned(batch: int, dense: int = 0, seed: int = 0, dim: int = 8) -> Embedded:
    """Two histories that were collected together."""
    embedded = Embedded.random(batch, 5, dim, dense, {"history": 4, "other": 4}, seed)
    first = embedded.history["history"]
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(first.values.shape, generator=generator)
    embedded.history["other"] = History(values, first.offsets, first.longest)
    return embedded


@every_variant
def test_variants_keep_the_contract(options: dict[str, object]) -> None:
    model = contract.build("din", 2, **(SMALL | options))
    contract.assert_output(model, contract.inputs(9, 2))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, 2))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, 2))
    if model.rows_are_independent() and not options.get("dropout"):
        contract.assert_blocks_add_up(model, contract.inputs(19, 2))


def test_dice_mixes_the_rows_of_a_training_batch() -> None:
    assert not contract.build("din").rows_are_independent()
    plain = {"activation": "relu", "attention_activation": "prelu"}
    assert contract.build("din", **plain).rows_are_independent()


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("joint", [True, False])
def test_equals_the_paper_in_loops(softmax: bool, joint: bool) -> None:
    """Eq. 3 row by row and event by event, then one hidden layer; in evaluation, float64."""
    plain = {"attention_activation": "sigmoid", "activation": "relu"}
    model = contract.build("din", 2, joint=joint, softmax=softmax, **(SMALL | plain)).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    model.eval()
    embedded = aligned(6, 2)
    doubled = Embedded(
        embedded.fields.double(),
        embedded.dense.double(),
        history={
            n: History(h.values.double(), h.offsets, h.longest) for n, h in embedded.history.items()
        },
        target={n: t.double() for n, t in embedded.target.items()},
    )
    logits = []
    for row in range(6):
        x = [*doubled.fields[row].flatten().tolist(), *doubled.dense[row].tolist()]
        groups = [("history", "other")] if joint else [("history",), ("other",)]
        for unit, names in zip(model.attention, groups, strict=True):
            target = torch.cat([doubled.target[n][row] for n in names])
            start, stop = doubled.history[names[0]].offsets[row : row + 2].tolist()
            if len(names) == 1:
                start, stop = doubled.history[names[0]].offsets[row : row + 2].tolist()
            events = [
                torch.cat([doubled.history[n].values[j] for n in names]) for j in range(start, stop)
            ]
            scores = []
            for event in events:
                q = torch.cat([target, event, target - event, target * event])
                hidden = torch.sigmoid(unit.first.weight @ q + unit.first.bias)
                score = unit.rest[-1].weight[0] @ hidden
                scores.append(float(score if softmax else score + unit.rest[-1].bias))
            if softmax:
                scores = torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()
            interest = torch.zeros_like(target)
            for weight, event in zip(scores, events, strict=True):
                interest += weight * event
            x += interest.tolist()
        hidden = torch.relu(
            model.hidden[0].weight @ torch.tensor(x, dtype=torch.float64) + model.hidden[0].bias
        )
        logits.append(float(model.output.weight[0] @ hidden + model.output.bias))
    torch.testing.assert_close(model(doubled), torch.tensor(logits), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooling", ["attention", "sum", "mean"])
def test_histories_may_be_empty(pooling: str) -> None:
    model = contract.build("din", pooling=pooling, **SMALL)
    embedded = contract.inputs(5)
    for name, history in embedded.history.items():
        nothing = torch.zeros(6, dtype=torch.int64)
        embedded.history[name] = History(history.values[:0], nothing, 1)
    contract.assert_output(model, embedded)
    model(embedded).sum().backward()
    contract.assert_output(model.eval(), embedded)
    assert all(not t.any() and t.isfinite().all() for t in model.explain(embedded).values())


def test_explains_by_the_weight_of_each_event() -> None:
    model = contract.build("din", softmax=True, **SMALL).eval()
    embedded = contract.inputs(7)
    explained = model.explain(embedded)
    assert set(explained) == {"interest.history", "interest.other"}
    for name, weights in explained.items():
        history = embedded.history[name.removeprefix("interest.")]
        assert weights.shape == (7, history.longest)
        torch.testing.assert_close(weights.sum(1), (history.lengths > 0).float())
    joint = contract.build("din", joint=True, **SMALL).eval()
    assert set(joint.explain(aligned(3))) == {"interest.history"}


@pytest.mark.parametrize(("pooling", "each"), [("sum", 1.0), ("mean", 0.25)])
def test_pooling_explains_itself(pooling: str, each: float) -> None:
    model = contract.build("din", pooling=pooling, **SMALL).eval()
    embedded = contract.inputs(40)
    weights = model.explain(embedded)["interest.history"]
    full = embedded.history["history"].lengths == 4
    assert full.any()
    assert (weights[full] == each).all()


def test_no_history_is_an_error_before_training() -> None:
    inputs = ModelInputs(num_fields=3, embed_dim=4, num_dense=0, slots=("a", "b", "c"))
    with pytest.raises(ConfigError, match=r"DIN reads histories.*kind=history"):
        contract.make("din", inputs)
    unread = ModelInputs(num_fields=64, embed_dim=4, num_dense=0)
    assert isinstance(contract.make("din", unread), DIN)


def test_histories_that_differ_in_length_cannot_be_joint() -> None:
    with pytest.raises(SchemaError, match="joint=false"):
        contract.build("din", joint=True)(contract.inputs(9))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pooling": "max"}, r'pooling is "max"'),
        ({"attention_dims": []}, "hidden_dims"),
        ({"attention_activation": "dices"}, "Did you mean dice"),
        ({"activation": "prelus"}, "Did you mean prelu"),
        ({"attention_dropout": 1.0}, "attention_dropout is 1"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("din", **option)


def test_parameter_count() -> None:
    """Unit: 4 D H1 + H1 + H1 H2 + H2 + H2 + 1 and Dice's H1 + H2; deep network on F D + D."""
    model = DIN(3, 18, 0, histories={"items": 18}, attention_dims=[80, 40], hidden_dims=[200, 80])
    unit = 4 * 18 * 80 + 80 + 80 * 40 + 40 + 40 + 1 + (80 + 40)
    deep = (4 * 18 * 200 + 200) + (200 * 80 + 80) + (80 + 1) + (200 + 80)
    assert contract.num_parameters(model) == unit + deep


@pytest.mark.parametrize("pooling", ["attention", "sum", "mean"])
def test_only_attention_finds_the_target_in_the_history(pooling: str) -> None:
    """The label says whether the target is among the events; its own vector says nothing."""
    torch.manual_seed(0)
    dim, items, length = 8, 20, 4
    options = {"attention_dims": [16], "hidden_dims": [16], "attention_activation": "relu"}
    model = DIN(1, dim, 0, histories={"seen": dim}, pooling=pooling, **options)  # type: ignore[arg-type]
    table = nn.Embedding(items, dim)
    optimizer = torch.optim.Adam([*model.parameters(), *table.parameters()], lr=0.02)

    def rows(count: int) -> tuple[Embedded, torch.Tensor]:
        events = torch.randint(0, items, (count, length))
        target = torch.randint(0, items, (count,))
        target = torch.where(torch.rand(count) < 0.5, events[:, 0], target)
        offsets = torch.arange(count + 1) * length
        vectors = table(target)
        history = History(table(events.flatten()), offsets, length)
        batch = Embedded(
            vectors.unsqueeze(1), torch.zeros(count, 0), history={"seen": history},
            target={"seen": vectors},
        )  # fmt: skip
        return batch, (events == target.unsqueeze(1)).any(1).float()

    for _ in range(120):
        embedded, label = rows(256)
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(embedded), label).backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        embedded, label = rows(3000)
        accuracy = ((model(embedded) > 0) == label.bool()).float().mean().item()
    if pooling == "attention":
        assert accuracy > 0.95
    else:
        assert accuracy < 0.93
