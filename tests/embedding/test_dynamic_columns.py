"""Which columns become dynamic, and what cannot."""

from typing import Any

import pytest

from recsys.data.options import DataOptions, apply_options
from recsys.data.schema import Encoding, Field, Schema
from recsys.embedding.dynamic_columns import encode_dynamic
from recsys.embedding.options import EmbeddingOptions
from recsys.errors import ConfigError

VOCABULARY: dict[str, Any] = {"encoding": "vocabulary", "min_count": 2}
SCHEMA = Schema(
    fields=(
        Field(name="user_id", kind="categorical", **VOCABULARY),
        Field(name="adId", kind="categorical", **VOCABULARY),
        Field(name="paid", kind="categorical", **VOCABULARY),
        Field(name="item", kind="categorical", **VOCABULARY),
        Field(name="past", kind="history", shares="item", **VOCABULARY),
        Field(name="tag_id", kind="multivalued", **VOCABULARY),
        Field(name="price_id", kind="numeric", encoding="log"),
    ),
    labels=("click",),
)


def dynamic(*names: str, **data: Any) -> list[str]:
    embedding = EmbeddingOptions(vocabulary="dynamic", dynamic=list(names))
    options = encode_dynamic(SCHEMA, DataOptions(**data), embedding)
    return [f.name for f in apply_options(SCHEMA, options) if f.encoding is Encoding.DYNAMIC]


def test_without_names_those_called_as_ids() -> None:
    assert dynamic() == ["user_id", "adId"]


def test_names_win_and_bring_their_histories() -> None:
    assert dynamic("item", "tag_id") == ["item", "past", "tag_id"]


def test_columns_the_data_says_are_dynamic_need_no_name() -> None:
    assert dynamic(fields={"paid": {"encoding": "dynamic"}}) == ["paid"]
    assert dynamic("item", fields={"paid": {"encoding": "dynamic"}}) == ["paid", "item", "past"]


def test_a_fitted_vocabulary_changes_nothing() -> None:
    data = DataOptions(min_count=3)
    assert encode_dynamic(SCHEMA, data, EmbeddingOptions()) is data


@pytest.mark.parametrize(
    ("names", "data", "message"),
    [
        (["usr_id"], {}, "usr_id, which is no column.*Did you mean user_id"),
        (["price_id"], {}, "price_id, which is numeric. Allowed: user_id"),
        (["past"], {}, "past, which has the table of item: name that"),
        ([], {"features": ["item", "paid"]}, r"no category is called id.*\[paid, item\]"),
    ],
)
def test_what_cannot_be_dynamic(names: list[str], data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dynamic(*names, **data)
