"""Threads of a process wake each other: nothing here may wait for the next look, which is a minute away."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.fixtures.application import Application, during_request
from tests.fixtures.system import eventually
from worker.errors import InvalidQuery, ServiceUnreachable
from worker.indexing import outbox, waiting, wakeups
from worker.indexing.draining import claiming, drainer
from worker.indexing.waiting import JobWatcher
from worker.indexing.wakeups import Wakeup
from worker.store import connection

MINUTE = 60.0


@pytest.fixture
def patient(application: Application, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """An application with running drainers, which look only when they are woken."""
    for module, name in (
        (drainer, "POLL_SECONDS"),
        (drainer, "FILL_SECONDS"),
        (claiming, "BUILDS_SECONDS"),
        (waiting, "LOOK_SECONDS"),
    ):
        monkeypatch.setattr(module, name, MINUTE)
    application.drainer.start()
    yield application
    application.drainer.stop(10.0)


def await_result(application: Application, task_id: str, timeout_seconds: float = 20.0) -> Any:
    wakeups.queued.notify()
    return JobWatcher(application.url).result("default", task_id, timeout_seconds=timeout_seconds)


def test_a_wakeup_is_not_missed_by_a_thread_that_was_late() -> None:
    wakeup = Wakeup()
    seen = wakeup.count
    wakeup.notify()
    wakeup.wait(seen, MINUTE)  # returns at once


def test_a_job_that_begins_to_wait_has_a_new_index_drained_at_once(patient: Application) -> None:
    result = await_result(patient, patient.stage({"id": "a", "text": "Words."}))
    assert result["indexed"] == 1


def test_an_edit_is_drained_and_reported_at_once(patient: Application) -> None:
    await_result(patient, patient.stage({"id": "a", "text": "Words."}))
    result = await_result(patient, patient.stage({"id": "a", "text": "Other words."}))
    assert (result["indexed"], result["embedded"]) == (1, 1)


def test_an_edit_from_the_outbox_is_drained_at_once(patient: Application) -> None:
    await_result(patient, patient.stage({"id": "a", "text": "Words."}))
    with connection.checkout(patient.url) as conn:
        conn.execute("SELECT vector_index.enqueue_document('default', 'a', 'Other words.')")
    outbox.stage_page(patient.target, max_bytes=1_000)
    eventually(lambda: ["Other words."] in patient.backend.requests, 20.0)


def test_a_drainer_that_waits_for_work_stops_at_once(patient: Application) -> None:
    await_result(patient, patient.stage({"id": "a", "text": "Words."}))
    assert patient.drainer.stop(10.0)


def test_a_few_contents_wait_for_the_response_in_flight_and_travel_together(patient: Application) -> None:
    await_result(patient, patient.stage({"id": "a", "text": "Words."}))
    patient.backend.requests.clear()
    in_flight, response = threading.Event(), threading.Event()

    def hold() -> None:
        in_flight.set()
        assert response.wait(20)

    during_request(patient.backend, hold)
    jobs = [patient.stage({"id": "b", "text": "First."})]
    wakeups.queued.notify()
    assert in_flight.wait(20)
    for number in range(3):
        jobs.append(patient.stage({"id": f"c{number}", "text": f"Text number {number}."}))
        wakeups.queued.notify()
    response.set()
    for job in jobs:
        assert await_result(patient, job)["indexed"] == 1
    assert [len(request) for request in patient.backend.requests] == [1, 3]


def test_jobs_that_wait_together_are_read_together(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [application.stage({"id": str(number), "text": f"Text {number}."}) for number in range(20)]
    application.drainer.drain()
    read: list[int] = []
    watcher, job_results = JobWatcher(application.url), waiting.job_results

    def when_all_wait(conn: Any, index: str, task_ids: list[str]) -> Any:
        if not read:
            eventually(lambda: len(watcher._waiting) == len(jobs))
        read.append(len(task_ids))
        return job_results(conn, index, task_ids)

    monkeypatch.setattr(waiting, "job_results", when_all_wait)

    def wait(job: str) -> Any:
        return watcher.result("default", job, timeout_seconds=20.0)

    with ThreadPoolExecutor(len(jobs)) as pool:
        results = list(pool.map(wait, jobs))
    assert [result["indexed"] for result in results] == [1] * 20
    assert len(read) == 2
    assert sum(read) == 20


def test_an_unknown_job_fails_and_the_others_are_reported(application: Application) -> None:
    application.put({"id": "a", "text": "Words."})
    watcher = JobWatcher(application.url)
    with pytest.raises(InvalidQuery, match="job nothing is unknown"):
        watcher.result("default", "nothing", timeout_seconds=20.0)
    assert watcher.result("default", "job-1", timeout_seconds=20.0) is not None


def test_a_job_that_is_pending_has_no_result_after_the_timeout(application: Application) -> None:
    job = application.stage({"id": "a", "text": "Words."})
    assert JobWatcher(application.url).result("default", job, timeout_seconds=0.3) is None


@pytest.mark.parametrize(
    ("fault", "told"), [(ServiceUnreachable("Postgres is away"), "is away"), (KeyError("a bug"), "a bug")]
)
def test_a_waiting_job_learns_of_every_fault(
    application: Application, monkeypatch: pytest.MonkeyPatch, fault: Exception, told: str
) -> None:
    def fail(*_: Any) -> None:
        raise fault

    monkeypatch.setattr(waiting, "job_results", fail)
    with pytest.raises(type(fault), match=told):
        JobWatcher(application.url).result("default", "any", timeout_seconds=20.0)
