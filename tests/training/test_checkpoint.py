"""Checkpoints are whole or absent: full disks, kills, damage."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recsys.errors import CheckpointError
from recsys.training import checkpoint
from recsys.training.checkpoint import Checkpoints


def tensors(value: float = 1.0) -> dict[str, dict[str, torch.Tensor]]:
    matrix = torch.full((4, 3), value)
    return {
        "weights": {"a": matrix[1:3], "b": matrix[3:]},
        "optimizer": {"step": torch.tensor(value)},
    }


def test_round_trip_is_exact(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(7, tensors(0.1), {"ema": 0.1 + 0.2, "epoch": 3})
    loaded = saved.load()
    assert loaded.step == 7
    assert loaded.state == {"ema": 0.1 + 0.2, "epoch": 3}
    for stem, group in tensors(0.1).items():
        for name, tensor in group.items():
            assert torch.equal(loaded.tensors[stem][name], tensor)


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    saved = Checkpoints(tmp_path, keep_last=2)
    for step in range(1, 7):
        saved.save(step, tensors(), {}, best=step == 2)
    assert saved.steps() == [2, 5, 6]
    assert saved.best_step() == 2
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_a_full_disk_leaves_the_previous_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(1, tensors(1.0), {})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(CheckpointError, match=r"step 2.*No space left.*step 1 is intact"):
            saved.save(2, tensors(2.0), {})
    assert saved.steps() == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert saved.load().tensors["weights"]["a"][0, 0] == 1.0


def test_a_kill_while_writing_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    """A process is killed with SIGKILL in the middle of its second save."""
    script = f"""
import time, torch
from pathlib import Path
from recsys.training import checkpoint
saved = checkpoint.Checkpoints(Path({str(tmp_path)!r}))
saved.save(1, {{"weights": {{"a": torch.ones(4)}}}}, {{}})
real = checkpoint._sha256
def slow(path):
    print("writing", flush=True)
    time.sleep(60)
    return real(path)
checkpoint._sha256 = slow
saved.save(2, {{"weights": {{"a": torch.zeros(4)}}}}, {{}})
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "writing"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    saved = Checkpoints(tmp_path)
    assert list(tmp_path.glob(".step-00000002*"))
    assert saved.steps() == [1]
    assert torch.equal(saved.load().tensors["weights"]["a"], torch.ones(4))
    saved.save(2, tensors(), {})
    assert saved.steps() == [1, 2]


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "manifest", "state"])
def test_damage_is_found_and_the_one_before_is_taken(tmp_path: Path, damage: str) -> None:
    saved = Checkpoints(tmp_path)
    saved.save(1, tensors(), {})
    folder = saved.save(2, tensors(), {"step": 2})
    weights = folder / "weights.safetensors"
    if damage == "truncate":
        os.truncate(weights, weights.stat().st_size - 4)
    elif damage == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "delete":
        weights.unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "state.json").write_text(json.dumps({"step": 3}))
    with pytest.raises(CheckpointError, match=r"step-00000002"):
        saved.load()
    newest, problems = saved.load_newest_intact()
    assert newest.step == 1
    assert len(problems) == 1


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        Checkpoints(tmp_path / "none").load()
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        Checkpoints(tmp_path / "none").load_newest_intact()
    (tmp_path / "best.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"best\.json"):
        Checkpoints(tmp_path).best_step()


def test_an_unwritable_folder_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(CheckpointError, match=r"output_dir.*there is no earlier one"):
        Checkpoints(blocker / "checkpoints").save(1, tensors(), {})


def test_keep_last_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep_last=0"):
        Checkpoints(tmp_path, keep_last=0)
