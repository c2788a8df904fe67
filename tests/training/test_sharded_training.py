"""Sharded tables on two processes: the losses of one, whatever the split, and after every move.

One pair of processes runs all cases (`sharded_jobs`), since starting one costs more than a case.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from recsys.data.encode import FeaturePipeline
from recsys.data.prepare import Prepared
from recsys.embedding.storage import SparseStorage
from recsys.errors import CheckpointError
from recsys.training.checkpoint import Checkpoints
from recsys.training.ranks import Ranks
from tests.training import sharded_jobs as jobs
from tests.training.test_loop import make_data

Found = dict[str, dict]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_data(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="module")
def out(data: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where one process, then two, have left results and checkpoints."""
    folder = tmp_path_factory.mktemp("sharded")
    jobs.start([str(data.folder), str(folder)])
    return folder


@pytest.fixture(scope="module")
def one(out: Path) -> Found:
    return json.loads((out / "1.json").read_text())


@pytest.fixture(scope="module")
def two(out: Path) -> Found:
    return json.loads((out / "2.0.json").read_text())


@pytest.fixture
def alone() -> Iterator[Ranks]:
    ranks = Ranks.join(jobs.CPU, needs_group=True)
    yield ranks
    ranks.leave()
    assert not dist.is_initialized()


def assert_equal(found: list[float], expected: list[float]) -> None:
    assert len(found) == len(expected)
    torch.testing.assert_close(
        torch.tensor(found), torch.tensor(expected), rtol=1e-5, atol=0, msg=str
    )


@pytest.mark.parametrize("case", jobs.CASES)
def test_two_processes_have_the_losses_of_one(one: Found, two: Found, case: str) -> None:
    assert len(one[case]["losses"]) == jobs.STEPS
    assert one[case]["losses"][-1] < one[case]["losses"][0] - 0.1
    assert_equal(two[case]["losses"], one[case]["losses"])
    assert_equal(two[case]["logloss"], one[case]["logloss"])


def test_one_process_does_the_same_whatever_the_split(one: Found) -> None:
    assert_equal(one["row_wise"]["losses"], one["data_parallel"]["losses"])


@pytest.mark.parametrize("case", jobs.CASES)
def test_the_best_weights_come_back(two: Found, case: str) -> None:
    assert two[case]["after"] == pytest.approx(min(two[case]["logloss"]), rel=1e-6)


@pytest.mark.parametrize(
    ("move", "case"),
    [
        ("1 to 2", "row_wise"),
        ("to table_wise", "row_wise"),
        ("to data_parallel", "row_wise"),
        ("from data_parallel", "data_parallel"),
        ("columns to rows", "columns"),
    ],
)
def test_a_move_in_the_middle_changes_no_loss(one: Found, two: Found, move: str, case: str) -> None:
    """The whole series is the curve that the checkpoint brought and the steps after it."""
    assert_equal(two[move]["losses"], one[case]["losses"])


@pytest.mark.parametrize("kind", ["row_wise", "table_wise"])
def test_two_processes_continue_on_one(
    one: Found, out: Path, data: Prepared, alone: Ranks, kind: str
) -> None:
    found = jobs.continued(data, alone, "row_wise", out / "row_wise-2", kind)
    assert_equal(found["losses"], one["row_wise"]["losses"])


def test_a_run_without_sharding_continues_a_sharded_one_and_the_other_way_round(
    one: Found, out: Path, data: Prepared, alone: Ranks, tmp_path: Path
) -> None:
    """Sparse and dense state move too; losses would part at once without either."""
    plain = jobs.continued(data, Ranks(), "row_wise", out / "row_wise-2", "none")
    assert_equal(plain["losses"], one["row_wise"]["losses"])
    trainer, train, _ = jobs.make(data, Ranks(), "row_wise", "none", steps=jobs.HALF)
    assert isinstance(trainer.lookup.storage, SparseStorage)
    trainer.load(Checkpoints(out / "row_wise-2").load(jobs.HALF), train)
    trainer.checkpoints = Checkpoints(tmp_path)
    trainer._saved_step = -1
    trainer.save(train, best=True)
    assert Checkpoints(tmp_path).load().tables is None
    back = jobs.continued(data, alone, "row_wise", tmp_path, "row_wise")
    assert_equal(back["losses"], one["row_wise"]["losses"])


def test_a_shared_table_of_all_fields_becomes_plain(one: Found, out: Path, data: Prepared) -> None:
    plain = jobs.continued(data, Ranks(), "multiplexed", out / "multiplexed-2", "none")
    assert_equal(plain["losses"], one["multiplexed"]["losses"])


def test_tables_split_by_columns_become_plain(one: Found, out: Path, data: Prepared) -> None:
    plain = jobs.continued(data, Ranks(), "columns", out / "columns-2", "none")
    assert_equal(plain["losses"], one["columns"]["losses"])


def test_a_checkpoint_holds_plan_pipeline_and_position(out: Path, data: Prepared) -> None:
    checkpoint = Checkpoints(out / "row_wise-2").load(jobs.HALF)
    assert [one["sharding"] for one in checkpoint.state["plan"]] == ["row_wise", "row_wise"]
    assert [one["ranks"] for one in checkpoint.state["plan"]] == [[0, 1], [0, 1]]
    assert checkpoint.state["loader"]["step"] == jobs.HALF % 10
    pipeline = FeaturePipeline.load(checkpoint.folder / "pipeline")
    assert pipeline.schema == data.pipeline.schema
    assert not list(checkpoint.folder.rglob("*metadata*"))  # torch's pickled index


def test_damage_to_one_part_is_found(out: Path) -> None:
    saved = Checkpoints(out / "table_wise-2")
    part = next((saved.path(jobs.HALF) / "tables").glob("__1_*"))
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    with pytest.raises(CheckpointError, match="is not what was written"):
        saved.load(jobs.HALF)


def test_a_process_without_a_row_takes_part(out: Path, two: Found, data: Prepared) -> None:
    trainer, train, _ = jobs.make(
        data, Ranks(), "row_wise", "none", batch_size=data.train.num_rows - 1
    )
    trainer.lookup.storage.table().zero_()
    assert len(two["no row"]) == 2
    assert len(train) == 2
    assert all(0 < loss < 1 for loss in two["no row"])


def test_what_one_process_refuses_all_refuse_with_its_words(out: Path, two: Found) -> None:
    other = json.loads((out / "2.1.json").read_text())
    assert two["refused"].startswith("ConfigError: no plan fits: the tables need")
    assert two["not agreed"] == "ConfigError: the first process alone knows why"
    assert "step 25 could not be written" in two["full disk"]
    assert "No space left on device" in two["full disk"]
    assert "there is no earlier one" in two["full disk"]
    assert list((out / "full").iterdir()) == []
    assert "does not fit" in two["other optimiser"] or "here" in two["other optimiser"]
    for key in ("refused", "not agreed", "full disk", "other optimiser"):
        assert other[key] == two[key], key
