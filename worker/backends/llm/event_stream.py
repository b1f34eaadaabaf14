"""Read the JSON objects of an answer: a stream of server-sent events, lines of JSON, or one object.

Follows the WHATWG specification of event streams (html.spec.whatwg.org, 9.2.6): any line ending, a byte order mark,
comments, `event`, `id` and `retry`, data on several lines, and events without data, which are no events. It also takes
what servers send beside the specification: a last event without the blank line, and events without blank lines between.
"""

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

DONE = "[DONE]"  # the data of OpenAI's last event

_LINE_END = re.compile(r"\r\n|\r|\n")
_SPACE = re.compile(r"[\s,]*")
_decoder = json.JSONDecoder()


def objects(chunks: Iterable[bytes]) -> Iterator[dict[str, Any] | str]:
    """Yield each JSON object, and DONE where the server marks the end. A body is UTF-8.

    Data that is no JSON at all, such as `ping`, is skipped. Raises JSONDecodeError for an object that breaks off.
    """
    lines = _lines(chunks)
    data: list[str] = []
    for line in lines:
        if not data and line.lstrip().startswith(("{", "[")):
            # not an event stream: the objects themselves, on one line each, or one on many lines
            yield from _parsed("\n".join([line, *lines]))
            return
        if not line:
            yield from _parsed("\n".join(data))
            data = []
            continue
        field, _, value = line.partition(":")
        if field == "data":
            data.append(value.removeprefix(" "))
    yield from _parsed("\n".join(data))


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
    rest, after_return = "", False
    for chunk in chunks:
        text = decoder.decode(chunk)
        if after_return:  # its line feed may come in the next chunk
            text = text.removeprefix("\n")
        if text:
            after_return = text.endswith("\r")
        *lines, rest = _LINE_END.split(rest + text)
        yield from lines
    if rest := rest + decoder.decode(b"", final=True):
        yield rest


def _parsed(data: str) -> Iterator[dict[str, Any] | str]:
    """Yield the objects of a data field; several if the server leaves out the blank lines between its events."""
    at = _next(data, 0)
    while at < len(data):
        if data[at : at + len(DONE)].upper() == DONE:
            yield DONE
            return
        if data[at] not in "{[":
            return
        value, end = _decoder.raw_decode(data, at)
        yield from (
            item for item in (value if isinstance(value, list) else [value]) if isinstance(item, dict)
        )
        at = _next(data, end)


def _next(data: str, at: int) -> int:
    space = _SPACE.match(data, at)
    return space.end() if space else at
