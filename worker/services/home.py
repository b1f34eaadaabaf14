"""The home folder: ports and passwords of its servers, generated once and kept."""

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from worker.errors import SettingsError

HOST = "127.0.0.1"
# below the ports of outgoing connections (Linux: from 32768, macOS: from 49152), which could occupy a port by chance
PORTS = range(20_000, 30_000)
SERVERS = ("postgres", "valkey")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Port and password of one server, as `services.json` keeps them."""

    port: int
    password: str


Endpoints = Mapping[str, Endpoint]


@dataclass(frozen=True, kw_only=True)
class User:
    """User and group that a server runs as."""

    uid: int
    gid: int


def exists(home: Path) -> bool:
    return _file(home).exists()


def make(home: Path) -> Endpoints:
    """Return the endpoints of a home, under a lock; a new home gets free ports and random passwords.

    Raises SettingsError when the home is not writable or its file is damaged.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(home / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not exists(home):
                _generate(home)
    except OSError as error:
        raise unusable(home, error) from error
    return read(home)


def read(home: Path) -> Endpoints:
    """Return the endpoints of an existing home. Raises SettingsError when its file is damaged."""
    try:
        kept = json.loads(_file(home).read_text())
        endpoints = {
            name: Endpoint(port=int(kept[name]["port"]), password=str(kept[name]["password"]))
            for name in SERVERS
        }
        if not all(0 < endpoint.port < 65_536 for endpoint in endpoints.values()):
            raise ValueError("port out of range")
    except OSError as error:
        raise unusable(home, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SettingsError(
            f"{_file(home)} is damaged; restore its ports and passwords, or delete {home} with all its data"
        ) from error
    return endpoints


def unusable(home: Path, error: OSError) -> SettingsError:
    reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return SettingsError(
        f"the home {home} cannot be used ({reason}); set VECTOR_INDEX_HOME to a folder that you can write to"
    )


def is_free(port: int) -> bool:
    """Return whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def write_private(path: Path, text: str, *, owner: User | None = None) -> None:
    """Write a new file that holds a password, readable by its owner only (us without `owner`); flush it to disk.

    Follows no link: whoever owns the folder may have put one there.
    """
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        if owner:
            os.fchown(file.fileno(), owner.uid, owner.gid)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _generate(home: Path) -> None:
    ports = islice(filter(is_free, secrets.SystemRandom().sample(PORTS, 1_000)), len(SERVERS))
    endpoints = {
        name: {"port": port, "password": secrets.token_urlsafe(24)}
        for name, port in zip(SERVERS, ports, strict=True)
    }
    new = home / "services.json.new"
    write_private(new, json.dumps(endpoints, indent=2) + "\n")
    new.replace(_file(home))


def _file(home: Path) -> Path:
    return home / "services.json"
