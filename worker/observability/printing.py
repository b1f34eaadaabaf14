"""Text for terminals and logs: a document, an id or a file name must not control them."""

import json
import re

# controls of ASCII and Latin-1 except tab and line feed, and marks that change the direction of text or break lines;
# a terminal may obey them, and \x9b begins an escape sequence as \x1b does
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""Show control characters as escapes, such as \x1b; drop carriage returns."""
    return CONTROLS.sub(lambda found: _escape(found[0]), text.replace("\r", ""))


def dumps(value: object, *, ascii_only: bool = False) -> str:
    """Encode a value as one line of JSON without control characters; what JSON does not know becomes a string."""
    text = json.dumps(value, ensure_ascii=ascii_only, default=str)
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
