"""Lists of users: those of the saved model, whoever else is asked for."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.interactions import Interactions
from recsys.models.saved import ModelSpec
from recsys.models.saved_cf import SavedCF, make_cf
from recsys.retrieval.candidates import Candidates
from recsys.serving.listing import Listing
from recsys.serving.problems import RequestError
from tests.serving.conftest import MAX_ROWS


def ask(listing: Listing, **body: Any) -> Any:
    job, _ = listing.read(json.dumps(body).encode())
    (answer,) = listing.answer([job])
    if isinstance(answer, Exception):
        raise answer
    return json.loads(answer)["recommendations"]


def test_lists_are_those_of_the_saved_model(listing: Listing, saved_cf: SavedCF) -> None:
    users = ["u3", "u0", "u3", "u19"]
    for found, user in zip(ask(listing, users=users, k=7), users, strict=True):
        expected = saved_cf.recommend([user], 7)
        assert found["user"] == user
        assert found["source"] == "model"
        assert [one["item"] for one in found["items"]] == expected["item"].to_pylist()
        assert [one["title"] for one in found["items"]] == expected["title"].to_pylist()
        scores = np.array([one["score"] for one in found["items"]])
        np.testing.assert_array_equal(scores, expected["score"].to_numpy())


def test_ten_items_where_nothing_is_said(listing: Listing) -> None:
    assert len(ask(listing, users=["u1"])[0]["items"]) == 10
    assert len(ask(listing, users=["u1"], k=3.0)[0]["items"]) == 3


def test_unknown_users(listing: Listing, saved_cf: SavedCF) -> None:
    with pytest.raises(RequestError, match='user "new" is not among') as error:
        ask(listing, users=["u1", "new", "newer"])
    assert (error.value.status, error.value.row) == (404, 1)
    assert "2 such" in error.value.detail
    popular = Listing(Candidates(saved_cf), "c1", MAX_ROWS, 20, popular=True)
    known, new = ask(popular, users=["u1", "new"], k=4)
    assert (known["source"], new["source"]) == ("model", "popularity")
    expected = Candidates(saved_cf).popular(4).items.to_pylist()
    assert [one["item"] for one in new["items"]] == expected
    assert ask(popular, users=["new"], k=4)[0] == new


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "users is missing"),
        ({"users": []}, "1 to 40"),
        ({"users": ["u1"] * 41}, "1 to 40"),
        ({"users": [1]}, "user 0 is 1, an integer; ids of users are strings"),
        ({"users": ["u1", None]}, "user 1 is null"),
        ({"users": ["u1"], "k": 0}, "k is 0; it must be an integer of 1 to 20"),
        ({"users": ["u1"], "k": 21}, "1 to 20"),
        ({"users": ["u1"], "k": "3"}, 'k is "3"'),
        ({"users": ["u1"], "k": True}, "k is true"),
        ({"users": ["u1"], "k": 1.5}, "k is 1.5"),
        ({"users": ["u1"], "path": "/etc"}, "is not known"),
        ({"users": "u1"}, "must be a list"),
    ],
)
def test_what_does_not_fit_is_named(listing: Listing, body: Any, message: str) -> None:
    with pytest.raises(RequestError) as error:
        ask(listing, **body)
    assert error.value.status == 422
    assert message in error.value.detail


def test_integer_ids() -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"user": [n % 9 for n in range(60)], "item": rng.integers(0, 9, 60)})
    data = Interactions.of("small", frame)
    torch.manual_seed(0)
    spec = ModelSpec("cf", "recsys.models.cf.bprmf.BPRMF", {"embed_dim": 4})
    listing = Listing(Candidates(SavedCF(make_cf(spec, data.train), data, spec)), "folder", 5, 100)
    assert listing.run == "folder"
    assert listing.max_k == 9  # no list is longer than the catalogue
    assert ask(listing, users=[3], k=2)[0]["user"] == 3
    for wrong in ("3", 2**63, -(2**63) - 1, 3.0, True):
        with pytest.raises(RequestError, match="integers of 64 bits"):
            ask(listing, users=[wrong])
    with pytest.raises(RequestError) as error:
        ask(listing, users=[2**63 - 1])
    assert error.value.status == 404


def test_schemas_describe_requests_and_answers(listing: Listing) -> None:
    from jsonschema import Draft202012Validator

    Draft202012Validator(listing.request_schema()).validate(listing.example())
    (answer,) = listing.answer([listing.read(json.dumps(listing.example()).encode())[0]])
    assert isinstance(answer, bytes)
    Draft202012Validator(listing.answer_schema()).validate(json.loads(answer))
