"""Payloads: the body of a message as JSON, read so that one value cannot cost the whole message.

Celery writes a body as JSON, and the text of it into a message in JSON. An application may leave the first step out:
its body arrives as it is, read together with its message.

kombu takes each object `{"__type__": ..., "__value__": ...}` for a value of its own, and raises for a type that it does
not know. Python raises for an integer of more than 4,300 digits. Here such values stay in their place, and the document
or the argument that has them is refused.
"""

import sys
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from celery.exceptions import InvalidTaskError
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import registry
from kombu.transport import virtual
from kombu.utils import json as kombu_json
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from worker.documents import CELERY_KEYS, LONG_NUMBER, MAX_BITS, LongNumber, read_json

JSON = "application/json"
MAX_LEVELS = 200  # pickle takes about 450

# What Celery relies on in the headers of a task, without a check of its own: a wrong type would end the worker.
HEADERS: dict[str, tuple[type, ...]] = {
    "task": (str,),
    "id": (str,),
    "root_id": (str, type(None)),
    "parent_id": (str, type(None)),
    "group": (str, type(None)),
    "shadow": (str, type(None)),
    "eta": (str, type(None)),
    "expires": (str, type(None)),
    "retries": (int, type(None)),
    "timelimit": (list, tuple, type(None)),
}


# pydantic decodes base64 in JSON four times as fast as Python does
_BASE64 = TypeAdapter(bytes, config=ConfigDict(val_json_bytes="base64"))


class Base64:
    """The codec of bodies: as kombu's, in a quarter of the time."""

    def encode(self, body: str | bytes) -> str:
        return b64encode(body.encode() if isinstance(body, str) else body).decode()

    def decode(self, body: str) -> bytes:
        try:
            return _BASE64.validate_json(f'"{body}"')
        except ValidationError:  # it has other characters, which Python leaves out
            return b64decode(body.encode())


class Message(virtual.Message):
    """A message whose body is read by `read`. One that cannot be read has its error, and keeps its headers."""

    size_bytes: int  # of all of it, as it came from the broker; 0 if it did not

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        try:
            super().__init__(payload, channel=channel, **kwargs)  # type: ignore[no-untyped-call]
        except (AttributeError, LookupError, TypeError, ValueError):
            found = sys.exc_info()
            super().__init__({**payload, "body": None}, channel=channel, **kwargs)  # type: ignore[no-untyped-call]
            self.errors.append(found)
        self.size_bytes = payload.get("size_bytes", 0)

    def _decode(self) -> Any:
        if self.content_type != JSON:
            return super()._decode()  # type: ignore[no-untyped-call]
        if isinstance(self.body, list | dict):  # read already
            return self.body
        try:
            return read(self.body)
        except (AttributeError, TypeError, ValueError, RecursionError) as error:
            raise DecodeError(type(error).__name__) from None


def read(text: str | bytes) -> Any:
    """Read JSON. Raises ValueError, or RecursionError if it is nested too deep.

    What is nested more than MAX_LEVELS deep becomes None: nothing takes so many levels, and a pool of processes would
    end with a RecursionError as it passes them on.
    """
    with suppress(TypeError, ValueError):
        found = from_json(text)  # in half of the time, but what is not plain needs Python's reader
        if _is_plain(found):
            return found
    found = read_json(text, object_hook=_value)
    _prune(found)
    return found


def check(message: Any) -> None:
    """Check all that Celery reads from a message of a task.

    Raises InvalidTaskError with what is wrong, DecodeError or ContentDisallowed. None of them quotes a value.
    """
    if "task" in message.headers:
        _check_types(message.headers)
        payload = message.payload
    else:  # protocol 1: everything is in the body
        payload = message.payload
        if not isinstance(payload, Mapping) or "task" not in payload:
            return  # no task at all
        _check_types(payload)
    args, kwargs, callbacks = _parts(payload)
    if not isinstance(args, list) or not isinstance(kwargs, Mapping):
        raise InvalidTaskError("its arguments are not a list and an object")
    for name in ("callbacks", "errbacks", "chain"):
        if not all(map(_is_signature, callbacks.get(name) or ())):
            raise InvalidTaskError(f"its {name} are not a list of signatures")
    if callbacks.get("chord") is not None and not _is_signature(callbacks["chord"]):
        raise InvalidTaskError("its chord is not a signature")


