"""Liveness: one heartbeat file per worker process, for `vector-index live` on the same machine.

The check leaves out the broker and the database: restarting a worker cannot fix an outage of theirs.
"""

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from worker.errors import SettingsError
from worker.observability.logs import log_fields

NAME_SECONDS = 15.0  # to wait for a node name: longer than a worker takes to stop

logger = logging.getLogger("vector_index.worker")


@dataclass(frozen=True, kw_only=True)
class Heartbeat:
    """The last heartbeat of a worker process."""

    worker: str  # its node name: embed@host
    pid: int
    at: float  # seconds of the monotonic clock, which all processes of a machine share

    @property
    def age_seconds(self) -> float:
        """Seconds since it was written; negative if the machine was restarted since."""
        return time.monotonic() - self.at

    @property
    def process_exists(self) -> bool:
        """Whether the process exists, suspended or not."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # of another user
            return True
        return True


class NodeName:
    """The node name of this process, which no other worker process of this home has."""

    def __init__(self) -> None:
        self._lock: TextIO | None = None

    def take(self, home: Path, worker: str) -> None:
        """Take the name until the process ends. Raises SettingsError if another process keeps it.

        Waits for one that is stopping: a supervisor may start its successor early. The kernel releases the lock with
        the process, however it ends, and forked processes do not inherit it.
        """
        file = _file(home, worker).with_suffix(".lock")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = file.open("a")
        except OSError:  # the heartbeat reports it
            return
        deadline = time.monotonic() + NAME_SECONDS
        while not _locked(self._lock):
            if time.monotonic() > deadline:
                raise SettingsError(
                    f"a worker named {worker} is running on this machine already: pass another --name, or stop that one"
                )
            time.sleep(0.2)


class HeartbeatFile:
    """The heartbeat file of this process, from its start until `remove`."""

    def __init__(self) -> None:
        self._home: Path | None = None
        self._worker = ""

    def start(self, home: Path, worker: str) -> None:
        """Set the folder and the node name, and write the first heartbeat."""
        self._home, self._worker = home, worker
        self.write()

    def write(self) -> None:
        """Write a heartbeat. Does nothing before `start` and after `remove`; logs an unwritable folder."""
        if (home := self._home) is not None:
            try:
                write(home, self._worker)
            except OSError as error:
                logger.warning(
                    "heartbeat_not_written",
                    extra=log_fields(error=str(error), fix="set VECTOR_INDEX_HOME to a writable folder"),
                )

    def remove(self) -> None:
        """Remove the file at a clean shutdown; the heartbeat thread may still call `write`."""
        home, self._home = self._home, None
        if home is not None:
            with suppress(OSError):
                remove(home, self._worker)


def write(home: Path, worker: str) -> None:
    """Write the heartbeat of this process. Raises OSError."""
    file = _file(home, worker)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = file.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(asdict(Heartbeat(worker=worker, pid=os.getpid(), at=time.monotonic()))))
    new.replace(file)


def remove(home: Path, worker: str) -> None:
    """Remove the file of this process. The file of another process of the same name stays."""
    file = _file(home, worker)
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # missing or damaged
        if _read(file).pid == os.getpid():
            file.unlink()


def read(home: Path) -> Iterator[Heartbeat]:
    """Read the heartbeats of a home, those of dead workers too. Raises SettingsError for a damaged file."""
    for file in sorted((home / "alive").glob("*.json")):
        try:
            yield _read(file)
        except FileNotFoundError:  # its worker has just ended
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"cannot read the heartbeat file {file} ({error}): delete it; its worker writes a new one"
            ) from error


def _read(file: Path) -> Heartbeat:
    values = json.loads(file.read_text())
    return Heartbeat(worker=str(values["worker"]), pid=int(values["pid"]), at=float(values["at"]))


def _locked(file: TextIO) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _file(home: Path, worker: str) -> Path:
    return home / "alive" / f"{worker.replace('/', '_')}.json"
