"""Failures of providers become errors that tell what to do, without document text and keys."""

import base64
import html
import json
import re
import time
import unicodedata
import urllib.parse
from collections.abc import Callable
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
    """The exception of the openai package for this answer."""
    request = httpx2.Request("POST", "http://127.0.0.1/v1/embeddings")
    response = httpx2.Response(status, headers=headers, json=body, request=request)
    quick = openai.DefaultHttpxClient(verify=False)  # reads no certificates, which takes 40 ms
    client = openai.OpenAI(api_key="unused", base_url="http://127.0.0.1", http_client=quick)
    return client._make_status_error_from_response(response)


class MistralError(Exception):
    """The exception of mistralai, the cause of the one of llm-mistral 0.16."""

    def __init__(self, status_code: int, headers: dict[str, str]) -> None:
        super().__init__("API error occurred")
        self.status_code, self.headers, self.body = status_code, headers, '{"message": "of no interest"}'


class ResponseError(Exception):
    """The exception of ollama; its status is -1 without an HTTP answer."""

    def __init__(self, message: str, status_code: int = -1) -> None:
        super().__init__(message)
        self.status_code = status_code


class ClaudeRefusal(llm.ModelError):
    """The exception of llm-anthropic 0.30 for HTTP 200 with an empty answer."""


def of_mistral(status: int, message: str, headers: dict[str, str] | None = None) -> llm.ModelError:
    error = llm.ModelError(f"{status}: error - {message}")
    error.__cause__ = MistralError(status, headers or {})
    return error


def of_gemini(status: int, message: str, word: str) -> httpx2.HTTPStatusError:
    """The exception of raise_for_status, which the embeddings of llm-gemini 0.35 pass on."""
    said = {"error": {"code": status, "message": message, "status": word}}
    request = httpx2.Request("POST", "https://generativelanguage.googleapis.com/v1beta/models/m:embed")
    response = httpx2.Response(status, json=said, request=request)
    return httpx2.HTTPStatusError(
        f"Client error '{status}' for url {request.url}", request=request, response=response
    )


def of_anthropic(status: int, message: str, kind: str) -> openai.APIStatusError:
    """The exception of the anthropic package, which is generated like openai's; its body has one more level."""
    error = of_openai(status)
    error.body = {"type": "error", "error": {"type": kind, "message": message}}
    return error


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
        (TypeError("'NoneType' object is not subscriptable"), ProviderUnavailable),
        (NotImplementedError("System prompts are not supported"), SettingsError),
        (of_openai(402, body("Insufficient credits")), SettingsError),
        (of_openai(405, {"detail": "Method Not Allowed"}), SettingsError),
        (of_openai(308), SettingsError),
        # TEI and Ollama send a sentence, Voyage a detail, FastAPI a list of details
        (of_openai(400, {"error": "the input length exceeds the context length"}), TooLarge),
        (of_openai(400, {"detail": "The max allowed tokens per submitted batch is 120000."}), TooLarge),
        (of_openai(422, {"detail": [{"loc": ["input"], "msg": "too many inputs", "input": TEXT}]}), TooLarge),
        (UnicodeEncodeError("ascii", "\u201csk", 0, 1, "ordinal not in range(128)"), SettingsError),
        (of_openai(404), SettingsError),
        (of_openai(503, body("overloaded")), ProviderUnavailable),
        (of_openai(409, body("conflict")), ProviderUnavailable),
        (of_openai(418, body("a teapot")), Refused),
        (of_openai(500, body("input is too large to process. increase the physical batch size")), TooLarge),
        (of_anthropic(401, "invalid x-api-key", "authentication_error"), SettingsError),
        (of_anthropic(400, "Your credit balance is too low", "invalid_request_error"), SettingsError),
        (of_anthropic(400, "prompt is too long: 210000 tokens > 200000", "invalid_request_error"), TooLarge),
        (of_anthropic(413, "Request exceeds the maximum size", "request_too_large"), TooLarge),
        (of_anthropic(529, "Overloaded", "overloaded_error"), ProviderUnavailable),
        (ClaudeRefusal("This request was declined"), Refused),
        (of_mistral(401, "Unauthorized"), SettingsError),
        (of_mistral(400, "Too many inputs in request, split into more batches."), TooLarge),
        (of_mistral(429, "Requests rate limit exceeded"), ProviderUnavailable),
        (of_mistral(422, "Input should be a valid string"), Refused),
        (of_mistral(503, "Service unavailable"), ProviderUnavailable),
        (
            of_gemini(400, "API key not valid. Please pass a valid API key.", "INVALID_ARGUMENT"),
            SettingsError,
        ),
        (of_gemini(400, "at most 100 requests can be in one batch", "INVALID_ARGUMENT"), TooLarge),
        (of_gemini(400, "Request contains an invalid argument", "INVALID_ARGUMENT"), Refused),
        (of_gemini(403, "Permission denied", "PERMISSION_DENIED"), SettingsError),
        (of_gemini(429, "Resource has been exhausted", "RESOURCE_EXHAUSTED"), ProviderUnavailable),
        (of_gemini(503, "The model is overloaded", "UNAVAILABLE"), ProviderUnavailable),
        (llm.ModelError("API key not valid. Please pass a valid API key."), SettingsError),
        (llm.ModelError("The input token count exceeds the maximum number of tokens allowed"), TooLarge),
        (llm.ModelError("The model is overloaded. Please try again later."), ProviderUnavailable),
        (IndexError("list index out of range"), ProviderUnavailable),
        (ResponseError("model 'llama9' not found, try pulling it first", 404), SettingsError),
        (ResponseError("the input length exceeds the context length", 400), TooLarge),
        (ResponseError("unexpected EOF"), ProviderUnavailable),
        (ResponseError("llama runner process has terminated", 500), ProviderUnavailable),
        (ConnectionError("Failed to connect to Ollama"), ProviderUnavailable),
        (OSError("cannot read the weights"), ProviderUnavailable),
        (RuntimeError("CUDA out of memory"), ProviderUnavailable),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{type(value).__name__} {value}"[:50],
)
def test_each_failure_becomes_the_error_that_tells_the_caller_what_to_do(
    error: Exception, kind: type[VectorIndexError]
) -> None:
    assert type(classify(error, model_id="m")) is kind


