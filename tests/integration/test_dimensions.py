"""Dimensions: the settings, the provider's vectors and the index must agree on the length of a vector."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.application import Application, HashBackend
from tests.fixtures.system import eventually
from tests.provider import Provider
from worker.backends.llm import LLMEmbeddingBackend
from worker.configuration import IndexSettings
from worker.errors import SettingsError, VectorIndexError
from worker.indexing.draining.drainer import Drainer
from worker.indexing.draining.other_builds import OtherBuilds
from worker.recipes import PROBE
from worker.store import builds, connection, status

NEVER_SHORTENED = "ada-002"  # 1,536 dimensions; the request cannot ask for another length
Connect = Callable[..., Application]


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with Provider(dimensions=512) as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        yield provider


@pytest.fixture
def connect(url: str, index: IndexSettings, provider: Provider) -> Connect:
    """An application over a real backend, as a process has it that starts with this CONFIG."""

    def connected(model_id: str = NEVER_SHORTENED, **config: Any) -> Application:
        backend: Any = LLMEmbeddingBackend(
            name="default", model_id=model_id, init_kwargs={"key": "secret-of-the-test"}, **config
        )
        return Application(url, index, backend, Drainer(url, index.embedding_backend, backend))

    return connected


def last_error(application: Application) -> str:
    with connection.checkout(application.url) as conn:
        return str(status.index_status(conn, builds.live(conn, "default"), "default")["last_error"])


def make_visible(application: Application) -> None:
    application.rows("UPDATE vector_index.pending_1 SET visible_at = now() RETURNING 1")


@pytest.mark.parametrize(("config", "said"), [({}, 1536), ({"dimensions": 256}, 256)])
def test_wrong_dimensions_are_an_error_before_any_document_is_accepted(
    connect: Connect, config: dict[str, int], said: int
) -> None:
    application = connect(**config)
    mend = f"returns vectors of length 512 instead of {said}: set EMBEDDING_OUTPUT_DIMENSIONS"
    with pytest.raises(SettingsError, match=mend):
        application.stage({"id": "a", "text": "Words."})
    assert application.rows("SELECT count(*) FROM vector_index.builds") == [(0,)]
    assert connect(dimensions=512).put({"id": "a", "text": "Words."})["indexed"] == 1


def test_documents_are_accepted_while_the_provider_is_down(connect: Connect, provider: Provider) -> None:
    """Both the first document of an index, with known dimensions, and later ones."""
    application = connect(dimensions=512)
    provider.inject("unavailable", times=None)
    application.stage({"id": "first", "text": "Words."})
    application.stage({"id": "second", "text": "More words."})
    assert application.state("second")["state"] == "pending"
    provider.reset()
    application.drainer.drain()
    assert application.state("first")["state"] == application.state("second")["state"] == "live"


@pytest.mark.parametrize("fault", ["unavailable", "content_policy", "unauthorized", "bad_gateway"])
@pytest.mark.parametrize("known", [True, False])
def test_an_index_that_waits_for_its_provider_says_why_from_the_start(
    connect: Connect,
    provider: Provider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    *,
    known: bool,
) -> None:
    """Without a known length of its vectors, the index itself waits, and its first documents in their messages."""
    entry = f"- model_id: house\n  model_name: house/embed\n  api_base: {provider.url}\n"
    (tmp_path / "extra-openai-embedding-models.yaml").write_text(entry)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    application = connect("house", token_limit=500, dimensions=512 if known else None)
    assert last_error(application) == "None"
    provider.inject(fault, times=None)
    with suppress(VectorIndexError):
        application.stage({"id": "a", "text": "Words."}, task_id="first")
    assert re.search("house: HTTP (503|400|401|502)", last_error(application))
    provider.reset()
    application.stage({"id": "a", "text": "Words."}, task_id="first")
    application.drainer.drain()
    assert last_error(application) == "None"


@pytest.mark.parametrize("fault", ["unavailable", "content_policy", "unauthorized"])
def test_a_new_process_accepts_documents_without_knowing_the_dimensions(
    connect: Connect, provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Only the provider knows them, and the index exists. If the provider returns another length, an error says so."""
    entry = f"- model_id: house\n  model_name: house/embed\n  api_base: {provider.url}\n"
    (tmp_path / "extra-openai-embedding-models.yaml").write_text(entry)
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    connect("house", token_limit=500).put({"id": "a", "text": "Words."})
    provider.inject(fault, times=None)
    started = connect("house", token_limit=500)
    started.stage({"id": "b", "text": "More words."}, task_id="second")
    assert started.state("b")["state"] == "pending"
    provider.reset()
    provider.dimensions = 100
    with pytest.raises(
        SettingsError, match=r"\(512 dimensions\), but its embedding backend is house \(100 dim"
    ):
        connect("house", token_limit=500).stage({"id": "c", "text": "New words."}, task_id="third")


