"""What may be asked of tables, and what an option that does nothing must not change."""

import dataclasses
from typing import Any

import pytest

from recsys.data.hashing import OPEN_SIZE
from recsys.data.schema import NUM_RESERVED, Field, Schema
from recsys.embedding.options import NEUTRAL, EmbeddingOptions
from recsys.errors import ConfigError


def schema(encoding: str = "dynamic") -> Schema:
    size = OPEN_SIZE if encoding == "dynamic" else 50
    ids: dict[str, Any] = {"encoding": encoding, "size": size}
    return Schema(
        fields=(
            Field(name="user", kind="categorical", **ids),
            Field(name="item", kind="categorical", **ids),
            Field(name="past", kind="history", shares="item", **ids),
            Field(name="shop", kind="categorical", encoding="vocabulary", size=9),
        ),
        labels=("click",),
    )


def test_a_dynamic_column_has_as_many_codes_as_rows() -> None:
    options = EmbeddingOptions(vocabulary="dynamic", capacity={"user": 20, "item": 7})
    sizes = {one.name: one.size for one in options.sized(schema())}
    assert sizes == {
        "user": 20 + NUM_RESERVED, "item": 7 + NUM_RESERVED, "past": 7 + NUM_RESERVED, "shop": 9,
    }  # fmt: skip
    layout = options.build_layout(schema())
    assert layout.spans == (22, 9, 8)


def test_the_card_of_a_fitted_vocabulary_is_as_it_was() -> None:
    card = EmbeddingOptions(dim=8).card()
    assert not {"vocabulary", *NEUTRAL} & card.keys()
    assert EmbeddingOptions(**card) == EmbeddingOptions(dim=8)
    dynamic = EmbeddingOptions(vocabulary="dynamic", capacity={"user": 3}, evict="never")
    assert EmbeddingOptions(**dynamic.card()) == dynamic
    assert {one.name: one.default for one in dataclasses.fields(EmbeddingOptions)}[
        "capacity"
    ] == NEUTRAL["capacity"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"vocabulary": "dynamik"}, "Did you mean dynamic"),
        ({"evict": "least_recnt", "vocabulary": "dynamic"}, "Did you mean least_recent"),
        ({"capacity": 0, "vocabulary": "dynamic"}, r"embedding\.capacity=0.*1 to 2\^29"),
        ({"capacity": {"user": -1}, "vocabulary": "dynamic"}, r"embedding\.capacity\.user=-1"),
        ({"capacity": True, "vocabulary": "dynamic"}, "whole number"),
        ({"min_count": 0, "vocabulary": "dynamic"}, r"min_count=0; it must be at least 1"),
        ({"layout": "hashed", "vocabulary": "dynamic"}, r"hashed.*Use embedding=full"),
        ({"sharding": "row_wise", "vocabulary": "dynamic"}, r"Use embedding\.sharding=none"),
        ({"capacity": 7}, r"embedding\.capacity=7.*Set embedding\.vocabulary=dynamic"),
        ({"dynamic": ["user"]}, r"Set embedding\.vocabulary=dynamic"),
        ({"min_count": 2}, r"Set embedding\.vocabulary=dynamic"),
        ({"evict": "never"}, r"Set embedding\.vocabulary=dynamic"),
    ],
)
def test_bad_options_say_what_to_do(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingOptions(**keys)


@pytest.mark.parametrize(
    ("keys", "encoding", "message"),
    [
        ({}, "dynamic", r"user, item: encoded as dynamic.*embedding\.vocabulary=dynamic"),
        ({"vocabulary": "dynamic"}, "vocabulary", r"encoding=dynamic"),
        ({"vocabulary": "dynamic", "capacity": {"user": 3}}, "dynamic", r'not "item"'),
        (
            {"vocabulary": "dynamic", "capacity": {"user": 3, "item": 3, "itm": 3}},
            "dynamic",
            "itm: no dynamic column.*Did you mean item",
        ),
    ],
)
def test_options_and_data_must_agree(keys: dict[str, Any], encoding: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EmbeddingOptions(**keys).build_layout(schema(encoding))
