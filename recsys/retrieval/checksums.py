"""What files were when they were written: size and SHA-256, kept in a card beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recsys.errors import CheckpointError, ConfigError


def checksum(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    with file.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": found}


def check_sizes(folder: Path, files: Mapping[str, Mapping[str, Any]], remedy: str) -> None:
    """Raise CheckpointError where a file is absent or has another size than its card says."""
    for name, wanted in files.items():
        file = folder / name
        found = file.stat().st_size if file.is_file() else None
        if found is None:
            raise CheckpointError(f"{file} is missing, but its card names it. {remedy}")
        if found != wanted["bytes"]:
            raise CheckpointError(
                f"{file} has {found:,} bytes, but its card says {wanted['bytes']:,}: it is "
                f"truncated or was changed. {remedy}"
            )


def check_files(folder: Path, files: Mapping[str, Mapping[str, Any]], remedy: str) -> None:
    """Raise CheckpointError where a file is not, to the byte, what its card says; all are read."""
    check_sizes(folder, files, remedy)
    for name, wanted in files.items():
        found = checksum(folder / name)["sha256"]
        if found != wanted["sha256"]:
            raise CheckpointError(
                f"{folder / name} is corrupted: its SHA-256 is {found[:16]}..., its card says "
                f"{wanted['sha256'][:16]}.... {remedy}"
            )


def read_json_card(file: Path, expected: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """A card of a known format and version.

    Raises:
        CheckpointError: there is none, or it is of another format or version.
    """
    try:
        card: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}. {remedy}") from error
    if not isinstance(card, dict) or any(card.get(k) != value for k, value in expected.items()):
        named = card if isinstance(card, dict) else {}
        raise CheckpointError(
            f"{file} is of a {named.get('format')} of version {named.get('version')}; this program "
            f"reads a {expected['format']} of version {expected['version']}. {remedy}"
        )
    return card


def check_replaceable(folder: Path, cards: Iterable[str]) -> None:
    """Raise ConfigError for a folder that holds something else than what would replace it.

    Args:
        folder: About to be replaced as a whole.
        cards: Patterns of which a folder of ours matches one.
    """
    if folder.is_dir() and any(folder.iterdir()) and not any(any(folder.glob(c)) for c in cards):
        raise ConfigError(
            f"output_dir={folder} holds other files, which would be deleted. Name an empty or a "
            "new folder."
        )
    if folder.is_file():
        raise ConfigError(f"output_dir={folder} is a file. Name a folder.")
