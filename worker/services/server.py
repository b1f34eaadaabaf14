"""One embedded server, as a child of the process that holds its lock.

On Linux the kernel ends the server when its owner is killed (PR_SET_PDEATHSIG). Elsewhere, the next owner ends the
orphan before it starts its own server.
"""

import fcntl
import os
import pwd
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from signal import SIGKILL, Signals
from typing import Any, ClassVar

from worker.errors import ServiceUnreachable, SettingsError
from worker.services.child import MAX_DEATHS, Child, Process, end
from worker.services.home import Endpoint, User, is_free, unusable
from worker.services.programs import closed_folder

START_SECONDS = 60  # Postgres may have to recover from a crash
STOP_SECONDS = 30  # until the kill signal
FIRST_BACKOFF_SECONDS = 0.25
MAX_LOG_BYTES = 1_000_000

# Servers must not depend on the caller's locale, time zone and PG* variables.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

WORKING_FOLDER = Path("/proc/self/cwd")  # resolves without a right to the folders above it


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

    def check(self) -> None:
        """Start the server if it is down and we hold, or can take, its lock. Returns before it answers.

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

    def spawn(
        self, command: Sequence[str | Path], *, folder: Path, stdin: int, output: int
    ) -> subprocess.Popen[bytes]:
        """Start a child in a folder and in a process group of its own, so that Ctrl-C reaches only its owner.

        Started by root, it runs as `user`, without capabilities and without a way to new ones. On Linux the kernel ends
        it with the thread that calls this.
        """
        identity: dict[str, Any] = {}
        if user := self.user():
            identity = {"user": user.uid, "group": user.gid, "extra_groups": []}
        prefix = []
        if found := setpriv():
            prefix = [found, f"--pdeathsig={self.stop_signal.name.removeprefix('SIG')}", "--no-new-privs"]
        return subprocess.Popen(  # noqa: S603 - programs and arguments are our own
            [*prefix, *command],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,  # entered as root, before the child changes its user
            env=ENVIRONMENT,
            process_group=0,
            **identity,
        )

    def user(self) -> User | None:
        """Return the user that the server runs as if we are root: the owner of its data, at first `nobody`."""
        if os.geteuid() != 0:
            return None
        if self.data.exists() and (owner := self.data.stat()).st_uid != 0:
            return User(uid=owner.st_uid, gid=owner.st_gid)
        nobody = pwd.getpwnam("nobody")
        return User(uid=nobody.pw_uid, gid=nobody.pw_gid)

    def seen(self, folder: Path) -> Path:
        """Return the path by which the server can open the folder that it is started in.

        Folders of root, such as /root, are often closed to the server's user; on Linux it needs no right to them.
        """
        user = self.user()
        if user is None:
            return folder
        if sys.platform == "linux":
            return WORKING_FOLDER
        if closed := closed_folder(folder):
            raise SettingsError(
                f"the embedded {self.name} does not run as root, and user {user.uid} may not enter {closed}; "
                "run as another user, or set VECTOR_INDEX_HOME to a folder that everybody may enter"
            )
        return folder

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
            return self.spawn(self.command(), folder=self.data, stdin=subprocess.DEVNULL, output=log.fileno())

    def _end_orphan(self) -> None:
        """End the server that a killed owner left behind."""
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
    """Return the path of util-linux's setpriv, which sets a death signal."""
    return shutil.which("setpriv") if sys.platform == "linux" else None


def _command_line(pid: int) -> str:
    """Return the arguments of a process, each followed by a space; empty if there is no such process.

    Names the folder of a server that knows it as its working folder only.
    """
    if sys.platform == "linux":  # slim images have no ps
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
            if str(WORKING_FOLDER) in arguments:
                arguments = arguments.replace(str(WORKING_FOLDER), os.readlink(f"/proc/{pid}/cwd"))
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return arguments
    ps = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.replace("\n", " ")  # noqa: S603


def _last_line(log: Path) -> str:
    """Return the last line of a log. The servers' settings keep document text and passwords out of it."""
    return log.read_text(errors="replace").strip().rpartition("\n")[2][-300:]
