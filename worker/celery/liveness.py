"""Pulse: a file per worker process that says when it was alive last, for `vector-index live` on the same machine.

No broker and no database is asked: what is away with them is not mended by killing the worker.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from worker.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Pulse:
    """What a worker wrote when it was alive last."""

    worker: str  # its node name: embed@host
    pid: int
    at: float  # seconds of the monotonic clock, which all processes of a machine share

    @property
    def age_seconds(self) -> float:
        """Since it was written; below 0 when the machine was started again since."""
        return time.monotonic() - self.at

    @property
    def runs(self) -> bool:
        """Whether the process is still there, stopped or not."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # of another user
            return True
        return True


def beat(home: Path, worker: str) -> None:
    """Write the pulse of this process. Raises OSError."""
    kept = _kept(home, worker)
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = kept.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps(asdict(Pulse(worker=worker, pid=os.getpid(), at=time.monotonic()))))
    new.replace(kept)


def end(home: Path, worker: str) -> None:
    """This process ends as it should: nobody is to miss it. The file of one that took its name stays."""
    kept = _kept(home, worker)
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):  # there is none, or it is damaged
        if _read(kept).pid == os.getpid():
            kept.unlink()


def read(home: Path) -> Iterator[Pulse]:
    """The pulses of the workers of this home, those of dead ones too. Raises SettingsError for a damaged file."""
    for kept in sorted((home / "alive").glob("*.json")):
        try:
            yield _read(kept)
        except FileNotFoundError:  # it has just ended
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(
                f"{kept} cannot be read ({error}): delete it, its worker writes it anew"
            ) from error


def _read(kept: Path) -> Pulse:
    values = json.loads(kept.read_text())
    return Pulse(worker=str(values["worker"]), pid=int(values["pid"]), at=float(values["at"]))


def _kept(home: Path, worker: str) -> Path:
    return home / "alive" / f"{worker.replace('/', '_')}.json"
