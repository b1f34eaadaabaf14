"""Payloads: values that kombu or Python cannot read."""

import base64
import json
import pickle
import random
import time
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from kombu.transport import virtual
from kombu.utils.json import dumps

from worker.celery.upstream import payloads
from worker.documents import MAX_DIGITS, Document, LongNumber, document_id, document_label
from worker.errors import InvalidDocument


@pytest.mark.parametrize(
    "value",
    [
        UUID(int=7),
        date(1994, 2, 14),
        Decimal("1.50"),
        {"__type__": "Point", "__value__": [1]},
        {"__type__": "datetime", "__value__": "geheim"},
        {"__type__": [], "__value__": 1},
        {"__type__": "decimal", "__value__": 1, "more": 2},
        LongNumber(5000),
        10**MAX_DIGITS - 1,
    ],
    ids=repr,
)
def test_a_task_that_is_retried_has_its_arguments_still(value: object) -> None:
    assert payloads.read(dumps([value])) == [value]  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    "text", ["", "QQ==", "YW Jj", "YWJj\n", 'YW"Jj', "YW\\nJj", "YWJjZGU=", "=QQ=", "Q", "é"]
)
def test_base64_is_decoded_as_kombu_decodes_it(text: str) -> None:
    assert _outcome(payloads.Base64(), text) == _outcome(virtual.Base64(), text)


def _outcome(codec: Any, text: str) -> bytes | None:
    try:
        decoded: bytes = codec.decode(text)
    except ValueError:
        return None
    return decoded


@pytest.mark.parametrize("body", ["[1, 'é']", b"\x00\xff"])
def test_base64_is_encoded_as_kombu_encodes_it(body: str | bytes) -> None:
    assert payloads.Base64().encode(body) == virtual.Base64().encode(body)  # type: ignore[no-untyped-call]


def test_a_large_body_is_decoded_in_half_the_time() -> None:
    body = random.Random(1).randbytes(500_000)
    encoded = base64.b64encode(body).decode()

    def seconds(decode: Callable[[str], bytes]) -> float:
        began = time.process_time()
        assert decode(encoded) == body
        return time.process_time() - began

    ours, python = (
        min(seconds(decode) for _ in range(9)) for decode in (payloads.Base64().decode, base64.b64decode)
    )
    assert ours < python / 2


@pytest.mark.parametrize(
    "text",
    ['[-0, 1E400, -1e-400, 0.1, 1e5, NaN, -Infinity, 9007199254740993, -9223372036854775809]', '{"a": 1, "a": [2]}',
     '["\\ud800", "\\ud83d\\ude00", "\\u0000", "\x7f"]', '[01]',
     '[1.]', '["\t"]', '["a\\x"]', '[1] 2', '\ufeff[]', '', '"\ud800"',
     '["é"]'.encode("utf-16"), b'["\xff"]', ' [ ] '],
    ids=repr,
)  # fmt: skip
def test_json_is_read_as_python_reads_it(text: str | bytes) -> None:
    try:
        expected = repr(json.loads(text))
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            payloads.read(text)
    else:
        assert repr(payloads.read(text)) == expected


@pytest.mark.parametrize("digits", [MAX_DIGITS + 1, 4_299, 4_301, 50_000])
def test_a_long_integer_is_read_as_its_length(digits: int) -> None:
    assert payloads.read(f"[-{'7' * digits}]") == [LongNumber(digits)]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (10**700, "metadata.x is a number of 701 digits; at most 640 are allowed: send it as a string"),
        (
            LongNumber(5000),
            "metadata.x is a number of 5,000 digits; at most 640 are allowed: send it as a string",
        ),
    ],
)
def test_a_long_integer_in_metadata_refuses_its_document(value: object, said: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        Document.from_json({"id": 1, "text": "", "metadata": {"x": value}}, max_bytes=10)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    "id",
    [10**600, 10**4200, 10**20_000, Decimal("1e600"), Decimal("1e999999"), LongNumber(9999)],
    ids=["600 digits", "4,201 digits", "20,001 digits", "Decimal", "large Decimal", "too long"],
)
def test_a_long_integer_is_no_id(id: object) -> None:
    with pytest.raises(InvalidDocument, match=r"^id (has \d+ characters|must be)"):
        document_id(id)
    document_label({"id": id})  # whatever it is, it can be named


@pytest.mark.parametrize("levels", [[], [{}], {"a": {}}])
def test_keys_of_celery_refuse_their_document_wherever_they_are(levels: Any) -> None:
    inside = {"__type__": "decimal", "__value__": "1"}
    text = json.dumps({"id": 1, "text": "", "metadata": {"x": [levels, inside]}})
    with pytest.raises(InvalidDocument, match=r"^metadata\.x\[1\] has the keys __type__ and __value__ alone"):
        Document.from_json(json.loads(text), max_bytes=10)


def test_what_is_nested_too_deep_can_be_passed_to_a_process() -> None:
    found = payloads.read("[" * 900 + "]" * 900)
    assert pickle.dumps(found)
    with pytest.raises(InvalidDocument, match="nested more than 32 levels deep"):
        Document.from_json({"id": 1, "text": "", "metadata": {"x": found}}, max_bytes=10)
