"""A provider's failure says what to do next, and neither document text nor keys leave with it."""

import json
from typing import Any

import httpx2
import llm
import openai
import pytest

from worker.backends.failures import classify
from worker.backends.redaction import redact
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError

TEXT = "The merger with Initech closes on Friday; nobody outside the board may know about it."
KEY = "prod-gateway-password"


def of_openai(status: int, body: Any = None, headers: dict[str, str] | None = None) -> openai.APIStatusError:
    """What the openai package raises for such an answer."""
    request = httpx2.Request("POST", "http://127.0.0.1/v1/embeddings")
    response = httpx2.Response(status, headers=headers, json=body, request=request)
    client = openai.OpenAI(api_key="unused", base_url="http://127.0.0.1")
    return client._make_status_error_from_response(response)


def body(message: str, code: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": code}}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (of_openai(400, body("too long", "context_length_exceeded")), TooLarge),
        (of_openai(400, body("Requested 400000 tokens", "max_tokens_per_request")), TooLarge),
        (of_openai(400, body("array too long", "array_above_max_length")), TooLarge),
        (of_openai(400, body("This model's maximum context length is 8192 tokens")), TooLarge),
        (of_openai(413, body("payload")), TooLarge),
        (of_openai(422, body("inputs must have less than 512 tokens. Given: 600")), TooLarge),
        (of_openai(400, body("rejected by our content policy")), Refused),
        (of_openai(422, body("not a string")), Refused),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), Refused),
        (ValueError("a text without tokens, such as an empty one, cannot be embedded"), Refused),
        (of_openai(401, body("no")), SettingsError),
        (of_openai(403, body("no")), SettingsError),
        (of_openai(404, body("no such model")), SettingsError),
        (of_openai(429, body("You exceeded your quota", "insufficient_quota")), SettingsError),
        (llm.NeedsKeyException("No key found"), SettingsError),
        (TypeError("create() got an unexpected keyword argument"), SettingsError),
        (ImportError("No module named 'torch'"), SettingsError),
        (of_openai(408), ProviderUnavailable),
        (of_openai(409), ProviderUnavailable),
        (of_openai(429, body("slow down", "rate_limit_exceeded")), ProviderUnavailable),
        (of_openai(500), ProviderUnavailable),
        (of_openai(529), ProviderUnavailable),
        (openai.APIConnectionError(request=httpx2.Request("POST", "http://127.0.0.1")), ProviderUnavailable),
        (httpx2.ReadTimeout("timed out"), ProviderUnavailable),
        (ConnectionRefusedError(111, "Connection refused"), ProviderUnavailable),
        (TimeoutError(), ProviderUnavailable),
        (json.JSONDecodeError("Expecting value", "<html>", 0), ProviderUnavailable),
        (ValueError("No embedding data received"), ProviderUnavailable),
        (AttributeError("'str' object has no attribute 'data'"), ProviderUnavailable),
        (llm.ModelError("something"), ProviderUnavailable),
        (llm.ModelError("429: rate_limited - Rate limit exceeded"), ProviderUnavailable),
        (llm.ModelError("400: invalid_request - Too many tokens overall"), TooLarge),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{type(value).__name__} {value}"[:50],
)
def test_each_failure_says_what_the_caller_can_do(error: Exception, kind: type[VectorIndexError]) -> None:
    assert type(classify(error, model_id="m")) is kind


def test_a_status_is_found_behind_the_exception_of_a_plugin() -> None:
    """llm-mistral raises ModelError from the error of its client."""
    error = llm.ModelError("it failed")
    error.__cause__ = of_openai(503, headers={"retry-after": "7"})
    found = classify(error, model_id="m")
    assert isinstance(found, ProviderUnavailable)
    assert found.retry_after_seconds == 7


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "20"}, 20.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({}, None),
    ],
)
def test_a_rate_limit_carries_the_time_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    found = classify(of_openai(429, headers=headers), model_id="m")
    assert isinstance(found, ProviderUnavailable)
    assert found.rate_limited
    assert found.retry_after_seconds == seconds


@pytest.mark.parametrize(
    "message",
    [
        f"cannot embed {TEXT!r}",
        f"cannot embed '{TEXT[:30]}...'",
        f"{TEXT.replace(' ', chr(10))}",
        f"Incorrect API key provided: {KEY}",
        "Incorrect API key provided: sk-proj-Abc***********XyZ9",
        "at https://host.example/v1/embed?key=AIzaSyA1234567890abcdefghijk",
        "header was Bearer abc.def.ghi",
    ],
)
def test_no_message_carries_document_text_or_keys(message: str) -> None:
    shown = str(classify(of_openai(400, body(message)), model_id="m", texts=["other", TEXT], secrets=[KEY]))
    assert "HTTP 400" in shown
    for leak in (KEY, "Initech", "board", "sk-proj", "XyZ9", "AIza", "abc.def"):
        assert leak not in shown


def test_what_the_provider_says_reaches_the_operator() -> None:
    message = "This model's maximum context length is 8192 tokens, however you requested 9000 tokens"
    shown = str(
        classify(of_openai(400, body(message, "context_length_exceeded")), model_id="m", texts=[TEXT])
    )
    assert shown.startswith(f"m: HTTP 400 context_length_exceeded ({message})")


def test_a_whole_short_text_is_removed_where_it_stands_as_a_word() -> None:
    assert redact("refused: Initech is in Initechland", texts=["Initech"]) == "refused: … is in Initechland"
