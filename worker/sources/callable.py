"""Documents out of a function of the application's own, such as `myapp.search:documents`.

It runs in a process of its own, with the application's folder first on the path: modules of the application may be
called `tasks` and `settings` as ours are, Django may be set up, and another environment's Python may run it.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any, BinaryIO, ClassVar

from worker.errors import SettingsError, SourceFailed
from worker.protocols import Skipped
from worker.sources import calling

TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
CHECK_SECONDS = 60.0  # for an import
STDERR = 2  # the file, whatever Celery has put in the place of `sys.stderr`; `up` shows nothing else
END_SECONDS = 5.0  # for a process whose documents are not wanted any more


class CallableSource:
    """What a callable without arguments returns: an iterable of documents as `tasks.index_documents` takes them.

    CALLABLE: `module:name`. FOLDER: the working folder of its process and the first place that it imports from; where
    it is absent, the folder of the settings file, else the worker's working folder. PYTHON: the interpreter, as of the
    application's own environment; where it is absent, the worker's. Raises SettingsError for what cannot be used.
    """

    defaults_from_settings: ClassVar[Mapping[str, str]] = {"folder": "SETTINGS_FOLDER"}

    def __init__(self, *, callable: str, folder: str, python: str = sys.executable) -> None:
        if not isinstance(callable, str) or not TARGET.fullmatch(callable):
            raise SettingsError(
                f"CALLABLE of CallableSource is {callable!r:.100}: write module:name, as in 'myapp.search:documents'"
            )
        for name, value in {"FOLDER": folder, "PYTHON": python}.items():
            if not isinstance(value, str | Path) or not Path(value).expanduser().is_absolute():
                raise SettingsError(f"{name} of CallableSource is {value!r:.100}: give an absolute path")
        self._callable = callable
        self._folder, self._python = str(Path(folder).expanduser()), str(Path(python).expanduser())

    def documents(self) -> Iterator[dict[str, Any] | Skipped]:
        """The documents, and why one cannot be taken. Raises SourceFailed when the callable ends with an error."""
        with self._process("call") as (process, lines):
            yield from self._told(process, lines)

    def check(self) -> str:
        """Where it is imported, which it is here; it is not called. Raises SourceFailed."""
        # what it prints goes to stderr: to whoever asks it is no answer
        with self._process("find") as (process, lines):
            if not select([lines], [], [], CHECK_SECONDS)[0]:
                raise SourceFailed(
                    f"{self._callable}: not imported after {CHECK_SECONDS:.0f} s: mend what its module does at import"
                )
            list(self._told(process, lines))
        return f"{self._callable} in {self._folder}"

    def _told(
        self, process: "subprocess.Popen[bytes]", lines: BinaryIO
    ) -> Iterator[dict[str, Any] | Skipped]:
        """What the process says, until its last line. Raises SourceFailed for any other end."""
        for line in lines:
            if not line.endswith(b"\n"):
                break  # it died in the middle
            said = json.loads(line)
            if "document" in said:
                yield said["document"]
            elif "skipped" in said:
                path = f"document {said['skipped']} of {self._callable}"
                yield Skipped(path=path, reason=said["reason"], id=said["id"])
            elif "error" in said:
                raise SourceFailed(f"{self._callable}: {said['error']}")
            else:
                return
        code = process.wait(END_SECONDS)
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        raise SourceFailed(f"{self._callable}: its process {how}")

    @contextmanager
    def _process(self, mode: str) -> Iterator[tuple["subprocess.Popen[bytes]", BinaryIO]]:
        """The process and what it says; it ends with the block."""
        read, write = os.pipe()
        with open(read, "rb") as lines:
            try:
                # what it prints stands beside the worker's log; Ctrl-C is for the worker, which ends it
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
                    f"{error.filename} cannot be used ({error.strerror}): mend FOLDER or PYTHON of {self._callable}"
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
