"""What a provider's failure means for the batch: wait, halve it, refuse it, or stop.

Plugins of `llm` raise what their own client libraries raise. What these have in common is read here: a status
and headers on the exception or on its `response`, anywhere in its chain of causes, and a body with a code.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import llm
from pydantic import ValidationError

from worker.backends.redaction import redact
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError

# of openai, anthropic, httpx and httpx2: matched by name, as none of them need be installed
_TRANSPORT = {"APIConnectionError", "TransportError"}
_REFUSAL = {"ClaudeRefusal"}  # llm-anthropic
# said before anything is sent
_NO_ADDRESS = {"InvalidURL", "UnsupportedProtocol"}
_NO_HEADER = {"LocalProtocolError"}
_MISCONFIGURED = (
    ImportError,
    NotImplementedError,
    ValidationError,
    llm.NeedsKeyException,
    llm.UnknownModelError,
)
# in the words of OpenAI, Anthropic, Gemini, Mistral, Cohere, Voyage, Ollama, TEI, llama.cpp
_TOO_LARGE = re.compile(
    r"context_length_exceeded|max_tokens_per_request|array_above_max_length|string_above_max_length"
    r"|maximum context length|exceeds the (context length|maximum number of tokens)|maximum allowed batch size"
    r"|too many (inputs|(input )?tokens)|max allowed tokens|must have less than \d+ tokens"
    r"|at most \d+ (requests|texts|inputs)|total number of texts must be at most"
    r"|(prompt|request|input|batch)( is)? too (large|long)",
    re.IGNORECASE,
)
# Gemini and Anthropic say these with status 400, and llm-gemini without any
_NO_KEY = re.compile(
    r"api[ _]key (is )?(not valid|invalid|missing|expired)|invalid api[ _]key", re.IGNORECASE
)
_NO_CREDIT = re.compile(r"insufficient_quota|credit balance is too low|billing_hard_limit", re.IGNORECASE)
# of what a Retry-After may ask for: a mistaken one would stop a backend for good
_LONGEST_WAIT_SECONDS = 3_600.0
_STATUS_IN_MESSAGE = re.compile(r"^\s*(\d{3}):")
# of what a provider says: it is looked through while nothing else runs
_READ_CHARACTERS = 10_000


def classify(
    error: BaseException, *, model_id: str, texts: Sequence[str] = (), secrets: Iterable[str] = ()
) -> VectorIndexError:
    """The error of ours for what a plugin raised; the message carries neither `texts` nor keys.

    TooLarge: send less. ProviderUnavailable: the same may succeed later, and what is not known is taken for that, as
    attempts are counted. Refused: it never will, so one input at least is at fault. SettingsError: no request will.
    """
    chain = list(_chain(error))
    status = next(filter(None, map(_status, chain)), None)
    code, message = _said(chain)
    hidden = list(secrets)
    shown_code = redact(code, texts=texts, secrets=hidden)
    shown = redact(message, texts=texts, secrets=hidden)
    what = f"{model_id}: {f'HTTP {status}' if status else type(error).__name__}"
    what += f" {shown_code}" if code else ""
    what += f" ({shown})" if shown else ""
    # without quotations: a text about keys must not stop its whole backend
    own_words = f"{shown_code} {shown}"

    if (
        status in (401, 403)
        or isinstance(error, llm.NeedsKeyException)
        or _says(_NO_KEY, own_words, status, 400)
    ):
        return SettingsError(f"{what}: give the backend a key that may use this model")
    if status in (404, 405, 410):
        return SettingsError(
            f"{what}: the provider does not know the model or the address; mend MODEL_ID, or the address (api_base, "
            "OPENAI_BASE_URL), which mostly ends in /v1"
        )
    if status and 300 <= status < 400:
        return SettingsError(
            f"{what}: the provider redirects to another address, and nothing is sent there unasked; mend api_base or "
            "OPENAI_BASE_URL"
        )
    if status == 402 or _says(_NO_CREDIT, own_words, status, 400, 429):
        return SettingsError(f"{what}: the account has no credit left; add some, or change the key")
    if status == 413 or _says(_TOO_LARGE, f"{code} {message}", status, 400, 422, 500):
        return TooLarge(f"{what}: lower TOKEN_LIMIT, BATCH_TOKEN_LIMIT or BATCH_SIZE if it happens again")
    if status in (408, 409, 425, 429) or (status and status >= 500):
        return ProviderUnavailable(
            f"{what}: to be tried again later",
            retry_after_seconds=_retry_after_seconds(chain),
            rate_limited=status == 429,
        )
    if (status and status >= 400) or _is_any(error, _REFUSAL):
        return Refused(f"{what}: the provider refuses the input")
    if any(_is_any(e, _NO_ADDRESS) for e in chain):
        return SettingsError(f"{what}: write the address (api_base, OPENAI_BASE_URL) as https://host/v1")
    # a body is UTF-8
    in_header = isinstance(error, UnicodeEncodeError) and error.encoding == "ascii"
    if in_header or any(_is_any(e, _NO_HEADER) for e in chain):
        return SettingsError(
            f"{what}: the key or a header cannot be sent; take out what is no plain ASCII, and blanks and line feeds "
            "at its ends"
        )
    if any(isinstance(e, OSError) or _is_any(e, _TRANSPORT) for e in chain):
        return ProviderUnavailable(f"{what}: the provider does not answer; check its address, or wait")
    # a TypeError is else an answer that is not what it should be
    if isinstance(error, _MISCONFIGURED) or (isinstance(error, TypeError) and "argument" in message):
        return SettingsError(f"{what}: mend MODEL_ID, INIT_KWARGS or the installed plugin")
    # the openai package raises a ValueError too when the answer has no vectors
    if (
        isinstance(error, ValueError)
        and not isinstance(error, json.JSONDecodeError)
        and "data received" not in message
    ):
        return Refused(f"{what}: the model refuses the input")
    return ProviderUnavailable(f"{what}: the answer could not be read; to be tried again later")


def _says(pattern: re.Pattern[str], told: str, status: int | None, *statuses: int) -> bool:
    """Whether a provider says so, with one of these statuses or with none at all."""
    return status in (None, *statuses) and pattern.search(told) is not None


def _is_any(error: BaseException, names: set[str]) -> bool:
    return not names.isdisjoint(kind.__name__ for kind in type(error).__mro__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
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
    found = _STATUS_IN_MESSAGE.match(str(error)) if isinstance(error, llm.ModelError) else None
    return int(found[1]) if found else None


def _said(chain: list[BaseException]) -> tuple[str, str]:
    """Code and message, from the body where there is one. All else in a body may be the request itself."""
    for body in map(_body, chain):
        body = body.get("error", body) if isinstance(body, dict) else None
        if isinstance(body, dict):
            # Gemini has a number for a code, and a word for a status
            words = (body.get(name) for name in ("code", "type", "status"))
            code = next((word for word in words if isinstance(word, str)), "")
            # Voyage and FastAPI have a detail, which is a list where the request was no valid one
            said = body.get("message") or body.get("detail") or ""
            if isinstance(said, list):
                said = "; ".join(
                    str(item["msg"]) for item in said if isinstance(item, dict) and "msg" in item
                )
            return code, str(said)[:_READ_CHARACTERS]
    # TEI has a sentence for an error, which the openai package leaves out of its own
    body = _body(chain[0])
    return "", (body if isinstance(body, str) and body else str(chain[0]))[:_READ_CHARACTERS]


def _body(error: BaseException) -> Any:
    """What a client library has parsed of an answer, else what its answer holds."""
    response = getattr(error, "response", None)
    if (body := getattr(error, "body", None)) is not None or response is None:
        return body
    try:
        return response.json()
    except (AttributeError, ValueError, RuntimeError):  # no answer of HTTP, no JSON, or a stream not read
        return None


def _retry_after_seconds(chain: list[BaseException]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after`, which is a number of seconds or a date; an hour at most."""
    for error in chain:
        headers = getattr(error, "headers", None) or getattr(
            getattr(error, "response", None), "headers", None
        )
        if not headers:
            continue
        for name, unit_seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
            if value := headers.get(name):
                seconds = _seconds(value, unit_seconds)
                return None if seconds is None else min(seconds, _LONGEST_WAIT_SECONDS)
    return None


def _seconds(value: str, unit_seconds: float) -> float | None:
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value) * unit_seconds
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
