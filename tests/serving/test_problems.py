"""Problem details: a form that clients of any service know."""

import json

from recsys.serving.problems import RequestError, shown


def test_the_body_says_what_and_where() -> None:
    told = json.loads(RequestError(422, "no.", column="a", row=0).body())
    assert told == {
        "type": "about:blank", "title": told["title"],
        "status": 422, "detail": "no.", "column": "a", "row": 0,
    }  # fmt: skip
    assert json.loads(RequestError(404, "no.").body()).keys() == {
        "type", "title", "status", "detail",
    }  # fmt: skip


def test_values_are_cut_and_escaped() -> None:
    assert shown("\ud800\n\x00") == '"\\ud800\\n\\u0000"'
    assert len(shown(["x" * 1000])) == 60
