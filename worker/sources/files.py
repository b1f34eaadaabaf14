"""Reads documents from files and folders: text, Markdown, reStructuredText, HTML and JSON lines.

At most one file, or one line of a .jsonl file, is in memory at a time.
"""

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from email.parser import HeaderParser
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar

from selectolax.lexbor import LexborHTMLParser

from worker.documents import Document, read_json
from worker.errors import InvalidDocument, InvalidQuery, SettingsError, SourceFailed
from worker.protocols import Skipped
from worker.reference import Setting

__all__ = ["FolderSource"]

MARKDOWN, HTML, JSON_LINES = {".md", ".markdown"}, {".html", ".htm"}, {".jsonl", ".ndjson"}
ENDINGS = {".txt", ".rst"} | MARKDOWN | HTML | JSON_LINES


class FolderSource:
    """The documents of files and folders, as `vector-index index` reads them.

    Skips files of other kinds inside folders. Raises SettingsError for PATHS that cannot be used.
    """

    defaults_from_settings: ClassVar[Mapping[str, str]] = {"max_bytes": "MAX_DOCUMENT_BYTES"}

    def __init__(
        self,
        *,
        paths: Annotated[
            list[str],
            Setting(
                type="list of absolute paths",
                meaning="Files, and folders that are read with their subfolders. Read are text, Markdown, "
                "reStructuredText, HTML and JSON lines; other and hidden files of a folder are skipped.",
                example='["/srv/handbook", "/srv/faq.md"]',
            ),
        ],
        max_bytes: Annotated[
            int,
            Setting(
                unit="bytes",
                type="whole number, at least 1",
                meaning="The longest file, or text of a line of JSON. A longer one is listed under `failed`.",
                example="2_000_000",
            ),
        ],
    ) -> None:
        if isinstance(paths, str) or not isinstance(paths, Sequence) or not paths:
            raise SettingsError(
                f"PATHS of FolderSource is {paths!r}; set it to a list of paths of files or folders"
            )
        for path in paths:
            # a relative path would depend on the folder in which the worker was started
            if not isinstance(path, str | Path) or not Path(path).expanduser().is_absolute():
                raise SettingsError(f"PATHS of FolderSource has {path!r}; use absolute paths")
        self.paths = [Path(path).expanduser() for path in paths]
        self.max_bytes = max_bytes

    def documents(self) -> Iterator[dict[str, Any] | Skipped]:
        """Yield documents, and Skipped for files and lines without one. Raises InvalidQuery for a missing path.

        An empty folder of PATHS is Skipped without an id, so the run deletes nothing: a disk that is not mounted looks
        like that.
        """
        check_existence(self.paths)
        for path in self.paths:
            if path.is_dir() and not any(path.iterdir()):
                reason = "is empty, as if its disk were not mounted; mount it, or remove it from PATHS"
                yield Skipped(path=_printable(path), reason=reason)
        for item in read(self.paths, max_bytes=self.max_bytes):
            if not isinstance(item, Skipped) or not self._is_of_another_kind(Path(item.path)):
                yield item

    def check(self) -> str:
        """Count the files to read, by their names alone. Raises InvalidQuery, SourceFailed."""
        check_existence(self.paths)
        found = [file for file, _ in _files(self.paths)]
        skipped = [
            file
            for file in found
            if isinstance(file, Skipped) and not self._is_of_another_kind(Path(file.path))
        ]
        if skipped:
            others = f" (and {len(skipped) - 1:,} more files)" if len(skipped) > 1 else ""
            raise SourceFailed(f"{skipped[0]}{others}; fix it, or change PATHS")
        files = sum(isinstance(file, Path) for file in found)
        return f"{files:,} files in {', '.join(map(_printable, self.paths))}"

    def _is_of_another_kind(self, path: Path) -> bool:
        return path.suffix.lower() not in ENDINGS and path not in self.paths and path.is_file()


