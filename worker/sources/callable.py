"""Reads documents from a function of the application, such as `myapp.search:documents`.

The function runs in a process of its own, with the application's folder first on the path. So the application may have
modules named `tasks` and `settings` as we do, set up Django, and use the Python of another environment.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Annotated, Any, BinaryIO, ClassVar

from worker.documents import read_json
from worker.errors import SettingsError, SourceFailed
from worker.protocols import Skipped
from worker.reference import Setting
from worker.sources import calling

__all__ = ["CallableSource"]

TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
CHECK_SECONDS = 60.0  # for an import
STDERR = 2  # the file itself: Celery replaces `sys.stderr`, and `up` shows only this
END_SECONDS = 5.0  # for a process to end once its documents are no longer needed


class CallableSource:
    """The documents that a callable without arguments returns or yields, as `tasks.index_documents` takes them.

    Raises SettingsError for a CONFIG that cannot be used.
    """

    defaults_from_settings: ClassVar[Mapping[str, str]] = {"folder": "SETTINGS_FOLDER"}

    def __init__(
        self,
        *,
        callable: Annotated[
            str,
            Setting(
                type="`module:name`",
                meaning="A callable without arguments that returns an iterable of documents. Instead of this key, "
                "you can write the callable as `CLASS`, or as `SOURCE` of the index.",
                example='"shop.search:documents"',
            ),
        ],
        folder: Annotated[
            str,
            Setting(
                type="absolute path of a folder",
                default="the folder of the file that `VECTOR_INDEX_SETTINGS` names, else the worker's working folder",
                meaning="The folder that holds the module: the working folder of its process, and the first place that "
                "it imports from.",
                example='"/srv/shop"',
            ),
        ],
        python: Annotated[
            str,
            Setting(
                type="absolute path of a Python interpreter",
                default="the worker's",
                meaning="The interpreter that runs it, such as that of the application's own environment.",
                example='"/srv/shop/.venv/bin/python"',
            ),
        ] = sys.executable,
    ) -> None:
        if not isinstance(callable, str) or not TARGET.fullmatch(callable):
            raise SettingsError(
                f"CALLABLE of CallableSource is {callable!r:.100}; set it to module:name, as in "
                "'myapp.search:documents'"
            )
        for name, value in {"FOLDER": folder, "PYTHON": python}.items():
            if not isinstance(value, str | Path) or not Path(value).expanduser().is_absolute():
                raise SettingsError(f"{name} of CallableSource is {value!r:.100}; set it to an absolute path")
        self._callable = callable
        self._folder, self._python = str(Path(folder).expanduser()), str(Path(python).expanduser())

    def documents(self) -> Iterator[dict[str, Any] | Skipped]:
        """Yield documents, and Skipped for values that are not JSON. Raises SourceFailed when the callable fails."""
        with self._process("call") as (process, lines):
            yield from self._received(process, lines)

    def check(self) -> str:
        """Import the callable without calling it; return its name and folder. Raises SourceFailed."""
        with self._process("find") as (process, lines):
            if not select([lines], [], [], CHECK_SECONDS)[0]:
                raise SourceFailed(
                    f"{self._callable} was not imported within {CHECK_SECONDS:.0f} s; fix what its module does at "
                    "import"
                )
            list(self._received(process, lines))
        return f"{self._callable} in {self._folder}"

    def _received(
        self, process: "subprocess.Popen[bytes]", lines: BinaryIO
    ) -> Iterator[dict[str, Any] | Skipped]:
        """Yield the items that the process writes, up to its last line. Raises SourceFailed for any other end."""
        for line in lines:
            if not line.endswith(b"\n"):
                break  # the process died while it wrote
            message = read_json(line)
            if "document" in message:
                yield message["document"]
            elif "skipped" in message:
                path = f"document {message['skipped']} of {self._callable}"
                yield Skipped(path=path, reason=message["reason"], id=message["id"])
            elif "error" in message:
                raise SourceFailed(f"{self._callable}: {message['error']}")
            else:
                return
        code = process.wait(END_SECONDS)
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        raise SourceFailed(f"{self._callable}: its process {how}")

    @contextmanager
    def _process(self, mode: str) -> Iterator[tuple["subprocess.Popen[bytes]", BinaryIO]]:
        """Run the process until the block ends; yield it with the lines that it writes."""
        read, write = os.pipe()
        with open(read, "rb") as lines:
            try:
                # its prints join the worker's log; Ctrl-C goes only to the worker, which then ends this process
                process = subprocess.Popen(  # noqa: S603
                    [self._python, calling.__file__, str(write), self._folder, self._callable, mode],
                    cwd=self._folder,
                    stdin=subprocess.PIPE,
                    stdout=STDERR,
                    pass_fds=(write,),
                    start_new_session=True,
                )
            except OSError as error:
                raise SourceFailed(
                    f"{error.filename} cannot be used ({error.strerror}); fix FOLDER or PYTHON of {self._callable}"
                ) from error
            finally:
                os.close(write)
            try:
                yield process, lines
            finally:
                assert process.stdin is not None
                process.stdin.close()
                try:
                    process.wait(END_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
