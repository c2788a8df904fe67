"""The JSON schema of rows names every column and its type."""

from recsys.data.schema import Field, Schema
from recsys.serving.row_schema import column_schema, row_schema
from tests.serving.conftest import FIELDS


def test_every_column_is_required_and_nothing_else_allowed() -> None:
    found = row_schema(Schema(fields=FIELDS, labels=("click",)))
    assert found["required"] == [one.name for one in FIELDS]
    assert list(found["properties"]) == found["required"]
    assert found["additionalProperties"] is False


def test_types_follow_the_columns() -> None:
    types = {one.name: column_schema(one)["type"] for one in FIELDS}
    assert types["user"] == ["integer", "null"]
    assert types["city"] == ["string", "null"]
    assert types["mobile"] == ["boolean", "null"]
    assert types["age"] == ["number", "null"]
    assert types["seen"] == ["array", "null"]
    seen = column_schema(FIELDS[-1])
    assert seen["items"]["type"] == ["string", "null"]
    assert seen["description"] == "history, oldest first; the last 6 are read"
    flag = Field(name="f", kind="numeric", encoding="standard", dtype="bool")
    assert column_schema(flag)["type"] == ["number", "boolean", "null"]
