"""One embedded server, as a child of the process that holds its lock.

On Linux the kernel ends the server when its owner is killed (PR_SET_PDEATHSIG). Elsewhere, the next owner ends the
orphan before it starts its own server.
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

# Servers must not depend on the caller's locale, time zone and PG* variables.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, kw_only=True)
class User:
    """User and group that a server runs as."""

    uid: int
    gid: int


class Server(ABC):
    """A server of a home: the process that holds the lock runs it, others know its address."""

    name: ClassVar[str]
    setting: ClassVar[str]  # the setting that replaces it with a server of the operator
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
        """Address for clients, with the password."""

    @property
    @abstractmethod
    def pid_file(self) -> Path:
        """File that the server writes its process id to."""

    @property
    @abstractmethod
    def mark(self) -> str:
        """Text that only the command line of this server contains, whichever program it runs."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server accepts our password and a command now."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the files that the server needs in the home, if they are missing or have changed."""

    @abstractmethod
    def command(self) -> Sequence[str | Path]:
        """Return program and arguments, with `mark` and without the password."""

    def user(self) -> User | None:
        """Return the user to run as; None is the caller's."""
        return None

    def check(self) -> None:
        """Start the server if it is ours, or nobody's, and not running. Does not wait until it answers.

        Raises SettingsError for a problem that only the operator can fix, and ServiceUnreachable when the server died
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
        """Wait until the server answers, whoever runs it. Raises as both checks do, or after START_SECONDS."""
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            check()
            self.check()
            if time.monotonic() > deadline:
                raise ServiceUnreachable(
                    f"the embedded {self.name} did not answer on port {self.endpoint.port} within "
                    f"{START_SECONDS} seconds; see {self.log}, or set {self.setting}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the server if it is ours."""
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
        """Start a child in a process group of its own, so that Ctrl-C in the terminal reaches only its owner.

        The kernel ends it with the thread that calls this.
        """
        user, prefix = self.user(), []
        identity: dict[str, Any] = {}
        if found := setpriv():
            prefix = [found, f"--pdeathsig={self.stop_signal.name.removeprefix('SIG')}"]
            if user:
                # The capability lets it read below folders of root, without a chmod. Postgres finds its programs with
                # access(2), which honours the capability only with that securebit.
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
                f"port {self.endpoint.port} of the embedded {self.name} is in use by another program; "
                f"end that program, or change the port in {self.home / 'services.json'}"
            )
        self.prepare()
        if self.log.exists() and self.log.stat().st_size > MAX_LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with open(os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
            return self.spawn(self.command(), stdin=subprocess.DEVNULL, output=log.fileno())

    def _end_orphan(self) -> None:
        """End the server that a killed owner left behind, and no other process."""
        try:
            pid = int(self.pid_file.read_text().split()[0])
        except (FileNotFoundError, ValueError, IndexError):
            return
        if self.mark not in _command_line(pid):
            if _command_line(pid):
                # another process has the id now, as in a restarted container: Postgres would refuse to start
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
    """Return the path of util-linux's setpriv, which changes the user, keeps a capability and sets a death signal."""
    return shutil.which("setpriv") if sys.platform == "linux" else None


def _check_open(path: Path, user: User) -> None:
    """Check that everybody may enter the path and the folders above it. Raises SettingsError."""
    for folder in (path, *path.parents):
        if not folder.stat().st_mode & 0o001:
            raise SettingsError(
                f"Postgres refuses to run as root, and user {user.uid} may not enter {folder}; "
                "run as another user, or install setpriv (util-linux)"
            )


def _command_line(pid: int) -> str:
    """Return the arguments of a process, each followed by a space; empty if there is no such process."""
    if sys.platform == "linux":  # slim images have no ps
        try:
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError):
            return ""
    ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.replace("\n", " ")  # noqa: S603


def _last_line(log: Path) -> str:
    """Return the last line of a log. By the servers' settings it holds no document text and no password."""
    return log.read_text(errors="replace").strip().rpartition("\n")[2][-300:]
