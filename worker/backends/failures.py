"""Classify the errors of providers: wait, halve the batch, refuse it, or stop.

Plugins of `llm` raise the exceptions of their client libraries. These have some things in common: a status and headers
on the exception or on its `response`, anywhere in the chain of causes, and a body with a code.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import llm
from pydantic import ValidationError

from worker.backends.redaction import redact
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError

# exceptions of openai, anthropic, httpx and httpx2, matched by name, since none of them needs to be installed
_TRANSPORT = {"APIConnectionError", "TransportError"}
_REFUSAL = {"ClaudeRefusal"}  # llm-anthropic
# raised before anything is sent
_NO_ADDRESS = {"InvalidURL", "UnsupportedProtocol"}
_NO_HEADER = {"LocalProtocolError"}
_MISCONFIGURED = (
    ImportError,
    NotImplementedError,
    ValidationError,
    llm.NeedsKeyException,
    llm.UnknownModelError,
)
# Messages of OpenAI, Anthropic, Gemini, Mistral, Cohere, Voyage, Ollama, TEI, llama.cpp, NIM and DashScope. In other
# words, an input fails only after its halves did: worker/indexing/draining/sending.py
_TOO_LARGE = re.compile(
    r"context_length_exceeded|max_tokens_per_request|array_above_max_length|string_above_max_length"
    r"|maximum context length|exceeds the (context length|maximum number of tokens)|maximum allowed batch size"
    r"|too many (inputs|(input )?tokens)|max allowed tokens|must have less than \d+ tokens"
    r"|at most \d+ (requests|texts|inputs)|total number of texts must be at most"
    r"|exceeds maximum allowed token size|batch size is invalid"
    r"|(prompt|request|input|batch)( is)? too (large|long)",
    re.IGNORECASE,
)
# Gemini and Anthropic send these with status 400, and llm-gemini raises them without a status
_NO_KEY = re.compile(
    r"api[ _]key (is )?(not valid|invalid|missing|expired)|invalid api[ _]key"
    r"|(missing or )?invalid authorization header",
    re.IGNORECASE,
)
_NO_CREDIT = re.compile(r"insufficient_quota|credit balance is too low|billing_hard_limit", re.IGNORECASE)
# the words of filters: OpenAI, Azure, Gemini, Bedrock, DashScope, OpenRouter and LiteLLM
_FILTERED = re.compile(
    r"content[_ -]?(filter|policy|management)|responsible_?ai_?policy|prohibited_content|data_inspection_failed"
    r"|guardrail|safety (system|filter|settings)|blocked by .{0,40}(filter|safety|policy|moderation)"
    r"|(input|prompt|request|content) (was|is|has been) (flagged|blocked|filtered)|requires moderation",
    re.IGNORECASE,
)
# the longest Retry-After that counts: a wrong one would stop a backend forever
_LONGEST_WAIT_SECONDS = 3_600.0
_STATUS_IN_MESSAGE = re.compile(r"^\s*(\d{3}):")
# of a message of a provider: the search in it blocks the other threads
_READ_CHARACTERS = 10_000

# where bodies have a word for the error, and a sentence about it, in any spelling: most telling first
_CODES = ("code", "type", "status", "error_code", "errorcode", "error_type")
_SENTENCES = (
    "message", "msg", "error_description", "error_msg", "errormessage", "status_msg", "detail", "details",
    "description", "error", "errors", "title", "reason", "base_resp",
)  # fmt: skip
_PAGE = re.compile(r"\s*<(!doctype|html|head|body|\?xml)", re.IGNORECASE)
_TITLE = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1", re.IGNORECASE | re.DOTALL)
_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)


class UnexpectedAnswer(llm.ModelError):
    """An answer with status 200 that is no result: an error, a web page, or something else."""

    def __init__(self, message: str, *, body: object, url: str) -> None:
        super().__init__(message)
        self.body = body
        self.url = url


def classify(
    error: BaseException, *, model_id: str, texts: Sequence[str] = (), secrets: Iterable[str] = ()
) -> VectorIndexError:
    """Turn an exception of a plugin into one of this project, whose message is free of `texts` and keys.

    TooLarge: a smaller request may succeed. ProviderUnavailable: the same request may succeed later. Unknown errors
    count as this, since the attempts are limited. Refused: at least one input is at fault. SettingsError: every request
    would fail.
    """
    chain = list(_causes(error))
    status = next(filter(None, map(_status, chain)), None)
    code, message = _code_and_message(chain)
    hidden = list(secrets)
    shown_code = redact(code, texts=texts, secrets=hidden)
    shown = redact(message, texts=texts, secrets=hidden)
    what = f"{model_id}: {f'HTTP {status}' if status else type(error).__name__}"
    what += f" {shown_code}" if code else ""
    what += f" ({shown})" if shown else ""
    # without quotations, since a text about keys must not stop the whole backend
    words = f"{shown_code} {shown}"

    if _FILTERED.search(f"{code} {message}") and status in (None, 400, 403, 422, 451):
        return Refused(
            f"{what}: a content filter of the provider stopped the question or the answer; change the question or the "
            "documents, or the filter"
        )
    if (
        status in (401, 403)
        or isinstance(error, llm.NeedsKeyException)
        or _matches(_NO_KEY, words, status, 400)
    ):
        return SettingsError(f"{what}: give the backend a key that may use this model")
    if status in (404, 405, 410):
        return SettingsError(
            f"{what}: the provider does not know the model or the URL; correct MODEL_ID, or the URL (api_base, "
            "OPENAI_BASE_URL), which usually ends in /v1"
        )
    if status and 300 <= status < 400:
        return SettingsError(
            f"{what}: the provider redirects to another URL, and redirects are not followed; correct api_base or "
            "OPENAI_BASE_URL"
        )
    if status == 402 or _matches(_NO_CREDIT, words, status, 400, 429):
        return SettingsError(f"{what}: the account has no credit left; add credit, or use another key")
    if status == 413 or _matches(_TOO_LARGE, f"{code} {message}", status, 400, 422, 500):
        return TooLarge(f"{what}: lower TOKEN_LIMIT, BATCH_TOKEN_LIMIT or BATCH_SIZE if it happens again")
    if status in (408, 409, 425, 429) or (status and status >= 500):
        return ProviderUnavailable(
            f"{what}: retry later",
            retry_after_seconds=_retry_after_seconds(chain),
            rate_limited=status == 429,
        )
    if (status and status >= 400) or _is_named(error, _REFUSAL):
        return Refused(f"{what}: the provider refuses the input")
    if any(_is_named(e, _NO_ADDRESS) for e in chain):
        return SettingsError(f"{what}: write the URL (api_base, OPENAI_BASE_URL) as https://host/v1")
    # a body is UTF-8, so ASCII means a header
    in_header = isinstance(error, UnicodeEncodeError) and error.encoding == "ascii"
    if in_header or any(_is_named(e, _NO_HEADER) for e in chain):
        return SettingsError(
            f"{what}: the key or a header cannot be sent; remove all characters but plain ASCII, and blanks and line "
            "feeds at its ends"
        )
    if isinstance(error, UnexpectedAnswer):
        return _unexpected(error, what)
    if any(isinstance(e, OSError) or _is_named(e, _TRANSPORT) for e in chain):
        return ProviderUnavailable(f"{what}: the provider does not answer; check its URL, or wait")
    # another TypeError comes from an answer of an unexpected form
    if isinstance(error, _MISCONFIGURED) or (isinstance(error, TypeError) and "argument" in message):
        return SettingsError(f"{what}: correct MODEL_ID or INIT_KWARGS, or reinstall the plugin")
    # the openai package also raises a ValueError for an answer without vectors
    if (
        isinstance(error, ValueError)
        and not isinstance(error, json.JSONDecodeError)
        and "data received" not in message
    ):
        return Refused(f"{what}: the model refuses the input")
    return ProviderUnavailable(f"{what}: the answer could not be read; retry later")


def refusal(error: BaseException) -> str:
    """All that a provider says about a request that it does not take; "" for another failure.

    With the names of parameters, as in `param` and `loc`, but without the values that a body may quote.
    """
    chain = list(_causes(error))
    status = next(filter(None, map(_status, chain)), None)
    if status not in (400, 405, 406, 415, 422, 500, 501):
        return ""
    body = next(filter(None, map(_body, chain)), str(error))
    return " ".join(_strings(body))[:_READ_CHARACTERS]


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for name, part in value.items():
            yield from () if name in ("input", "ctx", "url") else _strings(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, str):
        yield value


def is_filtered(words: str) -> bool:
    """Tell whether an error says that a filter of the provider has stopped the question or the answer."""
    return _FILTERED.search(words[:_READ_CHARACTERS]) is not None


def _unexpected(error: UnexpectedAnswer, what: str) -> VectorIndexError:
    """What an answer with status 200 means that has neither a result nor an error with a code."""
    parts = urlsplit(error.url)  # without user and query, which may hold a key
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if isinstance(error.body, str) and _PAGE.match(error.body):
        return SettingsError(
            f"{what}: {address} answers with a web page instead of JSON; correct the URL (api_base, OPENAI_BASE_URL), "
            "which usually ends in /v1, or the proxy in front of it"
        )
    return ProviderUnavailable(
        f"{what}: {address} sends no result; check the URL (api_base, OPENAI_BASE_URL), or retry later"
    )


def _matches(pattern: re.Pattern[str], told: str, status: int | None, *statuses: int) -> bool:
    """Tell whether the provider says this, with one of these statuses or without a status."""
    return status in (None, *statuses) and pattern.search(told) is not None


def _is_named(error: BaseException, names: set[str]) -> bool:
    return not names.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        status = getattr(holder, "status_code", None)
        if isinstance(status, int) and 100 <= status < 600:
            return status
    if isinstance(error, UnexpectedAnswer):
        return _status_of_body(error.body)
    found = _STATUS_IN_MESSAGE.match(str(error)) if isinstance(error, llm.ModelError) else None
    return int(found[1]) if found else None


def _status_of_body(body: object) -> int | None:
    """The status that the body of an answer states, as gateways do that answer with 200."""
    parts = body if isinstance(body, Mapping) else {}
    inner = parts.get("error")
    for holder in (inner if isinstance(inner, Mapping) else {}, parts):
        for name in ("code", "status", "statusCode"):
            if re.fullmatch(r"[345]\d\d", str(holder.get(name))):
                return int(holder[name])
    return None


def _code_and_message(chain: list[BaseException]) -> tuple[str, str]:
    """Code and message, from the body if there is one. Other parts of a body may quote the request."""
    bodies = [_body(error) for error in chain]
    for body in (body for body in bodies if isinstance(body, Mapping | list)):
        if message := said(body):
            return _code(body), message[:_READ_CHARACTERS]
    # a sentence or a web page, which client libraries omit from their message
    return _code(bodies[0]), (said(bodies[0]) or str(chain[0]))[:_READ_CHARACTERS]


def said(body: object) -> str:
    """Return what the body of an answer says about an error, whatever its form; "" if it says nothing.

    OpenAI has an object within `error`, Gemini a list of these, NIM and Mistral a `message` beside or around a list of
    details, TEI and Ollama a sentence in `error`, Voyage and FastAPI a `detail`, and a gateway sends a web page.
    """
    if isinstance(body, str):
        return _text_of_page(body) if _PAGE.match(body) else body.strip()
    if isinstance(body, list):
        return "; ".join(filter(None, map(said, body[:20])))
    if not isinstance(body, Mapping):
        return ""
    parts = {str(name).lower(): value for name, value in body.items()}
    # {"error": {…}} is a wrapper, but {"error": "Not Found", "message": "…"} a title and a sentence
    wrapped = said(parts["error"]) if isinstance(parts.get("error"), Mapping | list) else ""
    sentence = wrapped or next(filter(None, (said(parts.get(name)) for name in _SENTENCES)), "")
    place = parts.get("loc")  # of FastAPI: ["body", "stream_options", "include_usage"]
    if sentence and isinstance(place, list) and "msg" in parts:
        return f"{'.'.join(str(part) for part in place if part != 'body')}: {sentence}"
    return sentence


def _code(body: object) -> str:
    """The word for an error, of the innermost part of a body that has one."""
    if isinstance(body, list):
        return next(filter(None, map(_code, body[:20])), "")
    if not isinstance(body, Mapping):
        return ""
    parts = {str(name).lower(): value for name, value in body.items()}
    inner = next(filter(None, (_code(parts.get(name)) for name in ("error", "errors"))), "")
    # the code of Gemini is a number, and its status a word
    return inner or next((parts[name] for name in _CODES if isinstance(parts.get(name), str)), "")


def _text_of_page(page: str) -> str:
    """The title of a web page, else its text."""
    page = page[:_READ_CHARACTERS]
    title = _TITLE.search(page)
    return html.unescape(" ".join(_MARKUP.sub(" ", title[2] if title else page).split()))


def _body(error: BaseException) -> Any:
    """The body of an answer, as the client library has parsed it or else as it was sent."""
    response = getattr(error, "response", None)
    if (body := getattr(error, "body", None)) is not None or response is None:
        return body
    for read in ("json", "text"):
        # not an HTTP answer, not JSON, or an unread stream
        with suppress(AttributeError, ValueError, RuntimeError, TypeError):
            return response.json() if read == "json" else response.text
    return None


def _retry_after_seconds(chain: list[BaseException]) -> float | None:
    """Seconds of `retry-after-ms` or `retry-after` (a number of seconds or a date), at most an hour."""
    for error in chain:
        headers = getattr(error, "headers", None) or getattr(
            getattr(error, "response", None), "headers", None
        )
        if not headers:
            continue
        for name, unit_seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
            if value := headers.get(name):
                seconds = _seconds(value, unit_seconds, sent=headers.get("date"))
                return None if seconds is None else min(seconds, _LONGEST_WAIT_SECONDS)
    return None


def _seconds(value: str, unit_seconds: float, *, sent: str | None) -> float | None:
    """Read a wait. A date is by the clock of the provider, which sent its answer at `sent`."""
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value) * unit_seconds
    if (until := _date(value)) is None:
        return None
    return max(0.0, (until - (_date(sent or "") or datetime.now(UTC))).total_seconds())


def _date(value: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return at.replace(tzinfo=at.tzinfo or UTC)
