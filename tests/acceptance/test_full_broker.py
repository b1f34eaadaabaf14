"""A broker at its memory limit (`noeviction`): no worker ends, nothing is lost, and what waits there is done."""

import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis
from kombu.exceptions import OperationalError

from tests.fixtures.services import BROKERS, fresh_database, own_valkey
from tests.fixtures.system import CHAT, EMBED, PROCESSES, System, eventually, user_environment
from worker.services import Addresses

MESSAGES = 30
IDLE_SECONDS = 3


@pytest.fixture(params=BROKERS)
def system(
    services: Addresses, administrator: "psycopg.Connection", tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[System]:
    """All but the staging worker, on a broker of their own."""
    with (
        fresh_database(services, administrator, "template1") as url,
        own_valkey(tmp_path / "broker", request.param) as valkey,
    ):
        environment = user_environment(tmp_path, DATABASE_URL=url, BROKER_URL=valkey.url)
        system = System(folder=tmp_path, environment=environment)
        try:
            for name in ("embed", "chat"):
                system.start(name, PROCESSES[name])
            system.await_queues(EMBED, CHAT)
            yield system
        finally:
            system.stop()


@pytest.mark.slow
def test_a_full_broker_ends_no_worker_and_what_waits_there_is_done(system: System) -> None:
    broker = redis.Redis.from_url(system.environment["BROKER_URL"])

    def fill(share: float) -> None:
        broker.config_set("maxmemory", int(broker.info("memory")["used_memory"] * share))

    sent = [
        system.send("tasks.index_documents", documents=[{"id": n, "text": f"Number {n}."}])
        for n in range(MESSAGES)
    ]
    system.kill("embed")
    fill(0.5)
    with pytest.raises(
        OperationalError, match="maxmemory"
    ):  # told to every sender; nothing of it was accepted
        system.send("tasks.index_documents", documents=[{"id": "late", "text": "Refused."}])

    for name in ("embed", "staging"):  # workers start there, too
        system.start(name, PROCESSES[name])
    assert [result.get(timeout=60)["indexed"] for result in sent] == [1] * MESSAGES
    eventually(lambda: broker.hlen("vector_index:unacked") == 0)

    time.sleep(IDLE_SECONDS)
    assert {name: process.poll() for name, process in system.processes.items()} == dict.fromkeys(
        system.processes
    )
    broker.config_set("maxmemory", 0)
    eventually(lambda: all("broker_has_room" in system.log(name) for name in system.processes))
    assert system.call("tasks.index_documents", documents=[{"id": "late", "text": "Taken."}])["indexed"] == 1
    for name in system.processes:
        log = system.log(name)
        assert log.count("broker_full") == 1, name  # and the mend in it
        assert "Traceback" not in log, log
    broker.close()
