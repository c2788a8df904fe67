"""Files of tables in one process; many processes are in `test_sharded_training.py`."""

import json
from pathlib import Path

import pytest
import torch

from recsys.errors import CheckpointError
from recsys.training.table_files import INDEX, read_tables, read_whole, table_sizes, write_tables


def tables() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "user.weight": torch.randn(5, 8, generator=generator),
        "user.sum_of_squares": torch.rand(5, generator=generator),
    }


def test_round_trip_is_exact_and_nothing_is_pickled(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables", tables())
    found = read_whole(tmp_path / "tables")
    assert found.keys() == tables().keys()
    for name, tensor in tables().items():
        assert torch.equal(found[name], tensor)
    assert table_sizes(tmp_path / "tables") == {
        "user.weight": (5, 8), "user.sum_of_squares": (5,),
    }  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["__0_0.distcp", INDEX]


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables", tables())
    with pytest.raises(CheckpointError, match=r"has no item\.weight; it has user"):
        read_tables(tmp_path / "tables", {"item.weight": torch.zeros(5, 8)})
    with pytest.raises(CheckpointError, match=r"user\.weight is \[5, 8\].*\[4, 8\] here"):
        read_tables(tmp_path / "tables", {"user.weight": torch.zeros(4, 8)})


def test_a_missing_part_and_a_missing_index(tmp_path: Path) -> None:
    """torch's own error is no Exception; ours is."""
    folder = tmp_path / "tables"
    write_tables(folder, tables())
    next(folder.glob("*.distcp")).unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_whole(folder)
    (folder / INDEX).write_text("{")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_whole(folder)


def test_an_index_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    write_tables(folder, tables())
    index = json.loads((folder / INDEX).read_text())
    for entry in index.values():
        for part in entry["parts"]:
            part["file"] = "../elsewhere/" + part["file"]
    (folder / INDEX).write_text(json.dumps(index))
    found = read_whole(folder)
    assert torch.equal(found["user.weight"], tables()["user.weight"])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(OSError):
        write_tables(blocker / "tables", tables())
