"""The files that `index` and `plan` read, and a record of what they skipped."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from worker.cli.output import counted, first_lines
from worker.errors import InvalidQuery
from worker.protocols import LeftOut, Skipped
from worker.sources import files

MAX_SHOWN = 20  # problems on a terminal; --json prints all


class InputFiles:
    """The documents of files and folders. Raises InvalidQuery for a path that does not exist."""

    def __init__(self, paths: Sequence[Path], max_document_bytes: int) -> None:
        self.paths = paths
        self.unread: list[dict[str, str]] = []  # files and lines: path and reason
        self.passed_over: list[
            dict[str, str]
        ] = []  # files of the folders that are no documents: path and reason
        self.replaced: list[dict[str, str]] = []  # files and lines with invalid bytes: path and reason
        self.without_text: list[dict[str, str]] = []  # files: path and reason
        self.left_out: Counter[str] = Counter()  # characters that no reader sees, by kind
        self.guessed: list[dict[str, str]] = []  # files whose encoding a detector found: path and reason
        # checks the paths now, before the command connects to the broker
        self._items = files.read(paths, max_bytes=max_document_bytes)

    def documents(self) -> Iterator[dict[str, Any]]:
        """Yield each document, as `tasks.index_documents` takes it, and record what is skipped."""
        for item in self._items:
            if isinstance(item, Skipped):
                self._record(item)
            elif isinstance(item, LeftOut):
                self.left_out[item.kind] += item.characters
            else:
                yield item

    def check_found(self, documents: int) -> None:
        """Raise InvalidQuery if the paths have no document at all, readable or not."""
        if not (documents or self.unread):
            endings = ", ".join(sorted(files.ENDINGS))
            others = "".join(f"; {item['path']}: {item['reason']}" for item in self.passed_over[:1])
            raise InvalidQuery(
                f"nothing to index in {', '.join(map(str, self.paths))}: name files that end in {endings}{others}"
            )

    def as_json(self) -> dict[str, Any]:
        return {
            "unread": self.unread,
            "passed_over": len(self.passed_over),
            "passed_over_files": self.passed_over,
            "replaced": self.replaced,
            "guessed": self.guessed,
            "without_text": self.without_text,
            "left_out": dict(self.left_out),
        }

    def problem_lines(self, failed: Sequence[dict[str, str]] = ()) -> Iterator[str]:
        """Yield a line for each problem: first the documents that failed, given as id and error."""
        if self.left_out:
            kinds = ", ".join(f"{characters:,} of {kind}" for kind, characters in self.left_out.items())
            yield f"left out {self.left_out.total():,} characters that no reader sees: {kinds}"
        if self.passed_over:
            yield self._names()
        yield from first_lines([f"warning: {': '.join(item.values())}" for item in self.remarks()], MAX_SHOWN)
        problems = [*failed, *self.unread]
        yield from first_lines([f"failed: {': '.join(item.values())}" for item in problems], MAX_SHOWN)

    def remarks(self) -> list[dict[str, str]]:
        """Return what to say about files that are read."""
        return [*self.guessed, *self.replaced, *self.without_text]

    def _names(self) -> str:
        passed_over = files.names([item["path"] for item in self.passed_over])
        return (
            f"passed over {counted(len(self.passed_over), 'file')}, see --json for the reasons: {passed_over}"
        )

    def _record(self, skipped: Skipped) -> None:
        kinds = {
            files.PassedOver: self.passed_over,
            files.Replaced: self.replaced,
            files.Guessed: self.guessed,
            files.WithoutText: self.without_text,
        }
        kinds.get(type(skipped), self.unread).append({"path": skipped.path, "reason": skipped.reason})
