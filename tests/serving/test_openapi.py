"""The document is OpenAPI 3.1 and says what is refused."""

import pytest

from recsys.serving import openapi
from recsys.serving.limits import Limits
from recsys.serving.listing import Listing
from recsys.serving.scoring import Scoring


@pytest.mark.parametrize("kind", ["scoring", "listing"])
def test_every_refusal_is_a_problem(kind: str, scoring: Scoring, listing: Listing) -> None:
    served = scoring if kind == "scoring" else listing
    found = openapi.document(served, Limits(), "1")
    assert found["openapi"] == "3.1.0"
    post = found["paths"][served.route]["post"]
    expected = {"200", "400", "408", "413", "415", "422", "503"}
    assert post["responses"].keys() == (expected | {"404"} if kind == "listing" else expected)
    for status, response in post["responses"].items():
        (media,) = response["content"]
        assert media == ("application/json" if status == "200" else "application/problem+json")
    body = post["requestBody"]["content"]["application/json"]
    assert body["example"] == served.example()
    assert found["paths"].keys() == {served.route, "/health", "/ready", "/metrics"}
