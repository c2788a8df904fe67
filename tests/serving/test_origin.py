"""A folder is another version when another model lies in it; a run id never is."""

import os
from pathlib import Path

from recsys.serving.origin import RunOrigin


def origin(run: str, names: dict[str, str] | None = None) -> RunOrigin:
    return RunOrigin(
        run,
        lambda one: (names or {}).get(one, one),
        lambda one: Path(one) / "model",
        lambda folder, one: (str(folder), one),  # type: ignore[arg-type, return-value]
    )


def saved(folder: Path, text: str) -> Path:
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "model.json").write_text(text)
    return folder


def test_a_folder_that_was_trained_into_again(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "1")
    found = origin(str(run))
    before = found.version()
    assert found.version() == before
    os.rename(run, tmp_path / "old")
    saved(tmp_path / "run", "2")
    assert found.version() != before


def test_a_link_that_points_elsewhere(tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(saved(tmp_path / "a", "1"))
    found = origin(str(link))
    before = found.version()
    link.unlink()
    link.symlink_to(saved(tmp_path / "b", "1"))
    assert found.version() != before


def test_an_alias_that_was_moved() -> None:
    names = {"models:/clicks@champion": "run1"}
    found = origin("models:/clicks@champion", names)
    assert found.version() == "run1"
    assert found.load() == ("run1/model", "run1")
    names["models:/clicks@champion"] = "run2"
    assert found.version() == "run2"


def test_a_run_id_is_one_version() -> None:
    assert origin("0123abcd").version() == "0123abcd"
