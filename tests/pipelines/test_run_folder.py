"""Which folder a run writes to, and which checkpoint it continues from."""

from datetime import datetime
from pathlib import Path

import pytest
import torch

from pipelines.run_folder import RunFolder, newest_first
from recsys.errors import CheckpointError
from recsys.training.checkpoint import Checkpoints

NOW = datetime(2026, 1, 2, 3, 4, 5)
STAGES = ("first", "second")


def place(base: Path, told: list[str] | None = None, fingerprint: str = "a") -> RunFolder:
    return RunFolder(base, fingerprint, STAGES, (told if told is not None else []).append)


def write(folder: Path, stage: str, step: int) -> None:
    Checkpoints(folder / stage).save(step, {"weights": {"w": torch.ones(1)}}, {"step": step}, True)


def test_newest_first(tmp_path: Path) -> None:
    for name in ("20260101-000000-1", "20260301-000000-1", "20260201-000000-1"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    assert [p.name[4:6] for p in newest_first(tmp_path)] == ["03", "02", "01"]


def test_a_new_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folder, found = place(tmp_path).choose(None, None, NOW)
    assert folder.parent == tmp_path
    assert folder.name.startswith("20260102-030405-")
    assert found is None
    assert place(tmp_path).choose("there", None, NOW) == (Path("there"), None)


def test_the_last_stage_of_the_newest_unfinished_run_is_continued(tmp_path: Path) -> None:
    told: list[str] = []
    ours = place(tmp_path, told)
    assert ours.choose(None, "auto", NOW)[1] is None
    assert told == ["nothing to continue; starting anew"]
    old, new, others = (tmp_path / name for name in ("20260101", "20260102", "20260103"))
    for folder in (old, new):
        ours.claim(folder, None)
        write(folder, "first", 5)
    place(tmp_path, fingerprint="b").claim(others, None)
    write(others, "second", 9)
    folder, found = ours.choose(None, "auto", NOW)
    assert folder == new
    assert found is not None
    assert (found.stage, found.checkpoint.step) == ("first", 5)
    write(new, "second", 2)
    found = ours.choose(None, "auto", NOW)[1]
    assert found is not None
    assert (found.stage, found.checkpoint.step) == ("second", 2)
    (new / "result.json").write_text("{}")
    assert ours.choose(None, "auto", NOW)[0] == old
    assert ours.choose(str(new), str(new), NOW)[0] == new  # asked for by name


def test_a_folder_of_another_configuration_is_refused(tmp_path: Path) -> None:
    place(tmp_path, fingerprint="b").claim(tmp_path / "run", None)
    write(tmp_path / "run", "first", 1)
    with pytest.raises(CheckpointError, match="no checkpoint of this configuration"):
        place(tmp_path).choose(None, str(tmp_path / "run"), NOW)


@pytest.mark.parametrize("resume", [None, "auto"])
@pytest.mark.parametrize("fingerprint", ["a", "b"])
def test_a_new_run_never_starts_among_the_checkpoints_of_a_paused_one(
    tmp_path: Path, resume: str | None, fingerprint: str
) -> None:
    folder = tmp_path / "run"
    place(tmp_path, fingerprint=fingerprint).claim(folder, None)
    write(folder, "first", 700)
    if (resume, fingerprint) == ("auto", "a"):
        assert place(tmp_path).choose(str(folder), resume, NOW)[1] is not None
        return
    way = "resume=auto continues it" if fingerprint == "a" else "it has another configuration"
    with pytest.raises(CheckpointError, match=way):
        place(tmp_path).choose(str(folder), resume, NOW)
    assert Checkpoints(folder / "first").steps() == [700]


def test_a_new_run_takes_the_place_of_a_finished_one(tmp_path: Path) -> None:
    ours, folder = place(tmp_path), tmp_path / "run"
    ours.claim(folder, None)
    write(folder, "first", 700)
    (folder / "result.json").write_text("{}")
    _, continued = ours.choose(str(folder), None, NOW)
    assert continued is None
    ours.claim(folder, continued)
    assert Checkpoints(folder / "first").steps() == []
    write(folder, "first", 5)  # pruning would have dropped it as older than 700
    assert Checkpoints(folder / "first").steps() == [5]
    assert ours.choose(str(folder), "auto", NOW)[1] is not None


def test_continuing_keeps_what_lies_there(tmp_path: Path) -> None:
    ours, folder = place(tmp_path), tmp_path / "run"
    ours.claim(folder, None)
    write(folder, "first", 700)
    _, continued = ours.choose(str(folder), "auto", NOW)
    ours.claim(folder, continued)
    assert Checkpoints(folder / "first").steps() == [700]
