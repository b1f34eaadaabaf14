"""Documents for all contenders: real English prose that every Python carries, the same in every run.

Python's language reference and the docstrings of its library, 2 MB, which are read in 3.3 s. They are cut anew when
they end. Each paragraph has a mark, so no two documents have a chunk in common.
"""

import ast
import json
import random
import sysconfig
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

SMALLEST, LARGEST = 3_000, 6_000  # characters of a document: 4.5 kB on average
SMALL = (270, 330)
CHANGED_EVERY = 100  # one document of so many gets a new sentence
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"}

Document = dict[str, Any]


def documents(count: int, *, sizes: tuple[int, int] = (SMALLEST, LARGEST), seed: int = 1) -> list[Document]:
    """Documents of these sizes; another seed gives other documents."""
    found = islice(texts(sizes, seed), count)
    return [
        {"id": f"{seed}-{number}", "title": f"Document {number}", "text": text}
        for number, text in enumerate(found)
    ]


def changed(found: list[Document]) -> list[Document]:
    """The same documents; one in CHANGED_EVERY has a new sentence in its middle."""
    return [
        edited(document, 1) if at % CHANGED_EVERY == CHANGED_EVERY // 2 else document
        for at, document in enumerate(found)
    ]


def edited(document: Document, revision: int) -> Document:
    """The document with a sentence added at the line break nearest after its middle."""
    text = document["text"]
    at = text.find("\n", len(text) // 2)
    at = len(text) // 2 if at < 0 else at
    return {**document, "text": f"{text[:at]}\nThis sentence came with revision {revision}.{text[at:]}"}


def large(size: int) -> Document:
    """One document of so many characters."""
    parts, length = [], 0
    for text in texts((20_000, 40_000), 3):
        parts.append(text)
        length += len(text) + 2
        if length >= size:
            break
    return {"id": "large", "title": "Large document", "text": "\n\n".join(parts)[:size]}


def write(path: Path, found: list[Document]) -> Path:
    path.write_text("".join(json.dumps(document) + "\n" for document in found))
    return path


def read(path: str) -> list[Document]:
    with Path(path).open() as lines:
        return [json.loads(line) for line in lines]


def texts(sizes: tuple[int, int], seed: int) -> Iterator[str]:
    """Pieces of the prose, one after the other, that end with a line; without end."""
    text, chosen, lap = prose(), random.Random(seed), 0
    while True:
        at = chosen.randrange(LARGEST) if lap else 0
        while (end := text.find("\n", at + chosen.randint(*sizes))) > 0:
            piece = text[at:end].strip()
            at = end
            if len(piece) >= sizes[0] // 2:
                yield piece.replace("\n\n", f" ({seed}.{lap})\n\n") + f" ({seed}.{lap})"
        lap += 1


@cache
def prose() -> str:
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [path for path in sorted(library.rglob("*.py")) if not LEFT_OUT & set(path.parts)]
    docstrings = (text for path in files for text in _docstrings(path))
    return "\n\n".join([*(topics[name] for name in sorted(topics)), *docstrings]).replace("\0", "")


def _docstrings(path: Path) -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield text
