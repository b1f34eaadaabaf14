"""Bytes to text: in UTF-8 where they are that, else as the document declares, else as a detector reads them."""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from typing import BinaryIO

import webencodings  # type: ignore[import-untyped]
from chardetng_py import EncodingDetector  # type: ignore[import-untyped]
from selectolax.lexbor import LexborHTMLParser

# UTF-32 comes first: its mark begins with that of UTF-16
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
HEAD_BYTES = 16_000  # of a page, which are searched for its declaration; the standard asks for 1,024
SAMPLE_BYTES = 200_000  # of a file of lines, from which its encoding is guessed
MOST_REPLACED = 0.02  # of the characters; with more, a declaration or a guess is wrong
MOST_CONTROLS = 0.002  # of the characters of a text; other data have many more
NUL_SHARE = (
    0.4  # of the first or the second bytes of pairs: text in UTF-16, for the most part in Latin letters
)

XML_DECLARATION = re.compile(rb"\s*<\?xml[^>]{0,200}?\bencoding\s*=\s*[\"']([\w.:-]{1,40})")
CHARSET = re.compile(r"charset\s*=\s*[\"']?([\w.:-]{1,40})", re.IGNORECASE)
CONTROLS = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x84\x86-\x9f]")  # and no tab, line or escape

# A lone surrogate is in no decoded text. It marks an undecodable place, so that these are counted exactly.
MARK = "\udfff"
codecs.register_error("vector_index.mark", lambda error: (MARK, error.end))  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A text and how its bytes were read."""

    text: str  # with \n at the ends of lines, and U+FFFD for what is no text
    encoding: str
    guessed: bool = False  # neither a mark nor a declaration says so, and it is not UTF-8
    replaced: int = 0  # places that became U+FFFD


def decode(data: bytes, declared: str | None = None) -> Decoded:
    """Decode the bytes of a document; `declared` is the label of the encoding that it states.

    A byte order mark decides, then UTF-8 if it fits, then the declaration, then a guess. A text that is UTF-8 in more
    places than not is UTF-8 with faults. Bytes that nothing fits are read as UTF-8, too: count what was replaced.
    """
    for mark, encoding in BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return _decoded(data[len(mark) :], encoding)
    wide = _without_mark(data)
    if wide:
        return _decoded(data, wide, guessed=True)
    as_utf8 = _decoded(data, "utf-8")
    if _is_utf8(data, as_utf8):
        return as_utf8
    if declared and (found := _fitting(data, declared)):
        return found
    return _fitting(data, _guess(data), guessed=True) or as_utf8


def declared_by_page(data: bytes) -> str | None:
    """Return the label of the encoding that a page declares: in an XML declaration, or in an element <meta>."""
    if found := XML_DECLARATION.match(data.removeprefix(codecs.BOM_UTF8)):
        return found[1].decode("ascii")
    head = LexborHTMLParser(data[:HEAD_BYTES].decode("latin-1"))
    for node in head.css("meta"):
        attributes = {name.lower(): value or "" for name, value in node.attributes.items()}
        if label := attributes.get("charset", "").strip():
            return label
        if attributes.get("http-equiv", "").strip().lower() == "content-type" and (
            found_label := CHARSET.search(attributes.get("content", ""))
        ):
            return found_label[1]
    return None


def decoded_lines(file: BinaryIO, limit: int) -> Iterator[Decoded]:
    """Yield the lines of a file, which may end in any way; of a line over `limit` characters only the first of them.

    All lines have one encoding, except that a line in UTF-8 is UTF-8. A sample of the file tells it, else the first
    line that is not UTF-8.
    """
    sample = file.read(SAMPLE_BYTES)
    whole_lines = sample[: max(sample.rfind(b"\n"), sample.rfind(b"\r")) + 1] or sample
    found = decode(whole_lines)
    file.seek(len(next((mark for mark, _ in BYTE_ORDER_MARKS if sample.startswith(mark)), b"")))
    is_wide = found.encoding.startswith(("utf-16", "utf-32"))
    encoding, errors = (found.encoding, "vector_index.mark") if is_wide else ("utf-8", "surrogateescape")
    known = None if found.text.isascii() else found
    text = TextIOWrapper(file, encoding=encoding, errors=errors, newline=None)
    try:
        for line in _bounded(text, limit):
            if is_wide:
                yield _marked(line, found.encoding, guessed=found.guessed)
            elif line.isascii():
                yield Decoded(text=line, encoding="utf-8")
            else:
                decoded = _line(line.encode("utf-8", "surrogateescape"), known)
                known = known or decoded
                yield decoded
    finally:
        text.detach()  # the caller closes the file


def _line(data: bytes, known: Decoded | None) -> Decoded:
    as_utf8 = _decoded(data, "utf-8")
    if not as_utf8.replaced:
        return as_utf8
    if known is None:
        return decode(data)
    return as_utf8 if known.encoding == "utf-8" else _decoded(data, known.encoding, guessed=True)


def _bounded(lines: TextIOWrapper, limit: int) -> Iterator[str]:
    """Yield the lines; of a line over `limit` characters only the first `limit` + 1."""
    while line := lines.readline(limit + 1):
        yield line
        while len(line) > limit and not line.endswith("\n"):
            line = lines.readline(limit + 1)
            if not line:
                return


def _decoded(data: bytes, encoding: str, guessed: bool = False) -> Decoded:
    return _marked(data.decode(_codec(encoding), "vector_index.mark"), encoding, guessed=guessed)


def _marked(text: str, encoding: str, *, guessed: bool) -> Decoded:
    replaced = text.count(MARK)
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace(MARK, "\ufffd")
    return Decoded(text=text, encoding=encoding, guessed=guessed, replaced=replaced)


def _codec(encoding: str) -> str:
    """Return Python's name of an encoding of the web: browsers read many labels as a larger encoding."""
    found = webencodings.lookup(encoding)
    if encoding.startswith("utf-") or found is None:
        return encoding
    # GB 18030 has all of GBK
    return "gb18030" if found.name == "gbk" else str(found.codec_info.name)


