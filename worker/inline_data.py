"""Inline data in texts: images and fonts in `data:` addresses and other base64, which nobody reads as characters."""

import re

INLINE_DATA = "inline data"  # the kind of what is left out
ADDRESS = b"data:"
SLICE_CHARACTERS = 200_000
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
_UNQUOTED = rf"{_OTHER}[^\s\"'<>()]{{{LEAST_CHARACTERS},}}+"
# ten times as fast with the start that all have: the engine tries the rest nowhere else
DATA = re.compile(rf"(?=data:[\w.+-]{{1,60}}/)(?:{_BASE64}|{_QUOTED}|{_UNQUOTED})", re.IGNORECASE)


# The same without an address: attachments, certificates, fields of JSON, cells of notebooks. Whole lines of base64, or
# one run that no word, path or key is as long as.
_BLOCK = r"(?:(?<=\n)|\A)(?:[ \t]*[A-Za-z0-9+/]{60,76}+[ \t]*\r?\n){4,}+[ \t]*[A-Za-z0-9+/]{0,76}={0,2}(?![^\s\"'\\-])"
LEAST_RUN = 300
_RUN = rf"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{{{LEAST_RUN},}}+={{0,2}}"
BARE = re.compile(rf"{_BLOCK}|{_RUN}")
# Every block has such a start, as long as the text begins with a line feed.
_BLOCK_START = re.compile(r"\n[ \t]*+[A-Za-z0-9+/]{60}")
# Every block and every run has such a line. Bytes of base64 become "a", to look for it.
_LINE = 60 * b"a"
_IN_LINE = bytes(ord("a" if re.match("[A-Za-z0-9+/_-]", chr(byte)) else " ") for byte in range(256))
# base64 of any data has many of each, as have hexadecimal digits but for one case of letters; a
# path, a list of names or a row of one letter lacks one
_UPPER, _LOWER, _DIGIT = (re.compile(kind) for kind in ("[A-Z]", "[a-z]", "[0-9]"))
LEAST_SHARE = 0.03
HEXADECIMAL = re.compile(r"[0-9a-f]+|[0-9A-F]+")


def without_inline_data(text: str) -> tuple[str, int]:
    """Remove the `data:` addresses and the base64 of a text; return it with the number of characters removed."""
    has_address, has_line = _signs(text)
    kept = text
    if has_address:
        kept = DATA.sub(lambda found: found[0] if len(found[0]) < LEAST_CHARACTERS else "", text)
    if (has_line or has_address) and (_may_have_run(kept) or _BLOCK_START.search(f"\n{kept}")):
        kept = BARE.sub(lambda found: "" if _is_encoded(found[0]) else found[0], kept)
    return kept, len(text) - len(kept)


def _signs(text: str) -> tuple[bool, bool]:
    """Whether a text may have an address, and a line of base64. Few texts do, so this decides what all others cost.

    Bytes become lower case in a tenth of the time of a text beyond ASCII. In slices, so that copies stay small.
    """
    has_address = has_line = False
    for at in range(0, len(text), SLICE_CHARACTERS):
        piece = text[at : at + SLICE_CHARACTERS + len(_LINE)].encode(errors="replace")
        has_address = has_address or ADDRESS in piece.lower()
        has_line = has_line or _LINE in piece.translate(_IN_LINE)
    return has_address, has_line


def _may_have_run(text: str) -> bool:
    """Whether a text may have a run of LEAST_RUN characters: it would fill one of these pieces without a space.

    A search for runs reads every character, and takes twenty times as long. A space comes soon in most pieces.
    """
    step = LEAST_RUN // 2
    for at in range(0, len(text) - step + 1, step):
        if text.find(" ", at, at + step) < 0 and len(text[at : at + step].split(None, 1)) == 1:
            return True
    return False


def _is_encoded(data: str) -> bool:
    """Whether characters are base64 or hexadecimal digits of other data."""
    upper, lower, digits = (len(kind.findall(data)) for kind in (_UPPER, _LOWER, _DIGIT))
    letters = max(upper, lower) if HEXADECIMAL.fullmatch(data) else min(upper, lower)
    return min(letters, digits) >= LEAST_SHARE * len(data)
