"""Reads documents from files and folders: text, Markdown, reStructuredText, HTML and JSON lines.

At most one file, or one line of a .jsonl file, is in memory at a time.
"""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from worker.documents import MAX_TITLE_CHARACTERS, Document, read_json
from worker.errors import InvalidDocument, InvalidQuery, SettingsError, SourceFailed
from worker.inline_data import INLINE_DATA, without_inline_data
from worker.observability.logs import log_fields
from worker.protocols import LeftOut, Skipped
from worker.reference import Setting
from worker.sources.encodings import Decoded, declared_by_page, decode, decoded_lines
from worker.sources.pages import read_page
from worker.sources.titles import markdown_title, restructured_text_title
from worker.sources.unseen import COMMENTS, without_comments

logger = logging.getLogger("vector_index.sources")

__all__ = ["FolderSource"]

MARKDOWN, HTML, JSON_LINES = {".md", ".markdown"}, {".html", ".htm"}, {".jsonl", ".ndjson"}
ENDINGS = {".txt", ".rst"} | MARKDOWN | HTML | JSON_LINES

PANDOC = "convert it to Markdown, as with `pandoc FILE -o FILE.md`"
ADVICE = {
    ".pdf": "convert it to text, as with `pdftotext FILE.pdf FILE.txt`",
    ".csv": "write its rows to a .jsonl file, one object with id and text per line",
    ".json": "write its objects to a .jsonl file, one with id and text per line",
} | dict.fromkeys((".docx", ".odt", ".rtf", ".epub", ".tex", ".org", ".ipynb"), PANDOC)
ADVICE |= dict.fromkeys(
    (".tsv", ".xls", ".xlsx", ".ods", ".xml", ".yaml", ".yml", ".parquet"), ADVICE[".csv"]
)