def callbacks_of(message: Any) -> dict[str, Any]:
    """Return the callbacks of a message that may be wrong elsewhere; {} if they cannot be read."""
    try:
        check(message)
        return dict(_parts(message.payload)[2])
    except (InvalidTaskError, DecodeError, ContentDisallowed):
        return {}


def reason(message: Any, error: Exception) -> str:
    """Say in one clause why a message cannot be read, without a value of it."""
    if isinstance(error, InvalidTaskError) and error.__cause__ is None and error.__context__ is None:
        return str(error)
    if isinstance(error, InvalidTaskError):
        return "its eta or expires is not a date: write it in ISO 8601"
    if isinstance(error, ContentDisallowed):
        kind = registry.type_to_name.get(message.content_type, "of an unknown content type")
        return f"it is {kind}, and workers read JSON only: set task_serializer to 'json'"
    if isinstance(error, DecodeError):
        return "it is not valid JSON, or is nested too deep: send it with Celery's serializer 'json'"
    if message.headers.get("compression"):
        return "it cannot be decompressed: set task_compression to 'gzip', or to nothing"
    return f"its body is damaged ({type(error).__name__}): send it with Celery"


def _is_plain(found: Any) -> bool:
    """Whether a value has nothing that stands for another one, no long number, and nothing that is nested too deep."""
    containers = [([found], 0)]
    while containers:
        container, level = containers.pop()
        for item in container:
            if isinstance(item, (dict, list)):
                if level == MAX_LEVELS or (isinstance(item, dict) and item.keys() == CELERY_KEYS):
                    return False
                containers.append((list(item.values()) if isinstance(item, dict) else item, level + 1))
            elif isinstance(item, int) and item.bit_length() > MAX_BITS:
                return False
    return True


def _prune(found: Any) -> None:
    containers = [(found, 1)]
    while containers:
        container, level = containers.pop()
        if isinstance(container, dict | list):
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for key, item in list(items):
                if isinstance(item, dict | list):
                    if level < MAX_LEVELS:
                        containers.append((item, level + 1))
                    else:
                        container[key] = None


def _value(found: dict[str, Any]) -> Any:
    """Return the value that an object of kombu stands for, or the object itself if it stands for none."""
    if found.keys() != CELERY_KEYS:
        return found
    if found["__type__"] == LONG_NUMBER and isinstance(found["__value__"], int):
        return LongNumber(found["__value__"])
    try:
        return kombu_json.object_hook(found)
    except Exception:  # noqa: BLE001 - each type raises its own errors
        return found


def _check_types(headers: Mapping[str, Any]) -> None:
    for name, types in HEADERS.items():
        value = headers.get(name)
        if not isinstance(value, types) or isinstance(value, bool):
            raise InvalidTaskError(f"its header {name} is of type {type(value).__name__}")
    limits = headers.get("timelimit")
    if limits and (len(limits) != 2 or not all(isinstance(limit, int | float | None) for limit in limits)):
        raise InvalidTaskError("its header timelimit is not a list of two numbers")


def _parts(payload: Any) -> tuple[Any, Any, Mapping[str, Any]]:
    """Split a payload into arguments, named arguments and callbacks. Raises InvalidTaskError."""
    if isinstance(payload, Mapping):
        return list(payload.get("args") or ()), payload.get("kwargs") or {}, payload
    if isinstance(payload, list) and len(payload) == 3 and isinstance(payload[2], Mapping | None):
        return payload[0], payload[1], payload[2] or {}
    raise InvalidTaskError("its body is not a list of arguments, named arguments and callbacks")


def _is_signature(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("task"), str)