def test_a_status_is_found_on_the_cause_of_a_plugins_exception() -> None:
    """llm-mistral raises a ModelError from the exception of its client."""
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
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 3_600.0),
        # by the clock of the provider, which may be another than ours
        ({"retry-after": "Thu, 01 Jan 1970 00:01:30 GMT", "date": "Thu, 01 Jan 1970 00:01:00 GMT"}, 30.0),
        ({"retry-after": "9" * 400}, 3_600.0),
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
def test_messages_contain_no_document_text_and_no_keys(message: str) -> None:
    shown = str(classify(of_openai(400, body(message)), model_id="m", texts=["other", TEXT], secrets=[KEY]))
    assert "HTTP 400" in shown
    for leak in (KEY, "Initech", "board", "sk-proj", "XyZ9", "AIza", "abc.def"):
        assert leak not in shown


def test_the_time_to_wait_is_found_on_the_cause_of_a_plugins_exception() -> None:
    """The exception of llm-mistral has no headers."""
    found = classify(of_mistral(429, "Requests rate limit exceeded", {"retry-after": "9"}), model_id="m")
    assert isinstance(found, ProviderUnavailable)
    assert (found.rate_limited, found.retry_after_seconds) == (True, 9.0)


def test_an_error_of_gemini_shows_its_message_without_the_url() -> None:
    shown = str(classify(of_gemini(429, "Resource has been exhausted", "RESOURCE_EXHAUSTED"), model_id="m"))
    assert shown == "m: HTTP 429 RESOURCE_EXHAUSTED (Resource has been exhausted): retry later"


SECRET_TEXT = (
    'Der "Initech"-Kauf schließt am Freitag;\nniemand außer dem Vorstand weiß es 🙂 日本語のテキストです'
)


@pytest.mark.parametrize(
    "quote",
    [
        json.dumps,
        lambda text: json.dumps(json.dumps(text)),
        repr,
        ascii,
        lambda text: repr(text.encode()),
        lambda text: repr(text.split()),
        html.escape,
        urllib.parse.quote,
        urllib.parse.quote_plus,
        str.upper,
        lambda text: text.encode("ascii", "xmlcharrefreplace").decode(),
        lambda text: text.encode().hex(),
        lambda text: base64.b64encode(text.encode()).decode(),
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: text.replace(" ", "\n  "),
        lambda text: text[:26] + "...",
        lambda text: "..." + text[-30:],
        lambda text: "".join(character for character in text if character.isalnum()),
    ],
)
def test_a_quotation_is_hidden_in_every_form(quote: Callable[[str], str]) -> None:
    shown = redact(f"cannot embed <{quote(SECRET_TEXT)}> here", texts=["other", SECRET_TEXT])
    kept = "".join(re.findall(r"[^\W_]+", shown))
    assert kept in ("cannotembedhere", "cannotembedbhere")  # the b of bytes
    assert "🙂" not in shown


