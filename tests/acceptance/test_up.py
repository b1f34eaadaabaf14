"""`vector-index up` as a user runs it: from an empty home to a search, and every way to stop it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import (
    CELERY,
    PATIENCE_SECONDS,
    VECTOR_INDEX,
    eventually,
    process_tree,
    still_running,
    user_environment,
)
from tests.fixtures.up import up

pytestmark = pytest.mark.slow

REGISTERED = {"tasks.index_documents", "tasks.delete_documents", "tasks.search", "tasks.status"}


def test_documents_and_addresses_survive_sigterm_and_ctrl_c(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/pets.md").write_text("# Pets\n\nCats chase mice.\n")
    (tmp_path / "texts/ships.txt").write_text("Ships cross the sea.\n")
    with up(tmp_path) as first:
        assert {"DATABASE_URL", "BROKER_URL", "FLOWER_URL"} <= first.addresses.keys()
        report = first.run("index", str(tmp_path / "texts"))
        assert (report["documents"], report["indexed"], report["failed"]) == (2, 2, [])
        assert first.run("search", "a vessel at sea")["results"][0]["document_id"] == "ships.txt"
        first.process.send_signal(signal.SIGTERM)
        assert first.process.wait(PATIENCE_SECONDS) == 0
    with up(tmp_path) as second:
        assert second.addresses == first.addresses
        assert second.run("search", "kittens")["results"][0]["document_id"] == "pets.md"
        assert second.run("delete", "pets.md") == {"index": "default", "deleted": 1, "stale": 0}
        assert second.run("status")["documents"] == {"pending": 0, "live": 1, "failed": 0}
        second.process.send_signal(signal.SIGINT)
        assert second.process.wait(PATIENCE_SECONDS) == 0


def test_a_small_up_indexes_and_answers_with_one_worker(tmp_path: Path) -> None:
    (tmp_path / "pets.md").write_text("# Pets\n\nCats chase mice.\n")
    with up(tmp_path, "--small") as running:
        assert "FLOWER_URL" not in running.addresses
        assert running.workers().keys() == {"all"}
        assert running.run("index", str(tmp_path / "pets.md"))["indexed"] == 1
        assert running.run("search", "kittens")["results"][0]["document_id"] == "pets.md"
        assert running.run("ask", "What do cats chase?")["sources"]
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(PATIENCE_SECONDS) == 0


def test_passwords_stay_out_of_a_log_and_are_printed_on_request(tmp_path: Path) -> None:
    """As under systemd: the output goes to the journal."""
    environment = user_environment(tmp_path)
    with (tmp_path / "journal").open("wb") as journal:
        process = subprocess.Popen([VECTOR_INDEX, "up"], env=environment, stdout=journal, stderr=journal)
    try:
        eventually(lambda: "ready" in (tmp_path / "journal").read_text() or process.poll() is not None)
        printed = (tmp_path / "journal").read_text()
        kept = (tmp_path / "home/services.json").read_text() + (tmp_path / "home/flower.json").read_text()
        passwords = re.findall(r'"password": "([^"]+)"', kept)
        assert len(passwords) == 3
        assert not [password for password in passwords if password in printed]
        assert printed.count("(password: `vector-index addresses`)") == 2
        asked = subprocess.check_output([VECTOR_INDEX, "addresses"], env=environment, text=True)
        values = dict(line.split("=", 1) for line in asked.splitlines())
        assert [password in asked for password in passwords].count(True) == 2
        dump = [f"{values['POSTGRES_PROGRAMS']}/pg_dump", "--schema=vector_index", values["DATABASE_URL"]]
        assert "CREATE TABLE vector_index.documents" in subprocess.check_output(dump, text=True)
    finally:
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ties children to their parent on Linux only")
def test_a_killed_worker_is_restarted_and_a_killed_up_leaves_no_process(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        environment = user_environment(tmp_path)
        inspect = [CELERY, "-A", "worker", "inspect", "--json", "registered"]

        def answers() -> Any:
            done = subprocess.run(inspect, env=environment, stdout=subprocess.PIPE, timeout=PATIENCE_SECONDS)
            return json.loads(done.stdout) if done.returncode == 0 else {}  # no reply within a second

        nodes = eventually(lambda: len(found := answers()) == 3 and found)
        assert all(set(names) >= REGISTERED for names in nodes.values())

        before = running.workers()
        assert before.keys() == {"staging", "embed", "chat"}
        # libraries and the model are in memory once for all workers
        assert all(worker.memory_full_info().uss < worker.memory_info().rss / 2 for worker in before.values())
        before["chat"].kill()
        eventually(lambda: running.workers().get("chat", before["chat"]) != before["chat"])
        assert "chat was killed by SIGKILL; restarting in 1 s" in (tmp_path / "up.log").read_text()
        assert running.run("status")["documents"]["live"] == 0
        assert running.run("search", "anything")["results"] == []
        assert running.workers()["embed"] == before["embed"]

        family = process_tree(running.process.pid)
        running.process.kill()
        assert running.process.wait() == -signal.SIGKILL
        assert not still_running(family, PATIENCE_SECONDS)
