"""The OpenAPI document of a server: the columns of the model at hand, what it answers, what it
refuses."""

from __future__ import annotations

from typing import Any

from recsys.serving.json_body import MEDIA_TYPE
from recsys.serving.limits import Limits
from recsys.serving.problems import CONTENT_TYPE
from recsys.serving.served import Served

_REASONS = {
    400: "The body is not JSON.",
    404: "A user is not among those of training.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared to be JSON.",
    422: "A value, a column or a number of rows is not allowed; `detail` says which.",
    503: "Too many requests wait, or scoring took too long.",
}
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "column": {"type": "string"},
        "row": {"type": "integer", "minimum": 0},
    },
}
_HEALTH = {
    "type": "object",
    "required": ["status", "run", "model"],
    "properties": {
        "status": {"type": "string", "enum": ["ok", "reload failed"]},
        "run": {"type": "string"},
        "model": {"type": "string"},
    },
}


def document(served: Served, limits: Limits, version: str) -> dict[str, Any]:
    """An OpenAPI 3.1 document.

    Args:
        served: The model.
        limits: Of requests.
        version: Of this library.
    """
    what = "score" if served.route == "/score" else "recommend"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"{served.name}, run {served.run}",
            "version": version,
            "description": (
                f"At most {limits.max_body_bytes:,} bytes a request. Of a key that is there twice "
                "the last one counts."
            ),
        },
        "paths": {
            served.route: {"post": _post(served, what)},
            "/health": {"get": _get("health", "Which model is served, and how it is.", _HEALTH)},
            "/ready": {"get": _get("ready", "Whether requests are taken now.", _HEALTH, busy=True)},
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Counters for Prometheus.",
                    "responses": {
                        "200": {
                            "description": "Text format 0.0.4.",
                            "content": {"text/plain": {"schema": {"type": "string"}}},
                        }
                    },
                }
            },
        },
        "components": {"schemas": {"Problem": _PROBLEM}},
    }


def _post(served: Served, what: str) -> dict[str, Any]:
    refused = {status for status in _REASONS if status != 404 or what == "recommend"}
    return {
        "operationId": what,
        "summary": "Probabilities of rows." if what == "score" else "The best items of users.",
        "requestBody": {
            "required": True,
            "content": {
                MEDIA_TYPE: {"schema": served.request_schema(), "example": served.example()}
            },
        },
        "responses": {
            "200": _answer("In the order of the request.", served.answer_schema()),
            **{str(status): _problem(_REASONS[status]) for status in sorted(refused)},
        },
    }


def _get(name: str, summary: str, schema: dict[str, Any], busy: bool = False) -> dict[str, Any]:
    responses = {"200": _answer("It is.", schema)}
    if busy:
        responses["503"] = _problem("Too many requests wait.")
    return {"operationId": name, "summary": summary, "responses": responses}


def _answer(text: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": text, "content": {MEDIA_TYPE: {"schema": schema}}}


def _problem(text: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    return {"description": text, "content": {CONTENT_TYPE: {"schema": schema}}}
