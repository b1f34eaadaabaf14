"""The home folder: the ports and passwords of its servers, invented once and kept."""

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
# Linux (from 32768) and macOS (from 49152) take the ports of outgoing connections from elsewhere: a port that
# is kept for ever must not be in use by chance.
PORTS = range(20_000, 30_000)
SERVERS = ("postgres", "valkey")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """What `services.json` keeps of one server."""

    port: int
    password: str


Endpoints = Mapping[str, Endpoint]


def exists(home: Path) -> bool:
    return _kept(home).exists()


def make(home: Path) -> Endpoints:
    """The endpoints of a home; a new one gets free ports and random passwords. One process at a time.

    Raises SettingsError when the home cannot be written or its file is damaged.
    """
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(home / "lock", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not exists(home):
                _invent(home)
    except OSError as error:
        raise unusable(home, error) from error
    return read(home)


def read(home: Path) -> Endpoints:
    """The endpoints of a home that was made before. Raises SettingsError when its file is damaged."""
    try:
        kept = json.loads(_kept(home).read_text())
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
            f"{_kept(home)} is damaged: restore its ports and passwords, or delete {home} with all its data"
        ) from error
    return endpoints


def unusable(home: Path, error: OSError) -> SettingsError:
    reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return SettingsError(
        f"the home {home} cannot be used ({reason}): set VECTOR_INDEX_HOME to a folder that you can write"
    )


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the servers do
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file that carries a password, and see that it is on disk."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _invent(home: Path) -> None:
    ports = islice(filter(is_free, secrets.SystemRandom().sample(PORTS, 1_000)), len(SERVERS))
    endpoints = {
        name: {"port": port, "password": secrets.token_urlsafe(24)}
        for name, port in zip(SERVERS, ports, strict=True)
    }
    new = home / "services.json.new"
    write_private(new, json.dumps(endpoints, indent=2) + "\n")
    new.replace(_kept(home))


def _kept(home: Path) -> Path:
    return home / "services.json"
