"""What a run decides before it trains."""

import pytest
import torch

from pipelines.training_run import TrainingRun, choose_device
from recsys import config
from recsys.errors import ConfigError


def test_device_by_name() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"
    with pytest.raises(ConfigError, match="Allowed: auto, cpu, cuda"):
        choose_device("tpu")


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"pipelines\.doctor"):
        choose_device("cuda")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("embedding=hashed", "embedding=full"),
        ("embedding=multiplexed", "embedding=full"),
        ("optimizer=lazy_adam", "optimizer=adam"),
        ("gate.rewind_epoch=10", "one of the search epochs"),
        ("+gate.gama=3", r"gate\.gama is not an option.*gate\."),
    ],
)
def test_what_cannot_be_gated_is_refused_before_data_is_read(override: str, message: str) -> None:
    cfg = config.compose("train", ["ctr=fm", "gate=optfs", override])
    with pytest.raises(ConfigError, match=message):
        TrainingRun(cfg, "ctr")


def test_gates_are_refused_on_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        TrainingRun(config.compose("train", ["ctr=fm", "gate=optfs"]), "ctr")


def test_a_gate_composes_with_an_experiment() -> None:
    cfg = config.compose(
        "train", ["ctr=dcnv2", "gate=optfs", "gate.gate_l1=0.5", "experiment=frappe_dcnv2"]
    )
    run = TrainingRun(cfg, "ctr")
    assert run.gate is not None
    assert run.gate.gate_l1 == 0.5
    assert TrainingRun(config.compose("train", ["ctr=fm"]), "ctr").gate is None
