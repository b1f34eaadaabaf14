"""The title that a text states: in its front matter, in a header of fields, or in its first heading."""

import re
import tomllib
from collections.abc import Iterator
from itertools import islice, pairwise

import yaml  # type: ignore[import-untyped]

MAX_FRONT_MATTER_CHARACTERS = 20_000  # a longer one is not looked at for a title
MAX_BRACKETS = 500

# ends of lines may carry spaces; YAML ends a document with `...` too
FRONT_MATTER = {
    "---": re.compile(r"---[ \t]*\n(.*?)^(?:---|\.\.\.)[ \t]*$", re.DOTALL | re.MULTILINE),
    "+++": re.compile(r"\+\+\+[ \t]*\n(.*?)^\+\+\+[ \t]*$", re.DOTALL | re.MULTILINE),
}
TOP_LINE = re.compile(r"[\w.\"'-]+[ \t]*:")
TITLE_LINE = re.compile(r"title[ \t]*:[ \t]*(\S.*)", re.IGNORECASE)
FIELD = re.compile(
    r"([A-Za-z][\w-]*(?: [\w-]+){0,2}):(?:[ \t]+(.*))?"
)  # of a header, as PEPs and Pelican have it
HEADER_LINES = 100

# no pattern here may backtrack: a line can have ten megabytes
CODE = re.compile(r"^ {0,3}(```|~~~).*?(^ {0,3}\1|\Z)", re.DOTALL | re.MULTILINE)  # `# ` is a comment there
COMMENT = re.compile(r"^ {0,3}<!--.*?(-->|\Z)", re.DOTALL | re.MULTILINE)
HEADINGS = re.compile(
    r"^ {0,3}(?:#[ \t]+(.+)|(?=\S)(?![#>*+-][ \t])(?=.*\w)(.+)\n {0,3}=+[ \t]*)$", re.MULTILINE
)
CLOSING_MARKS = re.compile(r"(^|[ \t])#+[ \t]*$")
ATTRIBUTES = re.compile(r"[ \t]*\{[#.:][^{}]*\}[ \t]*$")  # of a heading, such as {#fees}
LINK = re.compile(r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])")
UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}\s*")


def markdown_title(text: str) -> str:
    """Return the title of a Markdown text, or "": of its front matter or header, else its level-1 heading.

    The heading counts if it is the only one of level 1, or comes first.
    """
    title, body = front_matter(text)
    return title or header_title(text) or _heading(body)


def restructured_text_title(text: str) -> str:
    """Return the title of a reStructuredText, or "": of its front matter or header, else its first underlined line."""
    title, body = front_matter(text)
    return title or header_title(text) or _underlined(body)


def front_matter(text: str) -> tuple[str, str]:
    """Return the title in a text's front matter, in YAML or TOML, and the text behind it; "" and the text without."""
    pattern = FRONT_MATTER.get(text[:3])
    found = pattern.match(text, 0, MAX_FRONT_MATTER_CHARACTERS) if pattern else None
    if found is None:
        return "", text
    title = _of_yaml(found[1]) if text[0] == "-" else _of_toml(found[1])
    return ("", text) if title is None else (title, text[found.end() :])


def header_title(text: str) -> str:
    """Return the `Title` of a header: two or more lines `Name: value` above the first blank line, and nothing else."""
    fields: list[tuple[str, str]] = []
    for line in islice(_lines(text), HEADER_LINES):
        if not line.strip():
            break
        if fields and line[0] in " \t":
            name, value = fields[-1]
            fields[-1] = (name, f"{value} {line.strip()}")
        elif found := FIELD.fullmatch(line):
            fields.append((found[1].lower(), found[2] or ""))
        else:
            return ""
    return " ".join(dict(fields).get("title", "").split()).strip("\"'") if len(fields) > 1 else ""


def _of_yaml(text: str) -> str | None:
    """Return the title of a YAML mapping, "" without one; `None` if the text is no mapping.

    Nodes are composed, not built into values: a date stays as it was written, and an alias costs nothing.
    """
    if text.count("[") + text.count("{") > MAX_BRACKETS:  # PyYAML takes seconds for thousands of them
        return _of_fields(text)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError):
        return _of_fields(text)
    if not isinstance(root, yaml.MappingNode):
        return None if root is not None else ""
    titles = [
        value for key, value in root.value if getattr(key, "value", None) in ("title", "Title", "TITLE")
    ]
    return _scalar(titles[0]) if titles else ""


def _of_fields(text: str) -> str | None:
    """Return the title of lines that look like fields but are no YAML, such as `title: Lending: the rules`."""
    top = [line.rstrip() for line in text.splitlines() if line.strip() and line[0] not in " \t-#]}"]
    if not all(TOP_LINE.match(line) for line in top):
        return None
    return next((found[1].strip("\"'") for line in top if (found := TITLE_LINE.fullmatch(line))), "")


def _scalar(node: yaml.Node) -> str:
    """Return the text of a scalar, or of a list of scalars; "" for null and mappings."""
    if isinstance(node, yaml.SequenceNode):
        return ", ".join(
            filter(None, (_scalar(item) for item in node.value if isinstance(item, yaml.ScalarNode)))
        )
    if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null":
        return ""
    return " ".join(node.value.split())


def _of_toml(text: str) -> str | None:
    try:
        title = tomllib.loads(text).get("title", "")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return None
    return " ".join(title.split()) if isinstance(title, str) else ""


def _heading(text: str) -> str:
    prose = COMMENT.sub("", CODE.sub("", text))
    headings = [
        (found, title) for found in HEADINGS.finditer(prose) if (title := _plain(found[1] or found[2]))
    ]
    if not headings:
        return ""
    first, title = headings[0]
    # "Summary", "Motivation", ... of a text without a title are its sections
    above = HEADINGS.sub("", prose[: first.start()])
    return title if len(headings) == 1 or not above.strip("-\n ") else ""


def _plain(heading: str) -> str:
    """Return a heading without its closing marks and attributes, and with the text of its links and images alone."""
    text = CLOSING_MARKS.sub("", ATTRIBUTES.sub("", heading[:10_000].strip()))
    for _ in range(2):  # an image may stand in a link
        text = LINK.sub(r"\1", text)
    return " ".join(text.split())


def _underlined(text: str) -> str:
    return next(
        (
            above.strip()
            for above, line in pairwise(text.splitlines())
            if UNDERLINE.fullmatch(line) and above.strip() and len(line.rstrip()) >= len(above.rstrip())
        ),
        "",
    )


def _lines(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        yield text[at : min(end, at + 10_000)]
        at = end + 1
