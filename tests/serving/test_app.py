"""The application over HTTP, in this process: answers, refusals, health, counters, documents."""

import json
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from recsys.errors import CheckpointError
from recsys.models.saved import SavedModel
from recsys.serving.app import create_app
from recsys.serving.holder import Holder
from recsys.serving.limits import Limits
from recsys.serving.listing import Listing
from recsys.serving.scoring import Scoring
from tests.serving.conftest import FIELDS, MAX_ROWS, Fixed, frame, make_saved

JSON = {"Content-Type": "application/json"}
NAMES = [one.name for one in FIELDS]


def rows(number: int = 2, seed: int = 0) -> list[dict[str, Any]]:
    return frame(number, seed).select(NAMES).to_dicts()


def problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    told: dict[str, Any] = response.json()
    assert told["status"] == status
    return told


def test_scores_of_raw_rows(client: TestClient, saved: SavedModel) -> None:
    for number in (1, 7, MAX_ROWS):
        found = client.post("/score", json={"rows": rows(number)})
        assert found.status_code == 200
        assert found.headers["content-type"] == "application/json"
        assert found.json()["run"] == "r1"
        np.testing.assert_array_equal(
            found.json()["scores"]["probability"], saved.predict(frame(number))
        )


def test_what_is_wrong_is_named(client: TestClient) -> None:
    bad = rows()
    bad[1]["user"] = "seven"
    told = problem(client.post("/score", json={"rows": bad}), 422)
    assert (told["column"], told["row"]) == ("user", 1)
    problem(client.post("/score", json={"rows": rows(MAX_ROWS + 1)}), 422)
    problem(client.post("/score", content=b"{", headers=JSON), 400)
    problem(client.post("/score", content=b"{}"), 415)
    problem(client.post("/score", data={"rows": "1"}), 415)
    problem(client.post("/score", content=b" " * 65_537, headers=JSON), 413)
    problem(client.post("/score", content=b"[" * 60_000, headers=JSON), 400)
    problem(client.post("/score", content=b'{"rows": [{"\\ud800": 1}]}', headers=JSON), 400)
    problem(client.post("/recommend", json={}), 404)
    problem(client.post("/score/../../etc/passwd", json={}), 404)
    assert problem(client.get("/score"), 405)
    assert client.get("/score").headers["allow"] == "POST"


def test_a_key_that_is_there_twice(client: TestClient, saved: SavedModel) -> None:
    body = json.dumps({"rows": rows(1)})
    twice = body.replace('"city"', '"city": "elsewhere", "city"')
    assert twice != body
    found = client.post("/score", content=twice, headers=JSON).json()["scores"]["probability"]
    assert found == saved.predict(frame(1)).tolist()


def test_what_breaks_inside_is_a_500_without_its_reason(
    saved: SavedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring = Scoring(make_saved(), "r1", MAX_ROWS)

    def broken(rows: object) -> np.ndarray:
        raise RuntimeError("/secret/place")

    monkeypatch.setattr(scoring.saved, "logits_of", broken)
    app = create_app(Holder(Fixed(scoring)))
    with TestClient(app, raise_server_exceptions=False) as client:
        found = client.post("/score", json={"rows": rows()})
        assert "secret" not in json.dumps(problem(found, 500))
        assert client.get("/health").status_code == 200


def test_health_and_readiness(client: TestClient, origin: Fixed) -> None:
    for path in ("/health", "/ready"):
        told = client.get(path).json()
        assert (told["status"], told["run"], told["model"]) == ("ok", "r1", "DCNv2")
        assert told["exact"] is True


def test_a_reload_while_requests_go_on(client: TestClient, origin: Fixed) -> None:
    holder: Holder = client.app.state.holder  # type: ignore[attr-defined]
    before = client.post("/score", json={"rows": rows()}).json()
    origin.served, origin.number = CheckpointError("damaged"), "2"  # type: ignore[assignment]
    client.portal.call(holder.reload)  # type: ignore[union-attr]
    told = client.get("/health").json()
    assert told["status"] == "reload failed"
    assert "damaged" in told["reload_error"]
    assert client.post("/score", json={"rows": rows()}).json() == before
    newer = make_saved(seed=1, run_id="r2")
    origin.served, origin.number = Scoring(newer, "r2", MAX_ROWS), "3"
    client.portal.call(holder.reload)  # type: ignore[union-attr]
    after = client.post("/score", json={"rows": rows()}).json()
    assert after["run"] == "r2"
    assert after["scores"]["probability"] == newer.predict(frame(2)).tolist()
    assert client.get("/openapi.json").json()["info"]["title"] == "DCNv2, run r2"
    counted = client.get("/metrics").text
    assert 'recsys_reloads_total{result="done"} 1' in counted
    assert 'recsys_reloads_total{result="failed"} 1' in counted


def test_counters(client: TestClient) -> None:
    client.post("/score", json={"rows": rows(3)})
    client.post("/score", json={})
    client.get("/nothing/here")
    found = client.get("/metrics")
    assert found.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'recsys_requests_total{route="/score",status="200"} 1',
        'recsys_requests_total{route="/score",status="422"} 1',
        'recsys_requests_total{route="other",status="404"} 1',
        "recsys_batch_rows_sum 3",
        'recsys_model_info{run="r1",model="DCNv2"} 1',
        "recsys_requests_waiting 0",
    ):
        assert line in found.text.splitlines()


def test_a_full_queue_is_not_ready(origin: Fixed, monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys.serving.batcher import Batcher

    made: list[Batcher] = []
    start = Batcher.start
    monkeypatch.setattr(Batcher, "start", lambda self: (made.append(self), start(self))[1])
    with TestClient(create_app(Holder(origin), Limits(max_waiting=1))) as client:
        made[0].waiting = 1
        assert client.get("/ready").headers["retry-after"] == "1"
        problem(client.get("/ready"), 503)
        problem(client.post("/score", json={"rows": rows()}), 503)
        assert client.get("/health").status_code == 200
        made[0].waiting = 0
        assert client.get("/ready").status_code == 200


def test_the_documents_have_the_columns_of_the_run(client: TestClient) -> None:
    found = client.get("/openapi.json").json()
    body = found["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]
    columns = body["schema"]["properties"]["rows"]["items"]["properties"]
    assert list(columns) == NAMES
    assert client.post("/score", json=body["example"]).status_code == 200
    assert "swagger" in client.get("/docs").text


def test_recommending(listing: Listing) -> None:
    with TestClient(create_app(Holder(Fixed(listing)))) as client:
        found = client.post("/recommend", json={"users": ["u1"], "k": 3})
        assert [len(one["items"]) for one in found.json()["recommendations"]] == [3]
        told = problem(client.post("/recommend", json={"users": ["u1", "nobody"]}), 404)
        assert (told["column"], told["row"]) == ("users", 1)
        problem(client.post("/score", json={}), 404)
        assert client.get("/health").json()["search"] == "exact"
