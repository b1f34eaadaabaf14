"""A broker behind TLS: every part of the system reads its address in the same way."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import redis

from tests.fixtures.certificates import Certificate, needs_openssl
from tests.fixtures.proxy import HOST, Proxy
from tests.fixtures.system import CHAT, PROCESSES, System, eventually, read_json
from worker.backends.budgets import Budget
from worker.celery import leases
from worker.celery.queue_lengths import queue_lengths
from worker.chat.stream import AnswerStream
from worker.cli.client import Client
from worker.configuration import load
from worker.errors import ServiceUnreachable
from worker.services import Addresses

pytestmark = needs_openssl

OWL = [{"id": "owl", "title": "Owls", "text": "The owl sleeps by day."}]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def proxy(services: Addresses, certificate: Certificate) -> Iterator[Proxy]:
    port = urlsplit(services.broker_url).port
    assert port is not None
    with Proxy(port, tls=certificate.server()) as proxy:
        yield proxy


def spellings(certificate: Certificate) -> dict[str, str]:
    """Parameters of addresses that connect, by what they show."""
    trusted = f"ssl_ca_certs={quote(str(certificate.certificate), safe='')}"
    own = f"ssl_certfile={certificate.certificate}&ssl_keyfile={certificate.key}"
    return {
        "celery": f"ssl_cert_reqs=CERT_REQUIRED&{trusted}",
        "redis": f"ssl_cert_reqs=required&{trusted}",
        "absent": trusted,
        "unchecked": "ssl_cert_reqs=CERT_NONE",
        "own certificate": f"{trusted}&{own}",
    }


def addresses(plain: str, proxy: Proxy, parameters: str) -> dict[str, str]:
    parts = urlsplit(plain)
    url = f"rediss://:{parts.password}@{HOST}:{proxy.port}{parts.path}?{parameters}"
    return {"BROKER_URL": url}


@pytest.fixture(
    scope="module", params=["celery", pytest.param("absent", marks=pytest.mark.slow), "Celery's variables"]
)
def encrypted(
    request: pytest.FixtureRequest,
    start_system: Callable[..., Any],
    proxy: Proxy,
    certificate: Certificate,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """One worker for everything and the beat; the application connects without TLS."""
    spelled = spellings(certificate)[request.param if request.param in ("celery", "absent") else "celery"]
    with start_system(tmp_path_factory.mktemp("tls"), {}) as plain:
        url = addresses(plain.environment["BROKER_URL"], proxy, spelled)["BROKER_URL"]
        names = ("BROKER_URL",)
        if request.param == "Celery's variables":
            names = ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
        variables = {key: value for key, value in plain.environment.items() if key != "BROKER_URL"}
        system = System(folder=plain.folder, environment={**variables, **dict.fromkeys(names, url)})
        system.__dict__["app"] = plain.app
        try:
            system.start("all", ["worker"])
            system.start("beat", PROCESSES["beat"])
            system.await_queues(CHAT)
            yield system
        finally:
            system.stop()


@pytest.mark.slow
def test_an_encrypted_broker_carries_leases_budgets_results_and_streams(encrypted: System) -> None:
    assert encrypted.call("tasks.index_documents", documents=OWL)["indexed"] == 1
    answer = encrypted.send("tasks.chat", CHAT, question="When does the owl sleep?", stream=True)
    assert answer.get(timeout=60)["sources"]
    with redis.Redis.from_url(encrypted.app.conf.broker_url) as client:
        assert client.xlen(f"vector-index:chat:{answer.id}")
        assert client.keys("vector-index:budget:embedding:*")
    for event in ("leases_not_renewed", "limits_not_shared", "Traceback"):
        assert event not in encrypted.logs()


@pytest.mark.slow
def test_commands_read_the_address_of_an_encrypted_broker(encrypted: System) -> None:
    report = json.loads(encrypted.command("doctor", "--json", "--offline").stdout)
    assert [check for check in report["checks"] if not check["ok"]] == []
    found = encrypted.command("ask", "When does the owl sleep?", "--json")
    assert found.returncode == 0, found.stderr
    assert encrypted.command("status").returncode == 0


@pytest.mark.slow
def test_flower_reads_the_queues_of_an_encrypted_broker(encrypted: System, unused_port: int) -> None:
    pytest.importorskip("flower")
    variables = {**encrypted.environment, "FLOWER_BASIC_AUTH": "u:p"}
    flower = replace(encrypted, environment=variables, processes={})
    flower.start("flower", ["flower", "--port", str(unused_port)])
    url = f"http://127.0.0.1:{unused_port}/api/queues/length"
    try:
        queues = eventually(lambda: found(url))
    finally:
        flower.stop()
    assert {CHAT, "vector_index"} <= {queue["name"] for queue in queues["active_queues"]}


def found(url: str) -> Any:
    try:
        return read_json(url, "u", "p")
    except OSError:
        return None


@pytest.mark.parametrize("name", ["celery", "redis", "absent", "unchecked", "own certificate"])
def test_every_part_reads_every_spelling_of_a_tls_address(
    name: str, broker_url: str, proxy: Proxy, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    url = load(addresses(broker_url, proxy, spellings(certificate)[name])).broker_url
    conf = {"broker_url": url, "broker_transport_options": {}}
    with leases.connect(SimpleNamespace(conf=conf)) as client:
        assert client.ping()
    Budget(url, "test").take(1)
    assert "limits_not_shared" not in caplog.text
    with AnswerStream(url, "test") as stream:
        stream.write("token", "x")
    assert queue_lengths(url, [CHAT]) == {CHAT: 0}
    client_of_commands = Client(load({"BROKER_URL": url}))
    assert client_of_commands.send("tasks.none", "none").state == "PENDING"


def test_the_host_name_of_a_certificate_is_checked_unless_the_address_says_otherwise(
    broker_url: str, services: Addresses, tmp_path: Path
) -> None:
    port = urlsplit(services.broker_url).port
    assert port is not None
    other = Certificate.make(tmp_path, "DNS:elsewhere")
    with Proxy(port, tls=other.server()) as proxy:
        trusted = f"ssl_ca_certs={other.certificate}"
        with pytest.raises(ServiceUnreachable, match="ssl_check_hostname"):
            Client(load(addresses(broker_url, proxy, trusted)))
        unchecked = load(addresses(broker_url, proxy, f"{trusted}&ssl_check_hostname=False"))
        assert Client(unchecked).send("tasks.none", "none").state == "PENDING"


def test_a_certificate_that_nobody_trusts_is_told_with_its_fix(
    start_system: Callable[..., Any], proxy: Proxy, tmp_path: Path
) -> None:
    with start_system(tmp_path, {}) as system:
        shown = system.command("status", **addresses(system.environment["BROKER_URL"], proxy, ""))
    assert shown.returncode == 3
    assert "ssl_ca_certs" in shown.stderr
    assert "Traceback" not in shown.stderr
