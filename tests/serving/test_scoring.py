"""Scores of requests are, to the bit, those of a table, in any company."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.data.schema import Field
from recsys.models.saved import SavedModel
from recsys.serving.problems import RequestError
from recsys.serving.scoring import Scoring
from tests.serving.conftest import FIELDS, MAX_ROWS, frame, make_saved


def job(scoring: Scoring, table: pl.DataFrame) -> Any:
    rows = table.select(scoring.saved.pipeline.schema.names).to_dicts()
    return scoring.read(json.dumps({"rows": rows}).encode())[0]


def scores(answer: bytes | Exception, name: str = "probability") -> np.ndarray:
    assert isinstance(answer, bytes), answer
    return np.array(json.loads(answer)["scores"][name])


def test_scores_are_those_of_a_table_to_the_bit(scoring: Scoring, saved: SavedModel) -> None:
    table = frame(120, seed=3)
    expected = saved.predict(table)
    assert expected.dtype == np.float32
    sizes = [1, 2, 3, 5, 7, 16, 17, 40, 29]
    starts = np.cumsum([0, *sizes])
    jobs = [job(scoring, table.slice(a, n)) for a, n in zip(starts, sizes, strict=False)]
    alone = np.concatenate([scores(scoring.answer([one])[0]) for one in jobs])
    together = np.concatenate([scores(one) for one in scoring.answer(jobs)])
    for found in (alone, together):
        # Equal as float64 too: what is written is the float32 itself.
        np.testing.assert_array_equal(found, expected.astype(np.float64))
        np.testing.assert_array_equal(found.astype(np.float32), expected)


def test_several_labels_have_a_list_each() -> None:
    saved = make_saved(labels=("click", "buy"))
    scoring = Scoring(saved, "r1", MAX_ROWS)
    table = frame(9, seed=4)
    (answer,) = scoring.answer([job(scoring, table)])
    expected = saved.predict(table)
    for position, label in enumerate(("click", "buy")):
        np.testing.assert_array_equal(scores(answer, f"probability_{label}"), expected[:, position])


def test_the_promise_is_tried_out(saved: SavedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Scoring(saved, "r1", MAX_ROWS).facts() == {
        "exact": True, "largest_difference_of_logits": 0.0,
    }  # fmt: skip
    monkeypatch.setattr(
        SavedModel, "logits_of", lambda self, rows: np.arange(len(rows), dtype=np.float32)
    )
    assert Scoring(saved, "r1", MAX_ROWS).facts()["exact"] is False


def test_the_run_names_itself(saved: SavedModel) -> None:
    assert Scoring(saved, "some/folder", MAX_ROWS).run == "r1"
    anonymous = SavedModel(saved.model, saved.pipeline, saved.spec)
    assert Scoring(anonymous, "some/folder", MAX_ROWS).run == "some/folder"


def test_the_example_has_frequent_values(scoring: Scoring, saved: SavedModel) -> None:
    (row,) = scoring.example()["rows"]
    assert list(row) == list(saved.pipeline.schema.names)
    for name in ("user", "item", "city", "version", "mobile"):
        assert row[name] == saved.pipeline.tokens(name)[3].as_py()
    assert 0.3 < row["price"] < 3
    assert isinstance(row["age"], int)
    assert row["seen"] == [row["item"]]


def test_a_number_that_overflows_fails_alone(scoring: Scoring) -> None:
    good, bad = frame(4, seed=5), frame(4, seed=6)
    bad = bad.with_columns(pl.Series("stay", [1.0, 2.0, 1e300, 3.0]))
    alone = scores(scoring.answer([job(scoring, good)])[0])
    first, second, third = scoring.answer([job(scoring, one) for one in (good, bad, good)])
    assert isinstance(second, RequestError)
    assert (second.status, second.column, second.row) == (422, "stay", 2)
    np.testing.assert_array_equal(scores(first), alone)
    np.testing.assert_array_equal(scores(third), alone)


def test_the_interface_is_columns_and_labels(scoring: Scoring) -> None:
    assert Scoring(make_saved(seed=1, run_id="r2"), "r2", 5).interface == scoring.interface
    fewer = Scoring(make_saved(fields=FIELDS[1:]), "r3", 5)
    assert fewer.interface != scoring.interface
    wider = (Field(name="user", kind="categorical", encoding="vocabulary"), *FIELDS[1:])
    frame_of_texts = make_saved(fields=wider)
    assert Scoring(frame_of_texts, "r4", 5).interface != scoring.interface


def test_schemas_describe_requests_and_answers(scoring: Scoring) -> None:
    from jsonschema import Draft202012Validator, ValidationError

    requests = Draft202012Validator(scoring.request_schema())
    rows = frame(3).select([one.name for one in FIELDS]).to_dicts()
    requests.validate({"rows": rows})
    (answer,) = scoring.answer([job(scoring, frame(3))])
    assert isinstance(answer, bytes)
    Draft202012Validator(scoring.answer_schema()).validate(json.loads(answer))
    for wrong in (
        {"rows": []}, {"rows": rows * 20}, {"rows": [{**rows[0], "click": 1}]},
        {"rows": [{**rows[0], "user": 1.5}]}, {"rows": [{**rows[0], "tags": "a"}]}, {"row": rows},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            requests.validate(wrong)
        with pytest.raises(RequestError):
            scoring.read(json.dumps(wrong).encode())
