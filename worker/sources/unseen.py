"""Parts of pages and texts that no reader sees, or that frame what a reader came for."""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from selectolax.lexbor import LexborHTMLParser, LexborNode

HIDDEN, NAVIGATION, COMMENTS = "hidden text", "navigation", "comments"

# never shown by a browser: their text is no text of the page
NEVER_SHOWN = frozenset(
    {"head", "script", "style", "template", "title", "desc", "metadata", "defs", "symbol", "datalist"}
    | {"annotation", "annotation-xml", "iframe", "noembed", "noframes", "canvas", "audio", "video"}
)
# a <footer> in one of these is not that of the page
SECTIONS = ("article", "aside", "main", "nav", "section", "blockquote", "details", "fieldset", "figure", "td")
LANDMARKS = 'nav, [role="navigation"], [role="search"], [role="contentinfo"]'
# ids and classes of what asks for consent to cookies
CONSENT = re.compile(
    r"(?:^|\s)(?:eu-|cmplz-|moove_|js-)?(?:onetrust-|cybotcookiebot|cc-(?:window|banner)\b"
    r"|(?:cookie|consent|gdpr)[\w-]{0,30}(?:banner|bar|notice|consent|popup|modal|dialog|overlay|compliance))",
    re.IGNORECASE,
)
MAX_MAINS = 10
MAX_RULES = 200  # of a page that hide something by name

STYLE_COMMENT = re.compile(r"/\*.*?(?:\*/|\Z)", re.DOTALL)
BRACES = re.compile(r"([{}])")
SIMPLE_SELECTOR = re.compile(r"[a-zA-Z0-9]{0,20}([.#][\w-]{1,80})")
ZERO = r"0(?:\.0+)?(?:px|pt|em|rem|%)?"
DISPLAY = re.compile(
    r"(?:^|;)(?:display:none|(?:content-)?visibility:(?:hidden|collapse)|transform:scale\(0\))(?:!important)?(?:;|$)"
)
VISIBLE = '[style*="visible"]'  # inside an element with visibility:hidden
# a rule in another block counts under a condition, such as a printer or a narrow window
ALWAYS = re.compile(
    r"@media\s+(?:only\s+)?(?:screen|all)|@(?:layer|supports|scope)\b.*", re.IGNORECASE | re.DOTALL
)
INVISIBLE = re.compile(
    rf"(?:^|;)(?:opacity:{ZERO}|text-indent:-\d{{4,}}(?:px)?|(?:left|top):-\d{{4,}}px)(?:!important)?(?:;|$)"
)
NO_ROOM = re.compile(rf"(?:^|;)(?:max-)?(?:height|width):{ZERO}(?:!important)?(?:;|$)")
FONT_SIZE = re.compile(r"(?:^|;)font-size:([^;!]*)")
TINY = re.compile(rf"{ZERO}|0?\.\d+px|1px")

CODE_OR_COMMENT = re.compile(r"^ {0,3}(```|~~~|<!--)", re.MULTILINE)


