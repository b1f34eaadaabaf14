"""One embedded server: a child of the process that holds its lock, and only that.

On Linux the kernel ends the server when its owner is killed (PR_SET_PDEATHSIG); where it does not, the next
owner ends it before it starts its own.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any, ClassVar

from worker.errors import ServiceUnreachable, SettingsError
from worker.services.child import MAX_DEATHS, Child, Process, end
from worker.services.home import Endpoint, is_free, unusable

START_SECONDS = 60  # Postgres may have to recover from a crash
STOP_SECONDS = 30  # until the kill signal
FIRST_BACKOFF_SECONDS = 0.25
MAX_LOG_BYTES = 1_000_000

# Nothing of the caller's locale, time zone and PG* variables reaches a server.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, kw_only=True)
class User:
    """Whom a server runs as."""

    uid: int
    gid: int


class Server(ABC):
    """A server of a home, run by whoever holds its lock and known by its address to the others."""

    name: ClassVar[str]
    setting: ClassVar[str]  # names a server of the operator's instead
    stop_signal: ClassVar[Signals]
    kill_signal: ClassVar[Signals] = SIGKILL

    def __init__(self, home: Path, endpoint: Endpoint) -> None:
        key = self.name.lower()
        self.home, self.endpoint = home, endpoint
        self.data, self.log = home / key, home / f"{key}.log"
        self._lock: int | None = None
        self._child = Child(self._start, backoff_seconds=FIRST_BACKOFF_SECONDS)

    @property
    @abstractmethod
    def url(self) -> str:
        """Where clients connect, with the password."""

    @property
    @abstractmethod
    def pid_file(self) -> Path:
        """Where the server writes its process id."""

    @property
    @abstractmethod
    def mark(self) -> str:
        """What the command line of this very server contains, whatever program serves it."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server takes our password and a command now."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what the server needs in the home; nothing on a later start, unless it changed."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Program and arguments; `mark` among them, the password not."""

    def user(self) -> User | None:
        """The user to run as; None: that of the caller."""
        return None

    def check(self) -> None:
        """Start the server if it is ours, or nobody's, and does not run. Does not wait until it answers.

        Raises SettingsError for what only the operator can mend, and ServiceUnreachable when the server died
        MAX_DEATHS times in a row.
        """
        try:
            death = self._child.check() if self._own() else None
        except OSError as error:
            raise unusable(self.home, error) from error
        if death and death.in_a_row >= MAX_DEATHS:
            raise ServiceUnreachable(
                f"the embedded {self.name} died {death.in_a_row} times in a row, its last log line is "
                f"{_last_line(self.log)!r}: see {self.log}, or set {self.setting}"
            )

    def wait(self, check: Callable[[], None] = lambda: None) -> None:
        """Return when the server answers, whoever runs it. Raises as both checks, or after START_SECONDS."""
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            check()
            self.check()
            if time.monotonic() > deadline:
                raise ServiceUnreachable(
                    f"the embedded {self.name} did not answer on port {self.endpoint.port} within "
                    f"{START_SECONDS} seconds: see {self.log}, or set {self.setting}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """End the server if it is ours."""
        end(
            [self._child],
            signal=self.stop_signal,
            grace_seconds=STOP_SECONDS,
            kill=lambda process: process.send_signal(self.kill_signal),
        )
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def spawn(self, command: Sequence[str | Path], *, stdin: int, output: int) -> Process:
        """A child in a process group of its own, so that Ctrl-C on the terminal reaches only its owner.

        The kernel ties it to the thread that calls this.
        """
        user, prefix = self.user(), []
        identity: dict[str, Any] = {}
        if found := setpriv():
            prefix = [found, f"--pdeathsig={self.stop_signal.name.removeprefix('SIG')}"]
            if user:
                # The capability opens what stands below a folder of root's, without a chmod. access(2), by
                # which Postgres looks for its programs, honours it only with that bit.
                prefix += [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
                prefix += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
                prefix += ["--securebits=+no_setuid_fixup"]
        elif user:
            for path in (self.home, Path(command[0])):
                _check_open(path, user)
            identity = {"user": user.uid, "group": user.gid, "extra_groups": []}
        return subprocess.Popen(  # noqa: S603 - programs and arguments are our own
            [*prefix, *command],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=ENVIRONMENT,
            process_group=0,
            **identity,
        )

    def _own(self) -> bool:
        if self._lock is None:
            lock = os.open(self.home / f"{self.data.name}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return False
            self._lock = lock
        return True

    def _start(self) -> Process:
        self._end_orphan()
        if not is_free(self.endpoint.port):
            raise SettingsError(
                f"port {self.endpoint.port} of the embedded {self.name} is in use by another program: "
                f"end that one, or change the port in {self.home / 'services.json'}"
            )
        self.prepare()
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            return self.spawn(self.command(), stdin=subprocess.DEVNULL, output=log.fileno())

    def _end_orphan(self) -> None:
        """End the server that a killed owner left behind, and nothing else."""
        try:
            pid = int(self.pid_file.read_text().split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return
        if self.mark not in _command_line(pid):
            if _command_line(pid):
                # a stranger has the number now, as in a container that started again: Postgres would give way
                self.pid_file.unlink()
            return
        for number in (self.stop_signal, self.kill_signal):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline:
                if self.mark not in _command_line(pid):
                    return
                time.sleep(0.02)


def setpriv() -> str | None:
    """The program of util-linux that changes the user, keeps a capability and sets a death signal."""
    return shutil.which("setpriv") if sys.platform == "linux" else None


def _check_open(path: Path, user: User) -> None:
    """Raise SettingsError unless everybody may enter the path and the folders above it."""
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & 0o001:
            raise SettingsError(
                f"Postgres refuses to run as root, and user {user.uid} may not enter {folder}: "
                "run as another user, or install setpriv (util-linux)"
            )


def _command_line(pid: int) -> str:
    """The arguments of a process, each with a space behind it; empty when there is no such process."""
    if sys.platform == "linux":  # slim images have no ps
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.replace("\n", " ")  # noqa: S603


def _last_line(log: Path) -> str:
    """What the server said last; no text of a document and no password, by its settings."""
    return log.read_text(errors="replace").strip().rpartition("\n")[2][-300:]
