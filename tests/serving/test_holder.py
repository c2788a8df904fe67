"""Replacing the model: whatever is wrong with the new one, the old one stays."""

import asyncio

import pytest

from recsys.errors import CheckpointError
from recsys.serving.holder import Holder
from recsys.serving.scoring import Scoring
from tests.serving.conftest import FIELDS, MAX_ROWS, Fixed, make_saved


@pytest.fixture(scope="module")
def newer() -> Scoring:
    return Scoring(make_saved(seed=1, run_id="r2"), "r2", MAX_ROWS)


def test_a_newer_model_takes_over(origin: Fixed, newer: Scoring) -> None:
    told: list[tuple[str, str]] = []
    holder = Holder(origin, lambda result, text: told.append((result, text)))
    assert not asyncio.run(holder.reload())
    origin.served, origin.number = newer, "2"
    assert asyncio.run(holder.reload())
    assert holder.served is newer
    assert told == [("done", "run r2 is served now")]
    assert not asyncio.run(holder.reload())
    assert asyncio.run(holder.reload(anyhow=True))


def test_a_broken_one_does_not_and_is_tried_once(origin: Fixed, newer: Scoring) -> None:
    told: list[str] = []
    holder = Holder(origin, lambda result, text: told.append(result))
    old = holder.served
    origin.served, origin.number = CheckpointError("damaged"), "2"  # type: ignore[assignment]
    for _ in range(3):
        assert not asyncio.run(holder.reload())
    assert holder.served is old
    assert holder.error == "CheckpointError: damaged"
    assert told == ["failed"]
    origin.served, origin.number = newer, "3"
    assert asyncio.run(holder.reload())
    assert holder.error is None


def test_going_back_to_the_old_one_is_no_error(origin: Fixed) -> None:
    holder = Holder(origin)
    origin.number = "2"
    good, origin.served = origin.served, CheckpointError("x")  # type: ignore[assignment]
    asyncio.run(holder.reload())
    assert holder.error is not None
    origin.number, origin.served = "1", good
    asyncio.run(holder.reload())
    assert holder.error is None


def test_other_columns_are_refused(origin: Fixed) -> None:
    holder = Holder(origin)
    old = holder.served
    origin.served, origin.number = Scoring(make_saved(fields=FIELDS[1:]), "r3", MAX_ROWS), "2"
    assert not asyncio.run(holder.reload())
    assert holder.served is old
    assert holder.error is not None
    assert "takes other requests" in holder.error
    assert "columns" in holder.error


def test_watching_finds_it_by_itself(origin: Fixed, newer: Scoring) -> None:
    async def watched() -> None:
        holder = Holder(origin)
        task = asyncio.create_task(holder.watch(0.01))
        origin.served, origin.number = newer, "2"
        for _ in range(200):
            await asyncio.sleep(0.01)
            if holder.served is newer:
                break
        task.cancel()
        assert holder.served is newer

    asyncio.run(watched())
