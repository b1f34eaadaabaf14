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

from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError

# of openai, anthropic, httpx and httpx2: matched by name, as none of them need be installed
_TRANSPORT = {"APIConnectionError", "TransportError"}
_MISCONFIGURED = (
    ImportError,
    NotImplementedError,
    TypeError,
    ValidationError,
    llm.NeedsKeyException,
    llm.UnknownModelError,
)
_TOO_LARGE = re.compile(
    r"context_length_exceeded|max_tokens_per_request|array_above_max_length|string_above_max_length"
    r"|maximum context length|maximum allowed batch size|too many (inputs|tokens)"
    r"|must have less than \d+ tokens|(request|input|batch)( is)? too (large|long)",
    re.IGNORECASE,
)
_STATUS_IN_MESSAGE = re.compile(r"^\s*(\d{3}):")

_MAX_MESSAGE_CHARACTERS = 300
_KEY = re.compile(
    r"(?i:bearer|basic)\s+\S+"
    r"|\b(?:sk|pk|rk|gsk|xai|hf|pa|key)[-_][\w*.-]{4,}|\bAIza[\w-]+"
    r"|(?<=key=)[^&\s'\"]+|(?<=token=)[^&\s'\"]+|(?<=://)[^/@\s]+@"
    r"|\b(?=\w*[a-z])(?=\w*[A-Z])(?=\w*\d)\w{20,}\b|\b[0-9a-fA-F]{32,}\b"
)
# a quotation of a text shorter than this is let through, unless it is a whole text
_QUOTATION_CHARACTERS = 12


def classify(
    error: BaseException, *, model_id: str, texts: Sequence[str] = (), secrets: Iterable[str] = ()
) -> VectorIndexError:
    """The error of ours for what a plugin raised; the message carries neither `texts` nor keys.

    TooLarge: send less. ProviderUnavailable: the same may succeed later. Refused: it never will, so one input
    at least is at fault. SettingsError: no request will.
    """
    chain = list(_chain(error))
    status = next(filter(None, map(_status, chain)), None)
    code, message = _said(chain)
    shown = redact(message, texts=texts, secrets=secrets)
    what = f"{model_id}: {f'HTTP {status}' if status else type(error).__name__}"
    what += f" {code}" if code else ""
    what += f" ({shown})" if shown else ""

    if status in (401, 403) or isinstance(error, llm.NeedsKeyException):
        return SettingsError(f"{what}: give the backend a key that may use this model")
    if status == 404:
        return SettingsError(f"{what}: the provider does not know the model or the address; mend MODEL_ID")
    if code == "insufficient_quota":
        return SettingsError(f"{what}: the account has no credit left; add some, or change the key")
    if status == 413 or (status in (None, 400, 422) and _TOO_LARGE.search(f"{code} {message}")):
        return TooLarge(f"{what}: lower TOKEN_LIMIT, BATCH_TOKEN_LIMIT or BATCH_SIZE if it happens again")
    if status in (408, 409, 425, 429) or (status and status >= 500):
        return ProviderUnavailable(
            f"{what}: to be tried again later",
            retry_after_seconds=_retry_after_seconds(chain),
            rate_limited=status == 429,
        )
    if status and status >= 400:
        return Refused(f"{what}: the provider refuses the input")
    if any(isinstance(e, OSError) or _TRANSPORT & {t.__name__ for t in type(e).__mro__} for e in chain):
        return ProviderUnavailable(f"{what}: the provider does not answer; check its address, or wait")
    if isinstance(error, _MISCONFIGURED):
        return SettingsError(f"{what}: mend MODEL_ID, INIT_KWARGS or the installed plugin")
    # the openai package raises a ValueError too when the answer has no vectors
    if (
        isinstance(error, ValueError)
        and not isinstance(error, json.JSONDecodeError)
        and "data received" not in message
    ):
        return Refused(f"{what}: the model refuses the input")
    return ProviderUnavailable(f"{what}: the answer could not be read; to be tried again later")


def redact(message: str, *, texts: Sequence[str] = (), secrets: Iterable[str] = ()) -> str:
    """The start of a message as one line, without keys and without what it quotes of the texts."""
    # cut twice, so that nothing half cut off escapes, and a long message costs no time
    message = " ".join(message.split())[: 2 * _MAX_MESSAGE_CHARACTERS]
    for secret in secrets:
        message = message.replace(secret, "…")
    message = _KEY.sub("…", message)
    normal = [" ".join(text.split()) for text in texts]
    for text in sorted(normal, key=len, reverse=True):
        if text and len(text) < _QUOTATION_CHARACTERS:
            message = re.sub(rf"(?<!\w){re.escape(text)}(?!\w)", "…", message)
    return _without_quotations(message, "\n".join(normal))[:_MAX_MESSAGE_CHARACTERS]


def _without_quotations(message: str, texts: str) -> str:
    quoted = [False] * len(message)
    for at in range(len(message) - _QUOTATION_CHARACTERS + 1):
        if message[at : at + _QUOTATION_CHARACTERS] in texts:
            quoted[at : at + _QUOTATION_CHARACTERS] = [True] * _QUOTATION_CHARACTERS
    kept = "".join("\x00" if hide else character for character, hide in zip(message, quoted, strict=True))
    return re.sub(r"\x00+", "…", kept)


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
    for error in chain:
        body: Any = getattr(error, "body", None)
        body = body.get("error", body) if isinstance(body, dict) else None
        if isinstance(body, dict):
            code = body.get("code") or body.get("type")
            return code if isinstance(code, str) else "", str(body.get("message") or "")
    return "", str(chain[0])


def _retry_after_seconds(chain: list[BaseException]) -> float | None:
    """Seconds from `retry-after-ms` or `retry-after`, which is a number of seconds or a date."""
    for error in chain:
        headers = getattr(error, "headers", None) or getattr(
            getattr(error, "response", None), "headers", None
        )
        if not headers:
            continue
        for name, unit_seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
            if value := headers.get(name):
                return _seconds(value, unit_seconds)
    return None


def _seconds(value: str, unit_seconds: float) -> float | None:
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value) * unit_seconds
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
