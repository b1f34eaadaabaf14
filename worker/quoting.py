"""Enclose passages in marks that they cannot contain, so that a model can tell them from its instructions.

Strangers may have written the passages. Each is enclosed in <passage> and </passage>, and its number is outside. A `<`
that begins such a mark in a quoted text becomes `&lt;`. So a passage cannot close itself, give instructions from
outside its marks, or claim another number.
"""

import re

_MARK = re.compile(r"<(?=\s*/?\s*passage)", re.IGNORECASE)


def quoted(text: str) -> str:
    """Return a text that contains no mark of a passage."""
    return _MARK.sub("&lt;", text)


def numbered(number: int, text: str) -> str:
    """Return a passage between its marks, with its number in front."""
    return f"[{number}]\n<passage>\n{quoted(text)}\n</passage>"
