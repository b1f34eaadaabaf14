"""Remove keys and quoted document text from a provider's message.

A quotation is recognised in many forms. Message and texts are compared as bare letters and digits in lower case, after
the escapes of JSON, Python, HTML and URLs are undone.
"""

import base64
import html
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from urllib.parse import unquote

MAX_MESSAGE_CHARACTERS = 300

# letters and digits; a shorter quotation is shown, unless it is a whole text
QUOTATION_CHARACTERS = 10
# the same for a key
KEY_CHARACTERS = 8

HIDDEN = "…"

_KEY = re.compile(
    r"(?i:bearer|basic)\s+\S+"
    r"|(?i:(?<=api.key)|(?<=apikey)|(?<=token)|(?<=secret)|(?<=password)|(?<=authorization))"
    r"(?i:\s+(?:provided|given|used))?[\"']?\s*[:=]\s*[\"']?[^\s\"',;]+"
    r"|\b(?:sk|pk|rk|gsk|xai|hf|pa|key)[-_][\w*.-]{4,}|\bAIza[\w-]+"
    r"|(?<=key=)[^&\s'\"]+|(?<=token=)[^&\s'\"]+|(?<=://)[^/@\s]+@"
    # strings unlike words: base64, hexadecimal, UUID, and capitals with digits
    r"|(?<![\w+/=])(?=[\w+/=]*[a-z])(?=[\w+/=]*[A-Z])(?=[\w+/=]*\d)[\w+/=]{20,}"
    r"|\b[0-9a-fA-F]{32,}\b|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
    r"|\b(?=[A-Z]*\d)[A-Z0-9]{16,}\b"
)
# words of providers' error codes: what has no other word is neither a key nor private
_CODE_WORDS = frozenset(
    """
    above account api argument arguments auth authentication authorization bad balance basic batch bearer billing
    capacity code concurrent connection content context count credit credits daily deactivated decode denied
    depleted dimension dimensions disabled does embedding embeddings empty endpoint engine error exceeded
    exhausted exist exists expired failed field filter forbidden format found gateway hard header id image
    incomplete incorrect input inputs insufficient internal interval invalid invalidated is json key keys large
    length limit limits long malformed max maximum message messages method min minute missing model models monthly
    name no not null of on organization overloaded param parameter parameters payload per permission permissions
    policy project prompt provided provider quota range rate reached region request requests required resource
    resources response revoked role server service size slow small soft status stream string support supported
    temporarily timeout to token tokens too type unauthenticated unauthorized unavailable unknown unprocessable
    unsupported upstream url usage user value values version violation was wrong
    """.split()  # noqa: SIM905 - the list would take a line for each word
)
_ESCAPE = re.compile(
    # two escapes make a character beyond U+FFFF, and up to four escaped bytes make one of UTF-8
    r"(?:\\+u[0-9a-fA-F]{4})+|\\+U[0-9a-fA-F]{8}|(?:\\+x[0-9a-fA-F]{2})+|\\+."
    r"|&(?:#\d+|#x[0-9a-fA-F]+|\w+);|(?:%[0-9a-fA-F]{2})+"
)
_ESCAPE_MARKS = "\\&%"  # each escape begins with one
_TOKEN = re.compile(rf"{_ESCAPE.pattern}|.", re.DOTALL)
# ASCII characters that quoting adds or removes
_DROPPED = {code: None for code in range(128) if not chr(code).isalnum()}


def redact(message: str, *, texts: Sequence[str] = (), secrets: Iterable[str] = ()) -> str:
    """Return the start of a message as one line, without keys and without quotations of the texts.

    KEY_CHARACTERS of a secret, or QUOTATION_CHARACTERS of a text, are a quotation.
    """
    # cut to twice the length first: a key across the final cut is still found, and a long message takes no time
    message = " ".join(message.split())[: 2 * MAX_MESSAGE_CHARACTERS]
    keys = [secret for secret in secrets if secret]
    hidden = bytearray(len(message))
    for start, end in chain(
        (found.span() for found in _KEY.finditer(message) if not _is_code(found[0])),
        _quotations(message, [*keys, *map(_base64, keys)], KEY_CHARACTERS),
        # within a sentence, an error code may be quoted from a text about errors
        () if _is_code(message) else _quotations(message, texts, QUOTATION_CHARACTERS),
    ):
        hidden[start:end] = b"\x01" * (end - start)
    kept = "".join("\x00" if hide else character for character, hide in zip(message, hidden, strict=True))
    return re.sub(r"\x00+", HIDDEN, kept)[:MAX_MESSAGE_CHARACTERS]


def _is_code(text: str) -> bool:
    """Whether it has only words of error codes, as rate_limit_exceeded has: it is no key, and tells of no text."""
    return not re.search(r"\d", text) and set(re.findall(r"[^\W\d_]+", text.lower())) <= _CODE_WORDS


def _quotations(message: str, texts: Sequence[str], characters: int) -> Iterator[tuple[int, int]]:
    """Yield spans of this many bare characters that occur in a text, and spans of shorter whole texts."""
    bare, places = _with_places(message)
    quotable = [_bare(text) for text in texts]
    together = "\n".join(quotable)
    for at in range(len(bare) - characters + 1):
        if bare[at : at + characters] in together:
            yield places[at][0], places[at + characters - 1][1]
    for text in {text for text in quotable if 0 < len(text) < characters}:
        for found in re.finditer(re.escape(text), bare):
            start, end = places[found.start()][0], places[found.end() - 1][1]
            if not (message[start - 1 : start].isalnum() or message[end : end + 1].isalnum()):
                yield start, end


def _with_places(message: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the bare message, and for each of its characters the span in the message."""
    found = [(character, token.span()) for token in _TOKEN.finditer(message) for character in _bare(token[0])]
    return "".join(character for character, _ in found), [place for _, place in found]


def _bare(text: str) -> str:
    if any(mark in text for mark in _ESCAPE_MARKS):  # the search is slow, and few texts have a mark
        text = _ESCAPE.sub(_unescaped, text)
    plain = unicodedata.normalize("NFKD", text).casefold().translate(_DROPPED)
    return "".join(plain.split()) if not plain.isascii() else plain


def _unescaped(escape: re.Match[str]) -> str:
    text = escape[0]
    if text[0] == "%":
        return unquote(text)
    if text[0] == "&":
        return html.unescape(text)
    if units := re.findall(r"[uU]([0-9a-fA-F]{4,})", text):
        pairs = "".join(chr(int(unit, 16)) for unit in units if int(unit, 16) <= sys.maxunicode)
        return pairs.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if octets := re.findall(r"x([0-9a-fA-F]{2})", text):
        data = bytes.fromhex("".join(octets))
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data.decode("latin-1")
    escaped = text.lstrip("\\")
    return "" if escaped in "nrtbfv0" else escaped


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode().rstrip("=")