@pytest.mark.parametrize(
    "key",
    [
        "sk-proj-abcDEF1234567890",
        "sk-proj-Abc***********XyZ9",
        "Bearer abc.def.ghi",
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "279a2e9d-83b3-c416-7e2d-f721593e42a0",
        "0123456789abcdef0123456789abcdef",
        "hf_abcdefghijk",
        "gsk_abcdefghijk",
        "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
        '{"api_key": "hunter2xx"}',
        "x-api-key: hunter2xx",
        "API key provided: hunter2xx",
        "password = hunter2xx",
        "https://user:hunter2xx@host/v1",
        "https://host/v1?key=hunter2xx",
        KEY,
        KEY.upper(),
        KEY[:9] + "****",
        json.dumps(KEY),
        base64.b64encode(KEY.encode()).decode(),
        urllib.parse.quote(KEY + "/ä"),
    ],
)
def test_a_key_is_hidden_in_every_form(key: str) -> None:
    shown = redact(f"refused ({key}) here", secrets=[KEY])
    assert "…" in shown
    for part in re.findall(r"\w{7,}", key):
        assert part in ("api_key", "provided", "password") or part not in shown


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 8192 tokens, however you requested 9000 tokens",
        "Rate limit reached for text-embedding-3-small on tokens per min (TPM): Limit 1000000, Used 999999",
        "model Qwen/Qwen3-Embedding-0.6B not found, try pulling it first",
        "sentence-transformers/all-MiniLM-L6-v2 takes no images",
        "400 for https://generativelanguage.googleapis.com/v1beta/models/gemini-embedding-001:batchEmbed",
    ],
)
def test_other_words_of_a_message_are_shown(message: str) -> None:
    assert redact(message, texts=[SECRET_TEXT], secrets=[KEY]) == message


@pytest.mark.parametrize(
    "message",
    [
        "rate_limit_exceeded",
        "token: rate_limit_exceeded",
        "{'type': 'tokens', 'code': 'rate_limit_exceeded'}",
        "RESOURCE_EXHAUSTED",
        "key_not_found",
        "api_key: missing",
        "authorization: required",
        "Basic authentication failed",
        "bearer token missing",
    ],
)
@pytest.mark.parametrize(
    "text", [SECRET_TEXT, "What rate limit exceeded and resource exhausted mean", "rate"]
)
def test_error_codes_are_shown_beside_words_for_keys_and_texts_about_them(message: str, text: str) -> None:
    shown = redact(message, texts=[text], secrets=[KEY])
    assert set(re.findall(r"[A-Za-z]+(?:_[A-Za-z]+)+", message)) <= set(re.findall(r"\w+", shown))
    if text == SECRET_TEXT:
        assert shown == message


def test_the_code_of_a_provider_is_shown_although_a_text_has_its_words() -> None:
    said = body("Please wait.", "rate_limit_exceeded")
    shown = str(classify(of_openai(429, said), model_id="m", texts=["What rate limit exceeded means"]))
    assert "HTTP 429 rate_limit_exceeded" in shown


def test_lowercase_passwords_and_tokens_are_hidden() -> None:
    for message in ("password: geheim", "token: correct-horse", "Bearer abcdefgh", "api_key: key_of_mine"):
        assert redact(message).endswith("…")


@pytest.mark.parametrize("text", ["What an invalid API key means", "insufficient_quota, and how to fix it"])
def test_a_text_about_keys_does_not_stop_the_backend(text: str) -> None:
    """A quotation of it in a message is not about our key."""
    assert (
        type(classify(of_openai(400, body(f"cannot take {text!r}")), model_id="m", texts=[text])) is Refused
    )


def test_an_endless_message_is_redacted_at_once() -> None:
    """Ten megabytes once took 2 s, which blocked all threads of the process."""
    error = of_openai(400, body("too long a word " * 700_000))
    started = time.process_time()
    assert len(str(classify(error, model_id="m", texts=[TEXT], secrets=[KEY]))) < 500
    assert time.process_time() - started < 0.5


def test_keys_and_texts_are_hidden_in_a_code_too() -> None:
    for leak in (KEY, TEXT):
        said = {"error": {"message": "no", "code": leak, "type": leak}}
        assert leak not in str(classify(of_openai(400, said), model_id="m", texts=[TEXT], secrets=[KEY]))


def test_the_message_of_the_provider_reaches_the_operator() -> None:
    message = "This model's maximum context length is 8192 tokens, however you requested 9000 tokens"
    shown = str(
        classify(of_openai(400, body(message, "context_length_exceeded")), model_id="m", texts=[TEXT])
    )
    assert shown.startswith(f"m: HTTP 400 context_length_exceeded ({message})")


def test_a_short_text_is_hidden_where_it_is_a_whole_word() -> None:
    assert redact("refused: Initech is in Initechland", texts=["Initech"]) == "refused: … is in Initechland"