def _fitting(data: bytes, label: str, guessed: bool = False) -> Decoded | None:
    """Decode with a label of the web, unless the label is unknown or the result is no text."""
    found = webencodings.lookup(label)
    # a page whose declaration could be read byte by byte is not in UTF-16, and UTF-8 was tried
    if found is None or found.name.startswith("utf-") or found.name in ("replacement", "x-user-defined"):
        return None
    decoded = _decoded(data, found.name, guessed)
    length = len(decoded.text)
    is_text = (
        decoded.replaced <= MOST_REPLACED * length
        and len(CONTROLS.findall(decoded.text)) <= MOST_CONTROLS * length
    )
    return decoded if is_text else None


def _guess(data: bytes) -> str:
    detector = EncodingDetector()
    detector.feed(data, last=True)
    return str(detector.guess(tld=None, allow_utf8=False))


def _is_utf8(data: bytes, decoded: Decoded) -> bool:
    """Return whether the bytes are UTF-8, with faults in fewer places than they have characters beyond ASCII."""
    ascii_bytes = len(data.translate(None, bytes(range(128, 256))))
    if ascii_bytes == len(data):
        return b"\x1b$" not in data  # else it may be ISO-2022-JP, all of whose bytes are ASCII
    line_feeds = 0 if b"\r" not in data else data.count(b"\r\n")  # which became one character
    return len(decoded.text) + line_feeds - ascii_bytes - decoded.replaced > decoded.replaced


def _without_mark(data: bytes) -> str:
    """Return UTF-16 with its byte order if every second byte is NUL for the most part, else ""."""
    if b"\0" not in data[:1000] or len(data) % 2:
        return ""
    pairs = len(data[:8000]) // 2
    first, second = (data[at:8000:2].count(0) / pairs for at in (0, 1))
    if max(first, second) < NUL_SHARE or min(first, second) > NUL_SHARE / 10:
        return ""
    return "utf-16-be" if first > second else "utf-16-le"
