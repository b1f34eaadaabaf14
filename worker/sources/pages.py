"""Read HTML pages: their title and text, in time linear in their size."""

import re

from selectolax.lexbor import LexborHTMLParser

MAX_DEPTH = 500  # of elements, as in browsers; deeper text is kept, without its own lines
MAX_ATTRIBUTES = 500  # of a tag, with its name

TAG = re.compile(r"<(/?)([a-zA-Z][^\s/<>]*)[^<>]*>?")
# elements without content, and those that the next one of their kind ends
NEVER_NESTED = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
    | {"p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup", "colgroup"}
)

# control characters that mark line breaks of the markup while tags are removed
LINE, PARAGRAPH, VERBATIM = "\x01", "\x02", "\x03"
LINES = "br, li, tr, dt, dd, option, caption, figcaption, summary"
PARAGRAPHS = (
    "p, div, h1, h2, h3, h4, h5, h6, ul, ol, dl, table, blockquote, section, article, header, footer, main, "
    "nav, aside, hr, form, fieldset, figure, address, details"
)


def read_page(source: str) -> tuple[str, str]:
    """Return title and text of a page: a line per item and row, an empty line between blocks, `pre` unchanged."""
    source = source.translate({ord(mark): None for mark in LINE + PARAGRAPH + VERBATIM})
    tree = LexborHTMLParser(_bounded(source))
    heading = tree.css_first("title") or tree.css_first("h1")
    title = " ".join(heading.text().split()) if heading else ""
    tree.strip_tags(["head", "script", "style", "template", "noscript"])
    for mark, elements in ((" ", "td, th"), (LINE, LINES), (PARAGRAPH, PARAGRAPHS), (VERBATIM, "pre")):
        for node in tree.css(elements):
            node.insert_before(mark)
            node.insert_after(mark)
    pieces = (tree.body.text() if tree.body else "").split(VERBATIM)
    return title, "\n\n".join(filter(None, (_layout(piece, at % 2 == 1) for at, piece in enumerate(pieces))))


def _bounded(source: str) -> str:
    """Remove tags that are nested more than MAX_DEPTH deep, and attributes of a tag that has very many.

    For each tag, a parser of HTML walks up its ancestors and compares its attributes with each other.
    """
    depth = 0

    def bounded(found: re.Match[str]) -> str:
        nonlocal depth
        tag, closes, name = found[0], found[1], found[2].lower()
        if name not in NEVER_NESTED:
            depth = max(0, depth - 1) if closes else depth + 1
            if depth + bool(closes) > MAX_DEPTH:
                return " "
        return f"<{name}>" if len(tag.split(None, MAX_ATTRIBUTES)) > MAX_ATTRIBUTES else tag

    return TAG.sub(bounded, source)


def _layout(piece: str, verbatim: bool) -> str:
    if verbatim:
        return re.sub(f"[{LINE}{PARAGRAPH}]+", "\n", piece).strip("\n").rstrip()
    paragraphs = (
        "\n".join(filter(None, (" ".join(line.split()) for line in paragraph.split(LINE))))
        for paragraph in piece.split(PARAGRAPH)
    )
    return "\n\n".join(filter(None, paragraphs))
