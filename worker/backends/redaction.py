"""What a provider said, without what it must not repeat: keys, and what it quotes of the texts that it was sent.

A quotation is recognised in whatever form it comes: both sides are compared as bare letters and digits, in one case,
with the escapes of JSON, Python, HTML and URLs undone.
"""

import base64
import html
import re
import unicodedata
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

MAX_MESSAGE_CHARACTERS = 300

# of letters and digits: a shorter quotation of a text is let through, unless it is a whole text
QUOTATION_CHARACTERS = 10
# the same of a key
KEY_CHARACTERS = 8

HIDDEN = "…"

_KEY = re.compile(
    r"(?i:bearer|basic)\s+\S+"
    r"|(?i:(?<=api.key)|(?<=apikey)|(?<=token)|(?<=secret)|(?<=password)|(?<=authorization))"
    r"(?i:\s+(?:provided|given|used))?[\"']?\s*[:=]\s*[\"']?[^\s\"',;]+"
    r"|\b(?:sk|pk|rk|gsk|xai|hf|pa|key)[-_][\w*.-]{4,}|\bAIza[\w-]+"
    r"|(?<=key=)[^&\s'\"]+|(?<=token=)[^&\s'\"]+|(?<=://)[^/@\s]+@"
    # what no word looks like: base64, hexadecimal, UUID, and capitals with digits
    r"|(?<![\w+/=])(?=[\w+/=]*[a-z])(?=[\w+/=]*[A-Z])(?=[\w+/=]*\d)[\w+/=]{20,}"
    r"|\b[0-9a-fA-F]{32,}\b|\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"
    r"|\b(?=[A-Z]*\d)[A-Z0-9]{16,}\b"
)
_ESCAPE = re.compile(
    # characters beyond U+FFFF are escaped as two
    r"(?:\\+u[0-9a-fA-F]{4})+|\\+(?:x[0-9a-fA-F]{2}|.)|&(?:#\d+|#x[0-9a-fA-F]+|\w+);|(?:%[0-9a-fA-F]{2})+"
)
_TOKEN = re.compile(rf"{_ESCAPE.pattern}|.", re.DOTALL)
# ASCII that quotations lose or gain
_DROPPED = {code: None for code in range(128) if not chr(code).isalnum()}


def redact(message: str, *, texts: Sequence[str] = (), secrets: Iterable[str] = ()) -> str:
    """The start of a message as one line, without keys and without what it quotes of the texts.

    A part of a secret of KEY_CHARACTERS, or of a text of QUOTATION_CHARACTERS, is a quotation.
    """
    # cut twice, so that nothing half cut off escapes, and a long message costs no time
    message = " ".join(message.split())[: 2 * MAX_MESSAGE_CHARACTERS]
    keys = [secret for secret in secrets if secret]
    message = _without_quotations(message, [*keys, *map(_base64, keys)], KEY_CHARACTERS)
    message = _KEY.sub(HIDDEN, message)
    return _without_quotations(message, texts, QUOTATION_CHARACTERS)[:MAX_MESSAGE_CHARACTERS]


def _without_quotations(message: str, texts: Sequence[str], characters: int) -> str:
    """Each run of so many bare characters that stands in a text, and each whole text that is shorter, is hidden."""
    bare, places = _with_places(message)
    quotable = [_bare(text) for text in texts]
    together = "\n".join(quotable)
    hidden = bytearray(len(message))

    def hide(start: int, end: int) -> None:
        first, last = places[start][0], places[end - 1][1]
        hidden[first:last] = b"\x01" * (last - first)

    for at in range(len(bare) - characters + 1):
        if bare[at : at + characters] in together:
            hide(at, at + characters)
    for text in {text for text in quotable if 0 < len(text) < characters}:
        for found in re.finditer(re.escape(text), bare):
            if _is_whole(message, places[found.start()][0], places[found.end() - 1][1]):
                hide(found.start(), found.end())
    kept = "".join("\x00" if hide else character for character, hide in zip(message, hidden, strict=True))
    return re.sub(r"\x00+", HIDDEN, kept)


def _with_places(message: str) -> tuple[str, list[tuple[int, int]]]:
    """The bare message, and for each of its characters the span of the message that it comes from."""
    found = [(character, token.span()) for token in _TOKEN.finditer(message) for character in _bare(token[0])]
    return "".join(character for character, _ in found), [place for _, place in found]


def _bare(text: str) -> str:
    plain = unicodedata.normalize("NFKD", _ESCAPE.sub(_unescaped, text)).casefold().translate(_DROPPED)
    return "".join(plain.split()) if not plain.isascii() else plain


def _unescaped(escape: re.Match[str]) -> str:
    text = escape[0]
    if text[0] == "%":
        return unquote(text)
    if text[0] == "&":
        return html.unescape(text)
    if units := re.findall(r"[ux]([0-9a-fA-F]{2,})", text):
        pairs = "".join(chr(int(unit, 16)) for unit in units)
        return pairs.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    escaped = text.lstrip("\\")
    return "" if escaped in "nrtbfv0" else escaped


def _is_whole(message: str, start: int, end: int) -> bool:
    return not (message[start - 1 : start].isalnum() or message[end : end + 1].isalnum())


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode().rstrip("=")
