"""Inline data in texts: images and fonts in `data:` addresses, which no reader sees as characters."""

import re

INLINE_DATA = "inline data"  # the kind of what is left out
LEAST_CHARACTERS = 100  # of the data; shorter ones are examples of the form, and cost little

# All parts are bounded or possessive, so that no pattern backtracks. Base64 may be wrapped, as in mail; a line of it
# has no space, and its last line ends with padding or with the address.
_TYPE = r"(?<![\w-])data:[\w.+-]{1,60}/[\w.+-]{1,100}(?:;[\w.+-]{1,40}=[^\s,;\"'<>()]{1,100}){0,5}"
_BASE64 = (
    rf"{_TYPE};base64,\s{{0,20}}[A-Za-z0-9+/=_%-]{{40,}}+(?:[ \t]*\r?\n[ \t]*[A-Za-z0-9+/]{{40,}}+={{0,2}})*+"
    r"(?:[ \t]*\r?\n[ \t]*[A-Za-z0-9+/]{0,100}={1,2})?+"
)
_OTHER = rf"{_TYPE}(?:;[\w-]{{1,40}}){{0,3}},"
_QUOTED = rf"(?<=\"){_OTHER}[^\"]{{100,}}+|(?<='){_OTHER}[^']{{100,}}+"
DATA = re.compile(rf"{_BASE64}|{_QUOTED}|{_OTHER}[^\s\"'<>()]{{{LEAST_CHARACTERS},}}+")


def without_inline_data(text: str) -> tuple[str, int]:
    """Remove the `data:` addresses of a text; return it with the number of characters that were removed."""
    if "data:" not in text:
        return text, 0
    kept = DATA.sub(lambda found: found[0] if len(found[0]) < LEAST_CHARACTERS else "", text)
    return kept, len(text) - len(kept)