def read(paths: Iterable[Path], *, max_bytes: int) -> Iterator[dict[str, Any] | Skipped]:
    """Yield the documents of files and folders as `tasks.index_documents` takes them, or Skipped with the reason.

    Reads a folder with its subfolders, in the order of names. Ignores hidden files and folders, and links to folders.
    The id of a file is its path below the named folder, with `/` between the parts; a file that was named itself has
    its name as id. A .jsonl line has its own id. The title comes from the document (see `_title`), else it is the
    file's name without extension.

    Bytes are UTF-8, or UTF-16 after a byte order mark; invalid bytes become U+FFFD. `max_bytes` is the limit of a
    file, or of the text of a line. Raises InvalidQuery for a path that does not exist, before it reads anything.
    """
    paths = list(paths)
    check_existence(paths)
    return _read(paths, max_bytes)


def check_existence(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise InvalidQuery(f"{_printable(path)} does not exist; name files or folders to index")


def _read(paths: list[Path], max_bytes: int) -> Iterator[dict[str, Any] | Skipped]:
    taken: dict[str, Path] = {}  # a second file of the same id would silently replace the first
    for file, id in _files(paths):
        if isinstance(file, Skipped):
            yield replace(file, id=id if Path(id).suffix.lower() in ENDINGS - JSON_LINES else None)
            continue
        own = None if file.suffix.lower() in JSON_LINES else id
        try:
            if file.suffix.lower() in JSON_LINES:
                yield from _lines(file, max_bytes)
            elif (other := taken.setdefault(id, file)) is not file:
                reason = f"its id {id!r} is that of {_printable(other)}; index their common folder"
                yield Skipped(path=_printable(file), reason=reason, id=own)
            else:
                yield _document(file, id, max_bytes)
        except InvalidDocument as error:
            yield Skipped(path=_printable(file), reason=str(error), id=own)
        except OSError as error:
            yield Skipped(path=_printable(file), reason=f"cannot be read: {error.strerror}", id=own)


def _files(paths: list[Path]) -> Iterator[tuple[Path | Skipped, str]]:
    """Yield every file with its id, and Skipped for files that cannot be documents."""
    for named in paths:
        if not named.is_dir():
            yield _checked(named), _printable(named.name)
            continue
        unreadable: list[OSError] = []
        for folder, folders, names in os.walk(named, onerror=unreadable.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(name for name in names if not name.startswith(".")):
                file = Path(folder, name)
                yield _checked(file), _printable(file.relative_to(named).as_posix())
        for error in unreadable:
            yield Skipped(path=_printable(error.filename), reason=f"cannot be read: {error.strerror}"), ""


def _checked(file: Path) -> Path | Skipped:
    if file.suffix.lower() not in ENDINGS:
        reason = f"the ending {file.suffix!r} is not one of {', '.join(sorted(ENDINGS))}"
        return Skipped(path=_printable(file), reason=reason)
    if not file.is_file():  # a pipe or a device would be read for ever
        return Skipped(path=_printable(file), reason="is no regular file")
    return file


def _document(file: Path, id: str, max_bytes: int) -> dict[str, Any]:
    size = file.stat().st_size
    if size > max_bytes:
        raise InvalidDocument(
            f"has {size:,} bytes, over MAX_DOCUMENT_BYTES ({max_bytes:,}); split it or raise the setting"
        )
    text, ending = _decode(file.read_bytes()), file.suffix.lower()
    title, text = _html(text) if ending in HTML else (_title(text, ending), text)
    document = {"id": id, "text": text, "title": title or _printable(file.stem)}
    Document.from_json(document, max_bytes=max_bytes)
    return document


def _lines(file: Path, max_bytes: int) -> Iterator[dict[str, Any] | Skipped]:
    # JSON's escapes at most triple the bytes of real text; metadata and title come on top
    limit = 3 * max_bytes + 2_000_000
    with file.open("rb") as opened:
        for number, line in enumerate(_bounded_lines(opened, limit), start=1):
            if not line.strip():
                continue
            try:
                if len(line) > limit:
                    raise InvalidDocument(f"the line is over {limit:,} bytes; split the document")
                document = read_json(_decode(line))
                Document.from_json(document, max_bytes=max_bytes)
                yield document
            except json.JSONDecodeError as error:
                reason = f"is not JSON ({error.msg} at column {error.colno}); write one object per line"
                yield Skipped(path=f"{_printable(file)}:{number}", reason=reason)
            except RecursionError:
                yield Skipped(path=f"{_printable(file)}:{number}", reason="is nested too deep for JSON")
            except InvalidDocument as error:
                yield Skipped(path=f"{_printable(file)}:{number}", reason=str(error))


def _bounded_lines(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield the lines of a file; of a line over `limit` bytes only the first `limit` + 1."""
    while line := file.readline(limit + 1):
        yield line
        while len(line) > limit and not line.endswith(b"\n"):
            line = file.readline(limit + 1)
            if not line:
                return


def _decode(data: bytes) -> str:
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    return data.decode(encoding, "replace").replace("\r\n", "\n")


def _printable(path: object) -> str:
    """Return the path as text that Postgres and terminals accept: file names on Linux are bytes."""
    return os.fsencode(str(path)).decode(errors="replace")


def _title(text: str, ending: str) -> str:
    """Return the title that the text states, or "".

    It is the `Title:` of a mail-like header (PEPs) or of YAML front matter. In Markdown it is else the level-1 heading,
    if that is the only one or comes first; in reStructuredText, the first underlined line.
    """
    if ending == ".txt":
        return ""
    header = text.removeprefix("---\n").partition("\n---\n" if text.startswith("---\n") else "\n\n")[0]
    if title := HeaderParser().parsestr(header).get("Title"):
        return " ".join(title.split()).strip("\"'")
    if ending in MARKDOWN:
        return _markdown_title(text[len(header) :] if text.startswith("---\n") else text)
    return next(
        (
            above.strip()
            for above, line in pairwise(text.splitlines())
            if re.fullmatch(r"([=\-~^\"'`#*+.:_])\1{2,}\s*", line)
            and above.strip()
            and len(line.rstrip()) >= len(above.rstrip())
        ),
        "",
    )


def _markdown_title(text: str) -> str:
    prose = re.sub(
        r"^(```|~~~).*?(^\1|\Z)", "", text, flags=re.DOTALL | re.MULTILINE
    )  # `# ` is a comment there
    # no pattern here may backtrack: a line can have ten megabytes
    headings = re.findall(r"^(?:# +(.+)|(?=.*\w)(.+)\n=+ *)$", prose, flags=re.MULTILINE)
    first = "".join(headings[0]).rstrip("# ") if headings else ""
    # "Summary", "Motivation", ... of a text without a title are its sections
    return first.strip() if len(headings) == 1 or prose.lstrip("-\n# ").startswith(first) else ""


# control characters that mark line breaks of the markup while tags are removed
LINE, PARAGRAPH, VERBATIM = "\x01", "\x02", "\x03"
LINES = "br, li, tr, dt, dd, option, caption, figcaption, summary"
PARAGRAPHS = (
    "p, div, h1, h2, h3, h4, h5, h6, ul, ol, dl, table, blockquote, section, article, header, footer, main, "
    "nav, aside, hr, form, fieldset, figure, address, details"
)


def _html(source: str) -> tuple[str, str]:
    """Return title and text of a page: a line per item and row, an empty line between blocks, `pre` unchanged."""
    tree = LexborHTMLParser(source.translate({ord(mark): None for mark in LINE + PARAGRAPH + VERBATIM}))
    heading = tree.css_first("title") or tree.css_first("h1")
    title = " ".join(heading.text().split()) if heading else ""
    tree.strip_tags(["head", "script", "style", "template", "noscript"])
    for mark, elements in ((" ", "td, th"), (LINE, LINES), (PARAGRAPH, PARAGRAPHS), (VERBATIM, "pre")):
        for node in tree.css(elements):
            node.insert_before(mark)
            node.insert_after(mark)
    pieces = (tree.body.text() if tree.body else "").split(VERBATIM)
    return title, "\n\n".join(filter(None, (_layout(piece, at % 2 == 1) for at, piece in enumerate(pieces))))


def _layout(piece: str, verbatim: bool) -> str:
    if verbatim:
        return re.sub(f"[{LINE}{PARAGRAPH}]+", "\n", piece).strip("\n").rstrip()
    paragraphs = (
        "\n".join(filter(None, (" ".join(line.split()) for line in paragraph.split(LINE))))
        for paragraph in piece.split(PARAGRAPH)
    )
    return "\n\n".join(filter(None, paragraphs))
