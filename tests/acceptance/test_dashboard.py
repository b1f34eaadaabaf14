"""Each query of the Grafana dashboard has data in a real Prometheus that scrapes `up` under a load with faults."""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import prometheus_client
import psycopg
import pytest

from tests.fixtures.ports import free_ports
from tests.fixtures.system import CHAT, PATIENCE_SECONDS, System, eventually, read_json, user_environment
from tests.fixtures.up import Up, up
from tests.provider import Provider
from worker.cli.pools import UP_POOLS
from worker.observability import metrics

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "grafana/dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
DOCS = (ROOT / "docs/reference/metrics.md").read_text()

PROMETHEUS = shutil.which("prometheus")
SCRAPE_SECONDS, RATE_SECONDS = 1, 8
PERIOD_SECONDS = 0.5  # of what the load sends
LOAD_SECONDS = 180  # at most: until each query has had something to show
MAY_BE_ZERO = ("leases_expired", "sweep_repairs", "outbox", "citations_removed")

SETTINGS = """
CONFIG = {"MODEL_ID": "3-small", "EMBEDDING_OUTPUT_DIMENSIONS": 64, "BATCH_SIZE": 16, "CONCURRENCY": 2,
    "TIMEOUT_SECONDS": 10, "TOKENS_PER_MINUTE": 600_000}
VECTOR_INDEX = {
    "EMBEDDING_BACKENDS": {"default": {"CLASS": "worker.backends.llm.LLMEmbeddingBackend", "CONFIG": CONFIG}},
    "CHAT_BACKENDS": {
        "default": {"CONFIG": {"MODEL_ID": "extractive"}},
        "away": {"CONFIG": {"MODEL_ID": "gpt-4o-mini", "FALLBACK": "default"}},
    },
    "RERANK_BACKENDS": {
        "away": {"CONFIG": {"MODEL_ID": "none", "INIT_KWARGS": {"api_base": "http://127.0.0.1:1"}}},
    },
    "INDEXES": {"articles": {}},
}
"""


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query of a panel, with what Grafana would put in place of its variables."""

    panel: str
    written: str

    @property
    def expression(self) -> str:
        return self.written.replace("$__rate_interval", f"{RATE_SECONDS}s").replace("$index", ".*")

    def has_data(self, scraping: "Prometheus", since: float) -> bool:
        """Whether it had a value other than 0, or one that may be 0."""
        series = scraping.series(self.expression, since, time.time())
        most = max((value for _, points in series for _, value in points), default=None)
        may_be_zero = any(word in self.written for word in MAY_BE_ZERO)
        return most is not None and (most > 0 or may_be_zero)


QUERIES = [Query(panel=panel["title"], written=at["expr"]) for panel in PANELS for at in panel["targets"]]


class Prometheus:
    """Debian's own, scraping some addresses."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: object) -> Any:
        return read_json(f"{self.url}/api/v1/{path}?{urlencode(parameters)}")["data"]

    def series(
        self, expression: str, since: float, until: float
    ) -> list[tuple[str, list[tuple[float, float]]]]:
        """The labels and the points (seconds since the epoch, finite value) of each series of a query."""
        found = self.ask("query_range", query=expression, start=since, end=until, step=SCRAPE_SECONDS)
        series = []
        for one in found["result"]:
            labels = " ".join(value for name, value in sorted(one["metric"].items()) if name != "__name__")
            points = [(float(at), float(value)) for at, value in one["values"]]
            series.append((labels, [(at, value) for at, value in points if math.isfinite(value)]))
        return [(labels, points) for labels, points in series if points]


@contextmanager
def prometheus(folder: Path, urls: Sequence[str]) -> Iterator[Prometheus]:
    assert PROMETHEUS
    targets = [re.sub("^http://|/metrics$", "", url) for url in urls]
    job = {"job_name": "vector-index", "static_configs": [{"targets": targets}]}
    (folder / "prometheus.yml").write_text(
        json.dumps({"global": {"scrape_interval": f"{SCRAPE_SECONDS}s"}, "scrape_configs": [job]})
    )
    [port] = free_ports(1)
    arguments = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([PROMETHEUS, *arguments], stdout=log, stderr=log)
    try:
        running = Prometheus(f"http://127.0.0.1:{port}")
        eventually(lambda: is_ready(running))
        eventually(lambda: all_up(running, len(urls)))
        yield running
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


def is_ready(running: Prometheus) -> bool:
    try:
        with urlopen(f"{running.url}/-/ready", timeout=PATIENCE_SECONDS):
            return True
    except OSError:  # it does not listen yet, or says 503
        return False


def all_up(running: Prometheus, number: int) -> bool:
    targets = running.ask("targets")["activeTargets"]
    return [target["health"] for target in targets] == ["up"] * number


