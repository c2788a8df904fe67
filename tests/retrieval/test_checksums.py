"""Files that are what their card says, or refused."""

import json
from pathlib import Path

import pytest

from recsys.errors import CheckpointError, ConfigError
from recsys.retrieval.checksums import (
    check_files,
    check_replaceable,
    check_sizes,
    checksum,
    read_json_card,
)

EXPECTED = {"format": "f", "version": 1}


def test_a_changed_file_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    files = {"a": checksum(file)}
    assert files["a"]["bytes"] == 3
    assert files["a"]["sha256"].startswith("ba7816bf")
    check_files(tmp_path, files, "Do this.")
    file.write_bytes(b"abd")
    check_sizes(tmp_path, files, "")
    with pytest.raises(CheckpointError, match=r"is corrupted: its SHA-256 .* Do this\."):
        check_files(tmp_path, files, "Do this.")
    file.write_bytes(b"ab")
    with pytest.raises(CheckpointError, match=r"has 2 bytes, but its card says 3: it is truncated"):
        check_files(tmp_path, files, "")
    file.unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        check_files(tmp_path, files, "")


def test_cards(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    for text in ("{", json.dumps([1]), json.dumps({"format": "g", "version": 1})):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=r"Do this\."):
            read_json_card(file, EXPECTED, "Do this.")
    file.write_text(json.dumps(EXPECTED | {"x": 2}))
    assert read_json_card(file, EXPECTED, "")["x"] == 2
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_json_card(tmp_path / "none", EXPECTED, "")


def test_foreign_files_are_not_deleted(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "new", ("card.json",))
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        check_replaceable(tmp_path, ("card.json",))
    with pytest.raises(ConfigError, match="is a file"):
        check_replaceable(tmp_path / "thesis.tex", ("card.json",))
    (tmp_path / "card.json").write_text("{}")
    check_replaceable(tmp_path, ("card.json",))
