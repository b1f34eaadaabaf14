"""Real workers rebuild an index while clients search it, documents change, and workers are killed."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import CHAT, EMBED, PROCESSES, STAGING, System, eventually
from tests.provider import Provider

DOCUMENTS = 120
MODES = ("hybrid", "vector", "text")
KILLS = 5


@contextmanager
def restarted(system: System, **variables: str) -> Iterator[System]:
    """The same databases with workers that have other settings."""
    system.stop()
    other = replace(system, environment={**system.environment, **variables}, processes={})
    for name, arguments in PROCESSES.items():
        other.start(name, arguments)
    try:
        other.await_queues(STAGING, EMBED, CHAT)
        yield other
    finally:
        other.stop()


def document(number: int, revision: int) -> dict[str, Any]:
    mark = f"m{number}r{revision}"
    lines = [f"Shelf {number} holds books {mark} of the year {line}." for line in range(8)]
    return {"id": str(number), "title": mark, "text": "\n\n".join(lines), "metadata": {"mark": mark}}


@dataclass
class Clients:
    """Three clients that search all the time, and one that changes documents."""

    system: System
    over: threading.Event = field(default_factory=threading.Event)
    counts: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    revisions: dict[int, int] = field(default_factory=lambda: dict.fromkeys(range(DOCUMENTS), 0))

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self.search, args=(mode,)) for mode in MODES]
        threads.append(threading.Thread(target=self.change))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    def search(self, mode: str) -> None:
        while not self.over.is_set():
            began = time.monotonic()
            try:
                query = f"books of shelf {random.randrange(DOCUMENTS)}"
                rows = self.system.send("tasks.search", CHAT, query=query, mode=mode).get(timeout=60)
            except Exception as error:  # noqa: BLE001 - each one counts, whatever it is
                self.counts[f"error {type(error).__name__}: {error}"] += 1
                continue
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            self.counts["searches"] += 1
            self.counts["empty"] += not rows
            self.counts["mixed"] += any(
                row["metadata"]["mark"] != row["title"] or row["title"] not in row["text"] for row in rows
            )

    def change(self) -> None:
        while not self.over.is_set():
            number = random.randrange(DOCUMENTS)
            if random.random() < 0.2:
                self.system.call("tasks.delete_documents", ids=[str(number)])
                self.revisions[number] = -abs(self.revisions[number]) - 1
            else:
                revision = abs(self.revisions[number]) + 1
                self.system.call("tasks.index_documents", documents=[document(number, revision)])
                self.revisions[number] = revision
            self.counts["changes"] += 1


def rebuild(system: System, **arguments: Any) -> dict[str, Any]:
    result: dict[str, Any] = system.call("tasks.rebuild", **arguments)
    return result


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


def openai(provider: Provider) -> dict[str, str]:
    return {
        "OPENAI_API_KEY": "sk-of-the-stand-in",
        "OPENAI_BASE_URL": provider.url,
        "EMBEDDING_MODEL": "3-small",
    }


@pytest.mark.slow
def test_clients_search_during_a_rebuild_a_switch_and_a_rollback(
    start_system: Callable[..., Any], provider: Provider, tmp_path: Path, record_property: Any
) -> None:
    with start_system(tmp_path) as system:
        system.call("tasks.index_documents", documents=[document(n, 0) for n in range(DOCUMENTS)])
        with restarted(system, **openai(provider)) as changed:
            clients = Clients(changed)
            with clients.running():
                assert rebuild(changed, keep_old=True)["outcome"] == "live"
                time.sleep(2)
                assert rebuild(changed, action="rollback", keep_old=True)["outcome"] == "live"
                time.sleep(2)
            said = f"{dict(clients.counts)}, slowest query {clients.slowest_seconds:.2f} s"
            print(said)
            record_property("clients", said)
            assert clients.counts["searches"] > 20, said
            assert not clients.counts["empty"], said
            assert not clients.counts["mixed"], said
            assert not [what for what in clients.counts if what.startswith("error")], said
            verified = changed.call("tasks.verify")
            assert verified["healthy"], verified
            for number, revision in clients.revisions.items():
                state = changed.call("tasks.status", CHAT, ids=[str(number)])["documents"][str(number)]
                assert state["state"] == ("absent" if revision < 0 else "live"), number


@pytest.mark.slow
def test_a_rebuild_that_is_killed_five_times_ends_complete(
    start_system: Callable[..., Any], provider: Provider, tmp_path: Path
) -> None:
    with start_system(tmp_path) as system:
        system.call("tasks.index_documents", documents=[document(n, 0) for n in range(DOCUMENTS)])
        provider.latency_seconds = 0.3
        settings = {
            "VECTOR_INDEX": '{"EMBEDDING_BACKENDS": {"default": {"CONFIG": {"MODEL_ID": "3-small", "BATCH_SIZE": 8, '
            '"CONCURRENCY": 2}}}}'
        }
        variables = {**openai(provider), **settings}
        del variables["EMBEDDING_MODEL"]
        with restarted(system, **variables) as changed:
            result = changed.send("tasks.rebuild", STAGING)
            for kill in range(KILLS):
                before = provider.stats().inputs
                eventually(lambda before=before: provider.stats().inputs > before or result.ready())
                for name in ("embed", "staging") if kill % 2 else ("embed",):
                    changed.kill(name)
                    changed.start(name, PROCESSES[name])
            provider.latency_seconds = 0.0
            done = result.get(timeout=240)
            assert done["outcome"] == "live", done
            assert changed.call("tasks.verify")["healthy"]
            stats = provider.stats()
            print(f"embedded {stats.distinct:,} texts, {stats.repeated:,} again")
            in_flight = KILLS * 2 * 8
            assert stats.repeated <= in_flight + 40  # and the words of probes


@pytest.mark.slow
def test_a_new_user_follows_what_is_printed(
    start_system: Callable[..., Any], provider: Provider, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(12):
        (folder / f"{number}.md").write_text(
            f"# Shelf {number}\n\nShelf {number} holds books of {1900 + number}.\n"
        )
    with start_system(tmp_path) as system:
        lines: list[str] = []

        def run(where: System, *arguments: str, code: int = 0) -> str:
            done = where.command(*arguments)
            lines.extend([f"$ vector-index {' '.join(arguments)}", done.stdout + done.stderr])
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout

        run(system, "index", "docs")
        with restarted(system, **openai(provider)) as changed:
            sentence = "MODEL_ID is 'wordllama' in the index and 'text-embedding-3-small' in the settings"
            logged = [line for line in changed.log("embed").splitlines() if sentence in line]
            lines.extend(["embed.log:", *logged])
            assert len(logged) == 1
            assert sentence in run(changed, "status")
            assert sentence in run(changed, "ready")
            assert sentence in run(changed, "doctor")
            assert "Shelf 7" in run(changed, "search", "books of shelf 7")
            before = provider.stats().inputs
            assert "searches read build 2 now: 12 documents" in run(changed, "rebuild")
            assert provider.stats().inputs > before
            assert "Shelf 7" in run(changed, "search", "books of shelf 7")
            for command in ("status", "ready", "doctor"):
                assert sentence not in run(changed, command)
            assert "nothing to do" in run(changed, "rebuild")
            assert "no rebuild is running" in run(changed, "rebuild", "--cancel")
            assert "the earlier builds are dropped" in run(changed, "rebuild", "--drop-old")
            assert "there is no earlier build" in run(changed, "rebuild", "--drop-old")
        print("\n".join(lines))
