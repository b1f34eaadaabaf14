"""Liveness: one heartbeat file per worker process, for `vector-index live` on the same machine.

The check leaves out the broker and the database: restarting a worker cannot fix an outage of theirs.
"""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.errors import SettingsError
from worker.observability.logs import log_fields

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


def _file(home: Path, worker: str) -> Path:
    return home / "alive" / f"{worker.replace('/', '_')}.json"
