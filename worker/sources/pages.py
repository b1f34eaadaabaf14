"""Read HTML pages: their title, and the text that a reader sees, in time linear in their size."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from selectolax.lexbor import LexborHTMLParser, LexborNode

from worker.sources.unseen import HIDDEN, NAVIGATION, Unseen

MAX_DEPTH = 500  # of elements, as in browsers; deeper text is kept, without its own lines
MAX_ATTRIBUTES = 500  # of a tag, with its name
MAX_HEADINGS = 20  # that are looked at for a title

TAG = re.compile(r"<(/?)([a-zA-Z][^\s/<>]*)[^<>]*>?")
# elements without content, and those that the next one of their kind ends
NEVER_NESTED = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
    | {"p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "optgroup", "colgroup"}
)

# control characters that stand for line breaks of the markup
LINE, PARAGRAPH, VERBATIM = "\x01", "\x02", "\x03"
MARKS = dict.fromkeys(("td", "th"), " ")
MARKS |= dict.fromkeys(["br", "li", "tr", "dt", "dd", "option", "caption", "figcaption", "summary"], LINE)
MARKS |= dict.fromkeys(
    {
        "p",
        "div",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "dl",
        "table",
        "blockquote",
        "section",
        "article",
    }
    | {"header", "footer", "main", "nav", "aside", "hr", "form", "fieldset", "figure", "address", "details"},
    PARAGRAPH,
)
MARKS["pre"] = VERBATIM
CONTROLS = re.compile(f"[{LINE}{PARAGRAPH}{VERBATIM}]")
# of characters without a width, as newsletters fill the line of their subject
PADDING = re.compile(
    "{0}(?:[\\s\u2800]*{0}){{2,}}+[\\s\u2800]*".format(
        "[\u034f\u00ad\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u2060-\u206f\ufeff]"
    )
)


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a reader sees of a page."""

    title: str
    text: str
    left_out: Mapping[str, int]  # characters by kind: hidden text, navigation
    has_scripts: bool  # which may make the text


def read_page(source: str) -> Page:
    """Return title and text of a page: a line per item and row, an empty line between blocks, `pre` unchanged.

    Left out are hidden text, and navigation with everything else around the element <main>, unless that is all. Text in
    <noscript> counts if it is longer than the rest.
    """
    source = CONTROLS.sub("", source)
    tree = LexborHTMLParser(_bounded(source))
    if tree.body is None:
        return Page(title=_title(tree, Unseen(tree)), text="", left_out={}, has_scripts=False)
    unseen = Unseen(tree)
    whole = _Reading(unseen)
    text = whole.text(tree.body)
    mains = [_Reading(unseen).text(node) for node in unseen.mains]
    around = len(text)
    if any(mains):
        text = "\n\n".join(filter(None, mains))
    left_out = whole.left_out + Counter({NAVIGATION: around - len(text)})
    if not text:  # then navigation and scripts are no frame of something else
        everything = _Reading(unseen, navigation=True, noscript=True)
        text = everything.text(tree.body)
        left_out = everything.left_out
    elif whole.noscript_characters > around:
        text = _Reading(unseen, noscript=True).text(tree.body)
    return Page(
        title=_title(tree, unseen),
        text=text,
        left_out={kind: characters for kind, characters in left_out.items() if characters > 0},
        has_scripts=tree.css_first("script") is not None,
    )


class _Reading:
    """One walk over elements, and the characters that it left out."""

    def __init__(self, unseen: Unseen, *, navigation: bool = False, noscript: bool = False) -> None:
        self._unseen, self._navigation, self._noscript = unseen, navigation, noscript
        self.left_out: Counter[str] = Counter()
        self.noscript_characters = 0

    def text(self, root: LexborNode) -> str:
        pieces: list[str] = []
        # a node with whether its text has no size, or a mark
        stack: list[tuple[LexborNode, bool] | str] = [(root, False)]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                pieces.append(item)
                continue
            node, is_tiny = item
            if node.is_text_node:
                self._add(pieces, node.text_content or "", is_tiny)
            elif node.is_element_node and not self._is_left_out(node):
                is_tiny = self._unseen.is_tiny(node, is_tiny)
                if mark := MARKS.get(node.tag or ""):
                    pieces.append(mark)
                    stack.append(mark)
                child = node.last_child
                while child is not None:
                    stack.append((child, is_tiny))
                    child = child.prev
        parts = "".join(pieces).split(VERBATIM)
        return "\n\n".join(filter(None, (_layout(part, at % 2 == 1) for at, part in enumerate(parts))))

    def _add(self, pieces: list[str], text: str, is_tiny: bool) -> None:
        kept = "" if is_tiny else PADDING.sub(" ", text)
        if len(kept) < len(text):
            self.left_out[HIDDEN] += len(text.strip()) - len(kept.strip())
        pieces.append(CONTROLS.sub("", kept))  # a reference such as &#1; makes one

    def _is_left_out(self, node: LexborNode) -> bool:
        if node.tag == "noscript" and not self._noscript:
            self.noscript_characters += len(" ".join(node.text().split()))
            return True
        kind = self._unseen.kind(node)
        if kind is None or (kind == NAVIGATION and self._navigation):
            return False
        if kind:
            self.left_out[kind] += len(" ".join(node.text().split()))
        return True


def _title(tree: LexborHTMLParser, unseen: Unseen) -> str:
    """Return the text of the page's <title>, else of its first visible <h1>."""
    for node in tree.css("title"):
        title = " ".join(node.text().split())
        if title and not unseen.is_within(node, ("svg", "math", "template", "noscript")):
            return title
    for node in tree.css("h1")[:MAX_HEADINGS]:
        title = " ".join(_Reading(unseen).text(node).split())
        if title and not unseen.is_unseen(node):
            return title
    return ""


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