def test_a_model_that_changes_its_dimensions_loses_nothing_and_goes_on_when_fixed(
    connect: Connect, provider: Provider
) -> None:
    application = connect(dimensions=512)
    application.put({"id": "a", "text": "Words."})
    provider.inject("wrong_dimension", times=None)
    task_id = application.stage({"id": "a", "text": "New words."}, {"id": "b", "text": "More words."})
    application.drainer.drain()
    assert application.state("a") == {"state": "pending", "version": None, "searchable": True, "error": None}
    assert application.rows("SELECT max(attempts) FROM vector_index.pending_1") == [(0,)]
    assert "returned a vector of length 511 instead of 512, even for the one word" in last_error(application)
    provider.reset()
    make_visible(application)
    application.drainer.drain()
    assert (application.result(task_id) or {})["indexed"] == 2
    assert last_error(application) == "None"


def test_the_probe_at_the_start_finds_wrong_dimensions(
    connect: Connect, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until they are fixed, the worker sends only a probe now and then: no document is paid for in vain."""
    monkeypatch.setattr("worker.indexing.draining.backoff.PAUSE_SECONDS", 0.1)
    application = connect(dimensions=512)
    application.put({"id": "a", "text": "Words."})
    provider.reset()
    provider.inject("wrong_dimension", times=None)
    application.drainer.start()
    try:
        eventually(lambda: "a vector of length 511 instead of 512" in last_error(application))
        task_id = application.stage({"id": "b", "text": "More words."})
        eventually(lambda: provider.stats().requests > 6)
        assert {text for request in provider.requests for text in request.body["input"]} == {PROBE}
        provider.reset()
        eventually(lambda: application.result(task_id))
        assert last_error(application) == "None"
    finally:
        assert application.drainer.stop(60)


def test_an_embedding_worker_starts_while_the_provider_is_down(
    connect: Connect, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.indexing.draining.backoff.BACKOFF_SECONDS", 0.01)
    application = connect(dimensions=512)
    provider.inject("unavailable", times=4)
    task_id = application.stage({"id": "a", "text": "Words."})
    application.drainer.start()
    try:
        eventually(lambda: application.result(task_id))
    finally:
        assert application.drainer.stop(60)


def test_an_index_with_other_dimensions_is_named_with_the_fix(connect: Connect, provider: Provider) -> None:
    connect("3-small", dimensions=512).put({"id": "a", "text": "Words."})
    changed = connect("3-small", dimensions=256)
    with pytest.raises(SettingsError) as told:
        changed.stage({"id": "b", "text": "More words."})
    assert str(told.value) == (
        "index 'default' holds vectors of text-embedding-3-small (512 dimensions), but its embedding backend is "
        "text-embedding-3-small (256 dimensions): run `vector-index rebuild --index default`, or set "
        "EMBEDDING_OUTPUT_DIMENSIONS back to 512"
    )


def test_an_index_with_other_dimensions_waits_and_delays_no_other(application: Application) -> None:
    task_id = application.stage({"id": "a", "text": "Words."})
    backend = HashBackend(dimensions=8)
    drainer = Drainer(application.url, application.index.embedding_backend, backend)
    other = Application(application.url, replace(application.index, name="other"), backend, drainer)
    other.jobs = 100  # tasks of its own
    changed = Application(application.url, application.index, backend, drainer)
    assert other.put({"id": "b", "text": "Words."})["indexed"] == 1
    assert drainer.provider.paused_seconds <= 0
    assert application.state("a")["state"] == "pending"
    OtherBuilds(application.url, {"default": backend}, changed.target.embedder).look()
    assert "(16 dimensions), but its embedding backend is hash (8 dimensions)" in last_error(application)
    make_visible(application)
    application.drainer.drain()
    assert (application.result(task_id) or {})["indexed"] == 1
