"""What a run decides before it trains, and what it says at the end."""

from pathlib import Path

import pytest
import torch

from pipelines.training_run import TrainingRun, among, choose_device
from recsys import config
from recsys.errors import ConfigError
from tests.pipelines.conftest import mine


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


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["optimizer=adam"], "optimizer=sgd, adagrad or rowwise_adagrad, or replicate"),
        (["optimizer=lazy_adam"], r"embedding\.sharding=data_parallel"),
        (["embedding.sharding=row_wis"], r"Did you mean row_wise\?"),
        (["embedding.sharding={user: column_wise}"], "one number per row"),
        (["optimizer.embedding_mba=1.0"], "embedding_mba=0"),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_data_is_read(
    extra: list[str], message: str
) -> None:
    keys = ["embedding.sharding=row_wise", "optimizer=rowwise_adagrad"]
    chosen = {one.partition("=")[0] for one in extra}
    keys = [one for one in keys if one.partition("=")[0] not in chosen]
    with pytest.raises(ConfigError, match=message):
        TrainingRun(config.compose("train", ["ctr=fm", *keys, *extra]), "ctr")


def test_where_tables_lie_is_no_part_of_what_a_run_is() -> None:
    one, other = (
        config.compose("train", ["ctr=fm", f"embedding.sharding={kind}"])
        for kind in ("none", "{user: row_wise}")
    )
    assert config.identity(one) == config.identity(other)
    wider = config.compose("train", ["ctr=fm", "embedding.dim=8"])
    assert config.identity(wider) != config.identity(one)


def test_processes_are_named_shortly() -> None:
    assert among([3, 1, 2, 0]) == "0-3"
    assert among([0, 0, 2]) == "0, 2"


def test_a_run_that_ends_while_it_gets_better_says_so(
    clicks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    keys = ["tracking=none", "console=none", "importance_rows=0", "trainer.epochs=3"]
    keys += ["optimizer.lr=1e-4", "data.min_count=1"]

    def notes(*more: str) -> list[str]:
        cfg = config.compose("train", [*mine(clicks), *keys, *more])
        result = TrainingRun(cfg, "ctr").run()
        return [note for note in result["notes"] if "still getting better" in note]

    assert "trainer.epochs=6" in notes()[0]
    assert not notes("trainer.patience=0")  # the length is meant
    assert not notes("optimizer.lr=0.1", "trainer.epochs=12", "trainer.patience=1")