@contextmanager
def load(running: Up, provider: Provider) -> Iterator[threading.Event]:
    """Documents, questions and faults until the block ends."""
    over = threading.Event()
    system = System(folder=running.folder, environment=user_environment(running.folder, **running.addresses))

    def send() -> None:
        for number in itertools.count():
            texts = [
                f"Text {number} {at}.\n\n" + f"Ships {number} cross the sea {at}. " * 40 for at in range(20)
            ]
            documents = [{"id": f"{number}-{at}", "text": text} for at, text in enumerate(texts)]
            if number % 4 == 1:
                documents[0]["text"] = f"A poison of number {number}."
            system.send("tasks.index_documents", documents=documents, index="articles")
            if over.wait(PERIOD_SECONDS):
                return

    def ask() -> None:
        with psycopg.connect(running.addresses["DATABASE_URL"], autocommit=True) as application:
            for number in itertools.count():
                for mode in ("text", "vector", "hybrid"):
                    query = f"ships {number}"
                    system.send("tasks.search", CHAT, query=query, mode=mode, index="articles")
                question = f"What crosses the sea {number}?"
                system.send("tasks.chat", CHAT, question=question, index="articles")
                system.send("tasks.chat", CHAT, question=question, chat_backend="away", index="articles")
                system.send("tasks.search", CHAT, query=question, rerank="away", index="articles")
                enqueue = "SELECT vector_index.enqueue_document('articles', %s, 'Of an outbox.')"
                application.execute(enqueue, [f"outbox-{number % 10}"])
                if over.wait(PERIOD_SECONDS):
                    return

    provider.refuse = "poison"
    provider.inject("rate_limited", path="/embeddings", times=None, share=0.1, headers={"retry-after": "1"})
    provider.inject("server_error", path="/embeddings", times=None, share=0.1)
    provider.inject("server_error", path="/chat/completions", times=None)
    threads = [threading.Thread(target=target) for target in (send, ask)]
    for thread in threads:
        thread.start()
    try:
        yield over
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def watched_load(folder: Path) -> Iterator[tuple[Up, Prometheus]]:
    """`up` with METRICS_PORT under a load, and a Prometheus that scrapes what it says."""
    (folder / "ours.py").write_text(SETTINGS)
    first, *_ = free_ports(3, in_a_row=True)
    with Provider(dimensions=64, latency_seconds=0.15) as provider:
        variables = {
            "METRICS_PORT": str(first),
            "VECTOR_INDEX_SETTINGS": str(folder / "ours.py"),
            "OPENAI_API_KEY": "sk-of-the-stand-in",
            "OPENAI_BASE_URL": provider.url,
        }
        with up(folder, **variables) as running:
            names = [f"METRICS_URL_{name.upper()}" for name in UP_POOLS]
            urls = [running.addresses.pop(name) for name in names]
            assert [int(url.split(":")[2].split("/")[0]) for url in urls] == [first, first + 1, first + 2]
            with prometheus(folder, urls) as scraping, load(running, provider):
                yield running, scraping
            running.process.terminate()
            assert running.process.wait(PATIENCE_SECONDS) == 0


@pytest.mark.slow
@pytest.mark.timeout(480)
@pytest.mark.skipif(not PROMETHEUS and "CI" not in os.environ, reason="no prometheus: apt install prometheus")
def test_each_dashboard_query_has_data_under_load_with_faults(tmp_path: Path) -> None:
    with watched_load(tmp_path) as (running, scraping):
        began = time.time()

        def all_have_data() -> bool:
            lacking[:] = [query.written for query in QUERIES if not query.has_data(scraping, began)]
            return not lacking

        lacking: list[str] = []
        with suppress(AssertionError):
            eventually(all_have_data, LOAD_SECONDS)
        assert not lacking
        for query in QUERIES:
            series = scraping.series(query.expression, began, time.time())
            last = ", ".join(f"{labels or '-'} {points[-1][1]:.4g}" for labels, points in series)
            print(f"{query.panel}: {query.written}\n    -> {last}")
    assert "Traceback" not in (running.folder / "up.log").read_text()


def test_grafana_can_import_the_dashboard() -> None:
    """It asks for the data source, names it everywhere, and no panel lies on another."""
    [asked] = DASHBOARD["__inputs"]
    assert (asked["name"], asked["type"], asked["pluginId"]) == ("DS_PROMETHEUS", "datasource", "prometheus")
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 36
    sources = re.findall(r'"datasource": \{"type": "prometheus", "uid": "(.*?)"', json.dumps(DASHBOARD))
    assert set(sources) == {"${DS_PROMETHEUS}"}
    assert len(sources) == len(PANELS) + len(QUERIES) + 1  # each, and the variable
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_dashboard_and_docs_name_exactly_the_existing_metrics() -> None:
    families = metrics.define_families(prometheus_client.CollectorRegistry())
    counted = {family.describe()[0].name for family in vars(families).values()}
    documented = {name.removesuffix("_total") for name in re.findall(r"`(vector_index_\w+)`", DOCS)}
    assert counted <= documented
    shown = {
        re.sub("_(total|bucket|sum|count)$", "", name)
        for query in QUERIES
        for name in re.findall(r"vector_index_\w+", query.written)
    }
    assert shown <= documented
    assert counted - shown == {"vector_index_pauses", "vector_index_request_inputs"}
