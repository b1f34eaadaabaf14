"""Markdown that several pages need: wrapped text, bullets, tables, blocks."""

import inspect
import textwrap
from collections.abc import Iterable, Sequence

WIDTH = 120


def wrapped(text: str, bullet: str = "") -> str:
    """Wrap a paragraph, or one bullet of a list."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=bullet,
        subsequent_indent=" " * len(bullet),
        break_long_words=False,
        break_on_hyphens=False,
    )


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(wrapped(line, "- ") for line in lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a table; a `|` in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def block(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def paragraphs(owner: object) -> list[str]:
    """Return the paragraphs of a docstring, each as one line."""
    return [" ".join(part.split()) for part in (inspect.getdoc(owner) or "").split("\n\n")]


def first_sentence(owner: object) -> str:
    """Return the first sentence of a docstring."""
    return paragraphs(owner)[0].partition(". ")[0].rstrip(".") + "."


def page(*parts: str) -> str:
    """Join the parts of a page with a blank line between them."""
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
