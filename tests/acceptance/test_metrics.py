"""Real worker processes of every kind of pool tell what happens in them."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fixtures.ports import free_ports
from tests.fixtures.system import CELERY, CHAT, EMBED, PATIENCE_SECONDS, SETTINGS, STAGING, eventually

PROCESSES = 2  # of the prefork pool
Samples = dict[tuple[str, ...], float]  # by name, without its prefix, and the values of the labels


def scrape(port: int) -> Samples:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_SECONDS) as answer:
        text = answer.read().decode()
    return {
        (
            sample.name.removeprefix("vector_index_"),
            *(sample.labels[name] for name in sorted(sample.labels)),
        ): (sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.slow
def test_each_pool_counts_all_that_its_processes_do_and_a_dead_one_takes_no_counts_with_it(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    ports = dict(zip(("staging", "embed", "chat"), free_ports(3), strict=True))
    (tmp_path / "ours.py").write_text(SETTINGS)
    (tmp_path / "tmp").mkdir()
    variables = {
        "VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py"),
        "TMPDIR": str(tmp_path / "tmp"),
        "METRICS_PORT": str(ports["chat"]),
    }
    with start_system(tmp_path, {}, **variables) as system:
        for name, more in (("staging", ["--concurrency", str(PROCESSES)]), ("embed", [])):
            system.start(name, ["worker", "--queues", name, "--metrics-port", str(ports[name]), *more])
        system.start("chat", ["-A", "worker", "worker", "--pool", "solo", "--queues", CHAT], program=CELERY)
        system.await_queues(STAGING, EMBED, CHAT)

        def index(number: int) -> None:
            messages = [
                [
                    {"id": f"{number}-{message}-{at}", "text": f"Text {number} {message} {at}."}
                    for at in range(3)
                ]
                for message in range(6)
            ]
            sent = [system.send("tasks.index_documents", documents=message) for message in messages]
            assert all(task.get(timeout=PATIENCE_SECONDS)["indexed"] == 3 for task in sent)

        def staged() -> tuple[float, float]:
            samples = scrape(ports["staging"])
            tasks = samples["tasks_total", "ignored", "tasks.index_documents"]
            return samples["documents_staged_total", "default"], tasks

        index(1)
        eventually(lambda: staged() == (18, 6))  # a task counts once its result is told
        parent = psutil.Process(system.processes["staging"].pid)
        children = parent.children()
        assert len(children) == PROCESSES
        listening = [
            at for child in children for at in child.net_connections("inet") if at.status == "LISTEN"
        ]
        assert not listening, "an orphan would keep the port"
        for child in children:
            child.send_signal(signal.SIGKILL)
        eventually(lambda: len(parent.children()) == PROCESSES and not set(parent.children()) & set(children))
        index(2)
        eventually(lambda: staged() == (36, 12))
        folders = list((tmp_path / "tmp").glob("vector-index-metrics-*"))
        names = {file.name for folder in folders for file in folder.iterdir()}
        assert len(folders) == 1
        assert len(names) <= 2 * (PROCESSES + 1), "one of each kind per place in the pool, however many die"

        done = "tasks_total", "success", "tasks.await_indexing"
        embed = eventually(lambda: (now := scrape(ports["embed"]))[done] == 12 and now)
        assert embed["documents_published_total", "default"] == 36
        assert embed["chunks_embedded_total", "default"] == 36
        assert embed["documents", "default", "live"] == 36

        assert system.call("tasks.search", CHAT, query="text", mode="text")
        with pytest.raises(Exception, match="limit"):
            system.call("tasks.search", CHAT, query="text", limit=0)
        assert system.call("tasks.chat", CHAT, question="What is text 1?")["sources"]
        chat = scrape(ports["chat"])
        assert chat["search_seconds_count", "default", "text", "ok"] == 1
        assert chat["chat_seconds_count", "default", "ok"] == 1
        assert chat["tasks_total", "success", "tasks.search"] == 1
        assert chat["tasks_total", "failure", "tasks.search"] == 1
        assert chat["up", "postgres"] == chat["up", "broker"] == 1

        second = system.command("worker", "--name", "second", "--metrics-port", str(ports["embed"]))
        assert second.returncode == 2
        assert second.stderr.splitlines()[-1].startswith(
            f"vector-index: METRICS_PORT: cannot listen on 127.0.0.1:{ports['embed']} (Address already in use); stop"
        )
    assert not list((tmp_path / "tmp").glob("vector-index-metrics-*"))
