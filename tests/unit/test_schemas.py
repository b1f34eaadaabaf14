"""Structured answers are checked against their schema, and a schema that cannot be checked is refused at start."""

import json
from typing import Any

import pytest
from pydantic import BaseModel

from worker import wiring
from worker.chat.schemas import check_schema, read_data
from worker.configuration import ChatBackendSettings
from worker.errors import SettingsError

NAMED: Any = {
    "type": "object",
    "properties": {
        "next": {"anyOf": [{"$ref": "#/$defs/Named"}, {"type": "null"}]},
        "name": {"minLength": 2},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def of(schema: Any) -> Any:
    return {"type": "object", "properties": {"a": schema}}


@pytest.mark.parametrize(
    ("schema", "value", "valid"),
    [
        ({"type": "string"}, "x", True),
        ({"type": "string"}, 1, False),
        ({"type": "integer"}, True, False),
        ({"type": "integer"}, 2.0, True),
        ({"type": "number"}, 2.5, True),
        ({"type": ["string", "null"]}, None, True),
        ({"enum": ["x", 1]}, True, False),
        ({"const": 1}, 1, True),
        ({"minimum": 3}, 2, False),
        ({"exclusiveMaximum": 3}, 3, False),
        ({"multipleOf": 2}, 3, False),
        ({"pattern": "^a+$"}, "aab", False),
        ({"minLength": 2}, "a", False),
        ({"maxItems": 1}, [1, 2], False),
        ({"type": "array", "items": {"type": "string"}}, ["x", 1], False),
        ({"oneOf": [{"type": "integer"}, {"minimum": 0}]}, 3, False),
        ({"allOf": [{"type": "integer"}, {"minimum": 0}]}, -3, False),
        ({"additionalProperties": {"type": "string"}}, {"x": "y"}, True),
        ({"additionalProperties": {"type": "string"}}, {"x": 1}, False),
        ({"required": ["x"]}, {}, False),
        (False, 1, False),
    ],
)
def test_a_value_matches_its_schema_or_does_not(schema: Any, value: Any, valid: bool) -> None:
    whole = check_schema(of(schema), "PROMPT_KWARGS")
    if valid:
        assert read_data(json.dumps({"a": value}), whole) == {"a": value}
    else:
        with pytest.raises(ValueError, match="does not match"):
            read_data(json.dumps({"a": value}), whole)


def test_a_schema_may_refer_to_itself() -> None:
    schema = check_schema({**NAMED, "$defs": {"Named": NAMED}}, "PROMPT_KWARGS")
    assert read_data('{"name": "ab", "next": {"name": "cd", "next": null}}', schema)["next"]["name"] == "cd"
    for wrong in ('{"name": "ab", "next": {"name": "c"}}', '{"name": "ab", "other": 1}'):
        with pytest.raises(ValueError, match="does not match"):
            read_data(wrong, schema)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "NaN", "```json\n{}\n```"])
def test_text_that_is_not_json_is_no_data(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the reason is not shown
        read_data(text, {"type": "object"})


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"type": "array"}, 'set its "type" to "object"'),
        ("name, age int", 'set its "type" to "object"'),
        (of({"patternProperties": {}}), "'patternProperties', which answers are not checked against"),
        (of({"$ref": "#/$defs/Missing"}), "which it lacks"),
        (of({"$ref": "http://example.org/schema"}), "which it lacks"),
    ],
)
def test_a_schema_that_cannot_be_checked_is_refused(schema: Any, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_schema(schema, "PROMPT_KWARGS of chat backend 'default'")
    assert str(caught.value).startswith("PROMPT_KWARGS of chat backend 'default' has a schema")
    assert told in str(caught.value)


def backend(schema: object, **others: Any) -> ChatBackendSettings:
    return ChatBackendSettings(name="mine", class_path="x.Y", prompt_kwargs={"schema": schema}, **others)


def test_a_schema_may_be_a_class_of_pydantic() -> None:
    class Loan(BaseModel):
        days: int

    schema = wiring.answer_schema(backend(Loan))
    assert schema is not None
    assert read_data('{"days": 28}', schema) == {"days": 28}
    assert wiring.answer_schema(backend(None)) is None


def test_a_backend_with_a_schema_is_checked_when_it_is_made() -> None:
    with pytest.raises(
        SettingsError, match="PROMPT_KWARGS of chat backend 'mine' has a schema that is no object"
    ):
        wiring.make_chat_backend(backend({"type": "string"}))
    with pytest.raises(SettingsError, match='FOLLOW_UP "rewrite" would get too: set FOLLOW_UP to "fuse"'):
        wiring.make_chat_backend(backend(of({}), follow_up="rewrite"))
