"""Work belongs to every deployment that can make the vectors of an index and has the index in its settings."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tests.fixtures.application import Application, HashBackend
from tests.fixtures.system import eventually
from worker import configuration, wiring
from worker.backends.budgets import Budget
from worker.configuration import EmbeddingBackendSettings
from worker.indexing.draining.drainer import Drainer
from worker.indexing.draining.other_builds import OtherBuilds
from worker.store import builds, connection, jobs, status

DOCUMENTS = 300


def renamed(application: Application, name: str) -> Application:
    """The same application after its backend was given another key in EMBEDDING_BACKENDS."""
    backend = replace(application.index.embedding_backend, name=name)
    drainer = Drainer(application.url, backend, application.backend, indexes=[application.index.name])
    index = replace(application.index, embedding_backend=backend)
    return Application(application.url, index, application.backend, drainer)


def other_deployment(application: Application, name: str, *, dimensions: int = 8) -> Application:
    """A deployment in the same database: another index and model, and the same name for its backend."""
    backend = HashBackend(dimensions=dimensions)
    index = replace(application.index, name=name)
    drainer = Drainer(application.url, index.embedding_backend, backend, indexes=[name])
    other = Application(application.url, index, backend, drainer)
    other.jobs = 100  # tasks of its own
    return other


def queue(application: Application) -> list[tuple[Any, ...]]:
    return application.rows(
        "SELECT count(*), max(attempts), bool_and(visible_at <= clock_timestamp()) FROM vector_index.pending_1"
    )


def test_a_renamed_backend_goes_on_with_the_documents_of_its_index(application: Application) -> None:
    task_id = application.stage({"id": "a", "text": "Words."})
    renamed(application, "openai").drainer.drain()
    assert (application.result(task_id) or {})["indexed"] == 1


def test_an_index_that_moved_to_another_backend_of_its_model_goes_on(application: Application) -> None:
    """The old backend still serves other indexes, and leaves this one to the new backend."""
    application.put({"id": "a", "text": "Words."})
    task_id = application.stage({"id": "b", "text": "More words."})
    old = Drainer(application.url, application.index.embedding_backend, HashBackend(), indexes=["other"])
    assert old.drain() == 0
    renamed(application, "fast").drainer.drain()
    assert (application.result(task_id) or {})["indexed"] == 1


def test_the_recipe_of_an_index_names_no_backend(application: Application) -> None:
    application.put({"id": "a", "text": "Words."})
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, "default")
    assert build is not None
    assert "backend" not in build.recipe


def test_a_deployment_leaves_the_documents_of_another_one_alone(application: Application) -> None:
    """Their backends have one name and two models: a claim would hold the documents up for its backoff."""
    task_id = application.stage({"id": "a", "text": "Words."})
    other = other_deployment(application, "other")
    other.put({"id": "b", "text": "Words."})
    assert other.drainer.drain() == 0
    assert queue(application) == [(1, 0, True)]
    application.drainer.drain()
    assert (application.result(task_id) or {})["indexed"] == 1


def test_a_backend_of_another_model_claims_nothing_and_says_why(application: Application) -> None:
    """The index is in both settings; only one of them can make its vectors."""
    task_id = application.stage({"id": "a", "text": "Words."})
    other = other_deployment(application, "default")
    assert other.drainer.drain() == 0
    assert queue(application) == [(1, 0, True)]
    OtherBuilds(application.url, {"default": other.backend}, other.target.embedder).look()
    with connection.checkout(application.url) as conn:
        said = status.index_status(conn, builds.live(conn, "default"))["last_error"]
    assert "but its embedding backend is hash (8 dimensions)" in said
    application.drainer.drain()
    assert (application.result(task_id) or {})["indexed"] == 1


def test_two_deployments_at_once_take_the_time_of_one(application: Application) -> None:
    other = other_deployment(application, "other")
    with running(application.drainer), running(other.drainer):
        began = time.monotonic()
        threads = [
            threading.Thread(target=index_many, args=(deployment,)) for deployment in (application, other)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert time.monotonic() - began < 15, "one claim by the wrong deployment takes 15 s"


def index_many(deployment: Application) -> None:
    task_id = deployment.stage(*({"id": n, "text": f"Document {n} of many."} for n in range(DOCUMENTS)))
    eventually(lambda: deployment.result(task_id))


@contextmanager
def running(drainer: Drainer) -> Iterator[None]:
    drainer.start()
    try:
        yield
    finally:
        assert drainer.stop(60)


def test_a_sweep_takes_up_the_jobs_of_its_own_indexes_only(application: Application) -> None:
    """The caller of another deployment waits at another broker."""
    task_id = application.stage({"id": "a", "text": "Words."})
    application.rows("UPDATE vector_index.jobs SET touched_at = now() - interval '1 hour' RETURNING 1")
    with connection.checkout(application.url) as conn:
        assert jobs.quiet(conn, seconds=60, indexes=["other"]) == []
        assert jobs.quiet(conn, seconds=60, indexes=["default"]) == [(task_id, "default")]


def test_rate_limits_belong_to_a_model_and_its_key(broker_url: str) -> None:
    """Not to the name of a backend: two deployments on one broker may both call theirs `default`."""
    default = configuration.load({}).embedding_backends["default"]
    ours = replace(default, model_id="3-small", init_kwargs={"key": "ours"})
    budget(ours, broker_url).pause(60)
    assert budget(replace(ours, name="renamed"), broker_url).take(1) > 1
    assert budget(replace(ours, init_kwargs={"key": "theirs"}), broker_url).take(1) == 0


def budget(settings: EmbeddingBackendSettings, broker_url: str) -> Budget:
    account = wiring.rate_limit_account("embedding", settings)
    return Budget(broker_url, f"embedding:{settings.name}", account=account)