class Unseen:
    """The elements of a page whose text is left out, found once.

    `kind` of an element is `None` if it is shown, "" if a browser never shows it, else HIDDEN or NAVIGATION.
    """

    def __init__(self, tree: LexborHTMLParser) -> None:
        self._kinds: dict[int, str] = {}
        self._tiny: dict[int, bool] = {}  # whether the size of its text is zero, for elements that set it
        self._hidden_by_attributes(tree)
        self._hidden_by_style_sheets(tree)
        for node in tree.css(LANDMARKS):
            self._kinds.setdefault(node.mem_id, NAVIGATION)
        for node in tree.css("footer"):
            if not self.is_within(node, SECTIONS):
                self._kinds.setdefault(node.mem_id, NAVIGATION)
        for node in tree.css(
            '[id*="c"], [class*="c"], [id*="C"], [class*="C"], [id*="gdpr"], [class*="gdpr"]'
        ):
            attributes = node.attributes
            names = (attributes.get("id") or "", attributes.get("class") or "")
            if node.tag not in ("html", "body") and any(map(CONSENT.search, names)):
                self._kinds.setdefault(node.mem_id, NAVIGATION)
        self.mains = self._find_mains(tree)

    def kind(self, node: LexborNode) -> str | None:
        return "" if node.tag in NEVER_SHOWN else self._kinds.get(node.mem_id)

    def is_tiny(self, node: LexborNode, inherited: bool) -> bool:
        return self._tiny.get(node.mem_id, inherited) if self._tiny else inherited

    def is_unseen(self, node: LexborNode) -> bool:
        """Return whether the element, or one around it, is left out."""
        return any(self.kind(above) is not None for above in _and_ancestors(node))

    def is_within(self, node: LexborNode, tags: Sequence[str]) -> bool:
        return any(above.tag in tags for above in _and_ancestors(node.parent))

    def _find_mains(self, tree: LexborHTMLParser) -> list[LexborNode]:
        found = tree.css('main, [role="main"]')[:MAX_MAINS]
        ids = {node.mem_id for node in found}
        return [
            node
            for node in found
            if not self.is_unseen(node) and not any(up.mem_id in ids for up in _and_ancestors(node.parent))
        ]

    def _hidden_by_attributes(self, tree: LexborHTMLParser) -> None:
        for node in tree.css("[hidden], dialog:not([open]), [popover]"):
            # a browser shows the former when its text is searched for
            if (node.attributes.get("hidden") or "").lower() != "until-found":
                self._kinds[node.mem_id] = HIDDEN
        for node in tree.css("[style]"):
            style = _compact(node.attributes.get("style") or "")
            if _hides(style):
                self._hide(node)
            elif size := FONT_SIZE.findall(style):
                self._tiny[node.mem_id] = bool(TINY.fullmatch(size[-1]))

    def _hidden_by_style_sheets(self, tree: LexborHTMLParser) -> None:
        """Find what a style sheet of the page hides for good: no other rule, and no script, may show it again."""
        sheets = "\n".join(node.text() for node in tree.css("style"))
        if ("none" not in sheets and "hidden" not in sheets) or tree.css_first("script"):
            return
        rules = list(_rules(sheets))
        shown = " ".join(selectors for selectors, style, _ in rules if _shows(style))
        hiding = (
            selectors.split(",") for selectors, style, always in rules if always and DISPLAY.search(style)
        )
        simple = (
            found for some in hiding for each in some if (found := SIMPLE_SELECTOR.fullmatch(each.strip()))
        )
        for selector in islice(simple, MAX_RULES):
            if not re.search(rf"{re.escape(selector[1])}(?![\w-])", shown):
                for node in tree.css(selector[0]):
                    self._hide(node)

    def _hide(self, node: LexborNode) -> None:
        """Leave an element out, but for the page itself, which is shown once it is complete."""
        shows_a_part = "visibility" in (node.attributes.get("style") or "") and node.css_first(VISIBLE)
        if node.tag not in ("html", "body") and not shows_a_part:
            self._kinds[node.mem_id] = HIDDEN


def without_comments(text: str) -> tuple[str, int]:
    """Remove the comments of a Markdown text that begin a line, outside code; return it with their characters."""
    kept, at = [], 0
    while found := CODE_OR_COMMENT.search(text, at):
        is_comment = found[1] == "<!--"
        end = text.find("-->", found.end()) if is_comment else _end_of_code(text, found)
        if end < 0:
            break
        kept.append(text[at : found.start() if is_comment else end])
        at = end + 3 if is_comment else end
    kept.append(text[at:])
    rest = "".join(kept)
    return rest, len(text) - len(rest)


def _end_of_code(text: str, opened: re.Match[str]) -> int:
    closed = re.compile(rf"^ {{0,3}}{opened[1]}", re.MULTILINE).search(text, opened.end())
    return closed.end() if closed else -1


def _rules(sheets: str) -> Iterator[tuple[str, str, bool]]:
    """Yield the rules of style sheets: their selectors, their declarations, and whether they always count."""
    opened: list[str] = []
    before = ""
    for part in BRACES.split(STYLE_COMMENT.sub(" ", sheets)):
        if part == "{":
            opened.append(before.rpartition(";")[2].strip())
        elif part == "}" and opened:
            selectors = opened.pop()
            if not selectors.startswith("@"):
                yield selectors, _compact(before), all(map(ALWAYS.fullmatch, opened))
            before = ""
        else:
            before = part


def _shows(style: str) -> bool:
    return ("display:" in style or "visibility:" in style) and not DISPLAY.search(style)


def _hides(style: str) -> bool:
    if DISPLAY.search(style) or INVISIBLE.search(style):
        return True
    return "overflow:hidden" in style and NO_ROOM.search(style) is not None


def _compact(style: str) -> str:
    return "".join(style.lower().split())


def _and_ancestors(node: LexborNode | None) -> Iterator[LexborNode]:
    while node is not None:
        yield node
        node = node.parent
