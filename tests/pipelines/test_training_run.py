"""What a run decides before it trains."""

from pathlib import Path

import pytest
import torch

from pipelines.training_run import choose_device, loggable, newest_first
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


def test_only_what_a_person_can_set_is_logged() -> None:
    logged = loggable(config.compose("train", ["ctr=fm", "output_dir=x"]))
    assert "output_dir" not in logged
    assert "tracking" not in logged
    assert logged["seed"] == 0
    assert logged["optimizer"]["name"] == "adam"


def test_newest_first(tmp_path: Path) -> None:
    for name in ("20260101-000000-1", "20260301-000000-1", "20260201-000000-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    assert [p.name[4:6] for p in newest_first(tmp_path)] == ["03", "02", "01"]