# Text is invalid in few places, and other data in many: of random bytes 40% are. Some formats begin with much text.
MAX_INVALID_SHARE = 0.3
SIGNATURES = (
    b"%PDF-",
    b"PK\x03\x04",
    b"\x7fELF",
    b"\x89PNG",
    b"\xff\xd8\xff",
    b"GIF8",
    b"\x1f\x8b",
    b"SQLite format 3",
)
INVALID = re.compile("[\ufffd\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


SHOWN_NAMES = 20  # of files that are passed over


class PassedOver(Skipped):
    """A file of a folder that is no document: of another kind, or a link to what the folder does not have."""


class Replaced(Skipped):
    """A file, or a line, that is read although some of its bytes are no text."""


class WithoutText(Skipped):
    """A file that is read although it has no text."""


class Guessed(Skipped):
    """A file that is read in an encoding that a detector found, because nothing in the file states it."""


REMARKS: Mapping[type[Skipped], str] = {  # log events
    Replaced: "bytes_replaced",
    Guessed: "encoding_guessed",
    WithoutText: "file_without_text",
}


class FolderSource:
    """The documents of files and folders, as `vector-index index` reads them.

    Logs the files of other kinds inside folders, and those with invalid bytes. Raises SettingsError for PATHS that
    cannot be used.
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
                "reStructuredText, HTML and JSON lines. Other files of a folder are named in the log; hidden ones are "
                "skipped.",
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

    def documents(self) -> Iterator[dict[str, Any] | Skipped | LeftOut]:
        """Yield documents, and Skipped for files and lines without one. Raises InvalidQuery for a missing path.

        An empty folder of PATHS is Skipped without an id, so the run deletes nothing: a disk that is not mounted looks
        like that.
        """
        check_existence(self.paths)
        passed_over: list[str] = []
        left_out: Counter[str] = Counter()
        for path in self.paths:
            if path.is_dir() and not any(path.iterdir()):
                reason = "is empty, as if its disk were not mounted; mount it, or remove it from PATHS"
                yield Skipped(path=_printable(path), reason=reason)
        for item in read(self.paths, max_bytes=self.max_bytes):
            if isinstance(item, PassedOver):
                passed_over.append(item.path)
            elif isinstance(item, LeftOut):
                left_out[item.kind] += item.characters
                yield item
            elif isinstance(item, Skipped) and type(item) in REMARKS:
                logger.warning(REMARKS[type(item)], extra=log_fields(file=item.path, reason=item.reason))
            else:
                yield item
        if left_out:
            logger.info("text_left_out", extra=log_fields(characters=dict(left_out)))
        if passed_over:
            fields = log_fields(files=len(passed_over), names=passed_over[:SHOWN_NAMES])
            logger.warning("files_passed_over", extra=fields)

    def check(self) -> str:
        """Count the files to read, by their names alone. Raises InvalidQuery, SourceFailed."""
        check_existence(self.paths)
        found = [file for file, _ in _files(self.paths)]
        skipped = [file for file in found if isinstance(file, Skipped) and not isinstance(file, PassedOver)]
        if skipped:
            others = f" (and {len(skipped) - 1:,} more files)" if len(skipped) > 1 else ""
            raise SourceFailed(f"{skipped[0]}{others}; fix it, or change PATHS")
        files = sum(isinstance(file, Path) for file in found)
        return f"{files:,} files in {', '.join(map(_printable, self.paths))}"


def names(paths: Sequence[str]) -> str:
    """Name the first files of a list, and say how many more there are."""
    more = f" and {len(paths) - SHOWN_NAMES:,} more" if len(paths) > SHOWN_NAMES else ""
    return ", ".join(paths[:SHOWN_NAMES]) + more


def read(paths: Iterable[Path], *, max_bytes: int) -> Iterator[dict[str, Any] | Skipped | LeftOut]:
    """Yield the documents of files and folders as `tasks.index_documents` takes them, or Skipped with the reason.

    Reads a folder with its subfolders, in the order of names. Ignores hidden files and folders. Yields PassedOver for
    files of other kinds, for links to folders, and for links to files outside the named folder or hidden in it.
    The id of a file is its path below the named folder, with `/` between the parts; a file that was named itself has
    its name as id. A .jsonl line has its own id. The title comes from the document (see `_title`), else it is the
    file's name without extension.

    Bytes are read as `worker.sources.encodings` says. Yields Guessed for a file whose encoding a detector found, and
    Replaced with the number of places that became U+FFFD. A file that is no text for the most part is skipped.
    `max_bytes` is the limit of a file, or of the text of a line. Raises InvalidQuery for a path that does not exist,
    before it reads anything.
    """
    paths = list(paths)
    check_existence(paths)
    return _read(paths, max_bytes)


def check_existence(paths: Iterable[Path]) -> None:
    for path in paths:
        if not path.exists():
            raise InvalidQuery(f"{_printable(path)} does not exist; name files or folders to index")


def _read(paths: list[Path], max_bytes: int) -> Iterator[dict[str, Any] | Skipped | LeftOut]:
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
                yield from _document(file, id, max_bytes)
        except InvalidDocument as error:
            yield Skipped(path=_printable(file), reason=str(error), id=own)
        except OSError as error:
            yield Skipped(path=_printable(file), reason=f"cannot be read: {error.strerror}", id=own)


def _files(paths: list[Path]) -> Iterator[tuple[Path | Skipped, str]]:
    """Yield every file with its id, and Skipped for files that cannot be documents."""
    for named in paths:
        if not named.is_dir():
            yield _checked(named, Skipped), _printable(named.name)
            continue
        unreadable: list[OSError] = []
        real = named.resolve()
        for folder, folders, files in os.walk(named, onerror=unreadable.append):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in folders:
                if (link := Path(folder, name)).is_symlink():
                    reason = "is a link to a folder; name that folder too to read it"
                    yield PassedOver(path=_printable(link), reason=reason), ""
            for name in sorted(name for name in files if not name.startswith(".")):
                file = Path(folder, name)
                yield _of_folder(file, real), _printable(file.relative_to(named).as_posix())
        for error in unreadable:
            yield Skipped(path=_printable(error.filename), reason=f"cannot be read: {error.strerror}"), ""


def _of_folder(file: Path, folder: Path) -> Path | Skipped:
    """Return what to read for a file of a folder: of a link, its target, which must be a visible file of the folder."""
    if not file.is_symlink():
        return _checked(file, PassedOver)
    try:
        target = file.resolve()
    except (OSError, RuntimeError):  # links in a circle
        return Skipped(path=_printable(file), reason="is no regular file")
    if not target.is_relative_to(folder):
        reason = f"is a link to {_printable(target)}, outside the folder; name that file too to read it"
        return PassedOver(path=_printable(file), reason=reason)
    if any(part.startswith(".") for part in target.relative_to(folder).parts):
        return PassedOver(path=_printable(file), reason="is a link to a hidden file")
    checked = _checked(file, PassedOver)
    return checked if isinstance(checked, Skipped) else target


def _checked(file: Path, of_another_kind: type[Skipped]) -> Path | Skipped:
    ending = file.suffix.lower()
    if ending not in ENDINGS:
        advice = ADVICE.get(ending, "if it is text, rename it to .txt").replace("FILE", _printable(file.stem))
        reason = f"the ending {file.suffix!r} is not one of {', '.join(sorted(ENDINGS))}; {advice}"
        # a pipe or a device in a folder is not passed over, but told
        return (of_another_kind if file.is_file() else Skipped)(path=_printable(file), reason=reason)
    if not file.is_file():  # a pipe or a device would be read for ever
        return Skipped(path=_printable(file), reason="is no regular file")
    return file


def _document(file: Path, id: str, max_bytes: int) -> Iterator[dict[str, Any] | Skipped | LeftOut]:
    size = file.stat().st_size
    if size > max_bytes:
        raise InvalidDocument(
            f"has {size:,} bytes, over MAX_DOCUMENT_BYTES ({max_bytes:,}); split it or raise the setting"
        )
    data, ending = file.read_bytes(), file.suffix.lower()
    decoded = decode(data, declared_by_page(data) if ending in HTML else None)
    _check_is_text(data, decoded.text)
    title, text, left_out = _readable(decoded.text, ending)
    document = {"id": id, "text": text, "title": (title or _printable(Path(id).stem))[:MAX_TITLE_CHARACTERS]}
    Document.from_json(document, max_bytes=max_bytes)
    yield document
    yield from (
        LeftOut(kind=kind, characters=characters) for kind, characters in left_out.items() if characters
    )
    yield from _remarks(decoded, _printable(file))
    if not text.strip():
        by_script = (
            "; a script may make it: save the page as a browser shows it" if "<script" in decoded.text else ""
        )
        reason = f"has no text that a reader sees, so only its title is there to be found{by_script}"
        yield WithoutText(path=_printable(file), reason=reason)


def _readable(text: str, ending: str) -> tuple[str, str, Mapping[str, int]]:
    """Return the title that a text states, or "", what a reader sees of it, and the characters left out by kind."""
    left_out: Counter[str] = Counter()
    title = ""
    if ending in HTML:
        page = read_page(text)
        title, text = page.title, page.text
        left_out.update(page.left_out)
    elif ending in MARKDOWN:
        text, left_out[COMMENTS] = without_comments(text)
    text, left_out[INLINE_DATA] = without_inline_data(text)
    if ending in MARKDOWN:
        title = markdown_title(text)
    elif ending == ".rst":
        title = restructured_text_title(text)
    return title, text, +left_out


def _lines(file: Path, max_bytes: int) -> Iterator[dict[str, Any] | Skipped | LeftOut]:
    # JSON's escapes at most triple the bytes of real text; metadata and title come on top
    limit = 3 * max_bytes + 2_000_000
    guessed: Decoded | None = None
    with file.open("rb") as opened:
        for number, line in enumerate(decoded_lines(opened, limit), start=1):
            if not line.text.strip():
                continue
            try:
                if len(line.text) > limit:
                    raise InvalidDocument(f"the line is over {limit:,} characters; split the document")
                document = read_json(line.text)
                Document.from_json(document, max_bytes=max_bytes)
                text, characters = without_inline_data(document["text"])
                yield {**document, "text": text}
                if characters:
                    yield LeftOut(kind=INLINE_DATA, characters=characters)
                yield from _remarks(replace(line, guessed=False), f"{_printable(file)}:{number}")
                guessed = line if line.guessed else guessed
            except json.JSONDecodeError as error:
                reason = f"is not JSON ({error.msg} at column {error.colno}); write one object per line"
                yield Skipped(path=f"{_printable(file)}:{number}", reason=reason)
            except RecursionError:
                yield Skipped(path=f"{_printable(file)}:{number}", reason="is nested too deep for JSON")
            except InvalidDocument as error:
                yield Skipped(path=f"{_printable(file)}:{number}", reason=str(error))
    if guessed:
        yield from _remarks(replace(guessed, replaced=0), _printable(file))


def _remarks(decoded: Decoded, path: str) -> Iterator[Skipped]:
    """Yield what to say about the encoding of a file or a line."""
    name = decoded.encoding.upper() if decoded.encoding.startswith("utf") else decoded.encoding
    if decoded.guessed:
        reason = f"is read as {name}, which only its bytes suggest; save it as UTF-8 if that is wrong"
        yield Guessed(path=path, reason=reason)
    if decoded.replaced:
        places = f"{decoded.replaced:,} places, which became U+FFFD"
        yield Replaced(path=path, reason=f"is not {name} in {places}; save it as UTF-8 and index it again")


def _check_is_text(data: bytes, text: str) -> None:
    """Raise InvalidDocument for data that are no text, or text in an encoding that cannot be read."""
    invalid = len(INVALID.findall(text))
    if data.startswith(SIGNATURES) or invalid > MAX_INVALID_SHARE * len(text):
        raise InvalidDocument(
            "is no text in an encoding that can be told; save it as UTF-8, or leave it out if it is no text"
        )


def _printable(path: object) -> str:
    """Return the path as text that Postgres and terminals accept: file names on Linux are bytes."""
    return str(path).encode(errors="surrogateescape").decode(errors="replace")
