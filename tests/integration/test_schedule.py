"""Schedules on real Postgres: due times, claims, lost and skipped runs."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from worker.celery import startup_checks
from worker.celery.application import beat_entries
from worker.sources.scheduling import next_due
from worker.store import connection, schedule
from worker.store.schedule import CLAIM_SECONDS, RESEND_SECONDS, ScheduledRun, runs_to_send

HOURLY = "0 * * * *"


class Beat:
    """Runs the task of the beat; to put the clock forward, it moves the times of the schedules back."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.indexes = ["default", "other", *(f"index{number}" for number in range(20))]  # of its settings

    def take_over(self, **schedules: str | None) -> None:
        with connection.checkout(self.url) as conn:
            schedule.sync(conn, schedules, "Europe/Berlin")

    def look(self) -> list[str]:
        """Send what is due; the ids of the tasks."""
        return [run.task_id for run in runs_to_send(self.url, self.indexes)]

    def wait(self, seconds: float) -> None:
        """Let time pass for the schedules alone; not a multiple of a period, or a due time comes twice."""
        self.execute(
            "UPDATE vector_index.schedules SET due_at = due_at - %(gone)s, claimed_until = claimed_until - %(gone)s, "
            "sent_at = sent_at - %(gone)s",
            gone=timedelta(seconds=seconds),
        )

    def begin(self, task_id: str, outcome: str = "done") -> None:
        self.execute(
            "INSERT INTO vector_index.runs (index_name, task_id, outcome) VALUES ('default', %(id)s, %(outcome)s)",
            id=task_id,
            outcome=outcome,
        )

    def due_at(self, index: str = "default") -> datetime:
        found: datetime = self.execute(
            "SELECT due_at FROM vector_index.schedules WHERE index_name = %(index)s", index=index
        )[0][0]
        return found

    def history(self) -> list[tuple[Any, ...]]:
        return self.execute("SELECT outcome, message FROM vector_index.runs ORDER BY run")

    def execute(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        with connection.checkout(self.url) as conn:
            cursor = conn.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def beat(url: str) -> Beat:
    return Beat(url)


@pytest.mark.parametrize(
    ("schedules", "seconds"), [({}, None), ({"a": HOURLY, "b": "4"}, 2.0), ({"a": HOURLY}, 10.0)]
)
def test_beat_polls_only_if_an_index_has_a_schedule(
    schedules: dict[str, str], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup_checks, "schedules", lambda: schedules)
    found = beat_entries().get("due")
    assert (found and found["schedule"]) == seconds


def test_run_is_sent_once_when_due(beat: Beat) -> None:
    beat.take_over(default="60")
    assert beat.look() == []
    beat.wait(61)
    due_at = beat.due_at()
    assert beat.look() == [f"reindex-default-{due_at.timestamp():.3f}"]
    assert beat.due_at() == due_at + timedelta(seconds=60)
    assert beat.look() == []


def test_missed_runs_are_made_up_once(beat: Beat) -> None:
    beat.take_over(default="60")
    first = beat.due_at()
    beat.wait(3600)
    assert len(beat.look()) == 1
    assert beat.look() == []
    assert (first - beat.due_at()) % timedelta(seconds=60) == timedelta(0), "it stays on its grid"
    assert beat.history() == []


def test_concurrent_polls_send_each_run_once(beat: Beat) -> None:
    beat.take_over(**{f"index{number}": "60" for number in range(20)})
    for _ in range(5):
        beat.wait(61)
        with ThreadPoolExecutor(8) as pool:
            sent = [task_id for looked in pool.map(lambda _: beat.look(), range(8)) for task_id in looked]
        assert len(set(sent)) == len(sent) == 20
        for task_id in sent:
            beat.begin(task_id)


@pytest.mark.parametrize("sent", [False, True], ids=["before it was sent", "after it was sent"])
def test_claim_of_a_dead_process_is_resent_under_the_same_id(beat: Beat, sent: bool) -> None:
    beat.take_over(default="3600")
    beat.wait(3601)
    dead = runs_to_send(beat.url, beat.indexes)
    task_id = next(dead).task_id
    if sent:
        beat.begin(task_id)
    assert beat.look() == [], "the claim holds"
    beat.execute(
        "UPDATE vector_index.schedules SET claimed_until = claimed_until - %(held)s",
        held=timedelta(seconds=CLAIM_SECONDS),
    )
    assert beat.look() == [task_id]
    assert next(dead, None) is None
    assert beat.look() == [], "the dead that comes back changes nothing"


def test_run_that_still_reads_is_skipped_and_reported_once(beat: Beat) -> None:
    beat.take_over(default="60")
    beat.execute("INSERT INTO vector_index.indexes (name) VALUES ('default')")
    beat.execute(
        "INSERT INTO vector_index.reindexing SELECT index_id, 'by hand', gen_random_uuid(), now() + interval '1 hour' "
        "FROM vector_index.indexes"
    )
    for _ in range(3):
        beat.wait(61)
        assert beat.look() == []
    assert beat.history() == [("skipped", "another run was still reading the source")]
    beat.execute("UPDATE vector_index.reindexing SET until = now() - interval '1 second'")
    beat.wait(61)
    assert len(beat.look()) == 1


def test_only_one_run_waits_for_a_worker(beat: Beat) -> None:
    """While workers are down for hours, the queue holds one run of the index."""
    beat.take_over(default="60")
    beat.wait(61)
    (first,) = beat.look()
    again = 0
    for _ in range(120):
        beat.wait(61)
        sent = beat.look()
        assert set(sent) <= {first}
        again += len(sent)
    assert again == pytest.approx(120 * 61 / RESEND_SECONDS, abs=1.5)
    message = "the previous run was still waiting for a worker of the queue vector_index"
    assert beat.history() == [("skipped", message)]
    beat.begin(first)
    beat.wait(61)
    assert len(set(beat.look()) - {first}) == 1


def test_lost_run_is_resent_before_the_next_is_due(beat: Beat) -> None:
    beat.take_over(default="86400")
    beat.wait(86401)
    lost = beat.look()
    beat.wait(RESEND_SECONDS - 10)
    assert beat.look() == []
    due_at = beat.due_at()
    beat.wait(11)
    assert beat.look() == lost
    assert due_at - beat.due_at() == timedelta(seconds=11)
    beat.begin(lost[0])
    beat.wait(RESEND_SECONDS + 1)
    assert beat.look() == []
    beat.execute("DELETE FROM vector_index.runs")  # as history is forgotten
    beat.wait(RESEND_SECONDS + 1)
    assert beat.look() == [], "what has begun is not looked for again"


def test_run_with_wrong_settings_fails_with_the_reason(beat: Beat, broker_url: str) -> None:
    """A backend that cannot be made fails the run, and the next one is sent when due."""
    wrong = {
        "INDEXES": {"default": {"EMBEDDING_BACKEND": "wrong"}},
        "EMBEDDING_BACKENDS": {"wrong": {"CLASS": "worker.sources.files.FolderSource"}},
    }
    settings = {"VECTOR_INDEX": json.dumps(wrong), "DATABASE_URL": beat.url, "BROKER_URL": broker_url}
    code = "import sys; from tasks.reindexing import reindex; reindex.apply(task_id=sys.argv[1])"
    beat.take_over(default="60")
    beat.wait(61)
    (first,) = beat.look()
    subprocess.run(
        [sys.executable, "-c", code, first], env={**os.environ, **settings}, check=True, timeout=60
    )
    [(outcome, message)] = beat.history()
    assert outcome == "failed"
    assert (
        "CLASS 'worker.sources.files.FolderSource' of backend 'wrong' does not take its settings" in message
    )
    beat.wait(61)
    (second,) = beat.look()
    assert second != first


def test_paused_index_is_skipped_until_resumed(beat: Beat) -> None:
    beat.take_over(default="60")
    beat.execute("INSERT INTO vector_index.indexes (name, paused_at) VALUES ('default', now())")
    beat.wait(61)
    assert beat.look() == []
    assert beat.history() == [("skipped", "the index was paused")]
    beat.execute("UPDATE vector_index.indexes SET paused_at = NULL")
    beat.wait(61)
    assert len(beat.look()) == 1


def test_unchanged_schedule_keeps_its_due_time_over_restarts(beat: Beat) -> None:
    """Even a due time that was missed while everything was down."""
    beat.take_over(default="3600", other=HOURLY)
    beat.wait(3601)
    before = beat.due_at(), beat.due_at("other")
    beat.take_over(default="3600", other=HOURLY)
    assert (beat.due_at(), beat.due_at("other")) == before
    assert len(beat.look()) == 2


def test_changed_schedule_gets_a_new_due_time_and_removed_one_is_deleted(beat: Beat) -> None:
    beat.take_over(default="3600", other=HOURLY)
    beat.wait(3601)
    beat.take_over(default="7200", other=None)
    (now,) = beat.execute("SELECT now()")[0]
    assert timedelta(hours=1.9) < beat.due_at() - now <= timedelta(hours=2)
    assert beat.look() == []
    assert beat.execute("SELECT index_name FROM vector_index.schedules") == [("default",)]
    beat.take_over(default=None)
    assert beat.execute("SELECT index_name FROM vector_index.schedules") == []


def test_deployments_sharing_a_database_keep_their_own_schedules(beat: Beat) -> None:
    """Each takes over, sends and lists the schedules of its own settings."""
    shop = Beat(beat.url)
    beat.indexes, shop.indexes = ["default"], ["shop"]
    shop.take_over(shop="60")
    beat.take_over(default="60")
    beat.wait(61)
    assert [id.startswith("reindex-default-") for id in beat.look()] == [True]
    assert [id.startswith("reindex-shop-") for id in shop.look()] == [True]
    beat.take_over(default=None)
    with connection.checkout(beat.url) as conn:
        assert [row["index"] for row in schedule.list_schedules(conn, beat.indexes)] == []
        assert [row["index"] for row in schedule.list_schedules(conn, shop.indexes)] == ["shop"]


def test_claim_under_old_settings_keeps_new_ones(beat: Beat) -> None:
    beat.take_over(default="60")
    beat.wait(61)
    old = runs_to_send(beat.url, beat.indexes)
    assert isinstance(next(old), ScheduledRun)
    beat.take_over(default="7200")
    due_at = beat.due_at()
    assert next(old, None) is None
    assert beat.due_at() == due_at


def test_new_time_zone_is_a_new_schedule(beat: Beat) -> None:
    beat.take_over(default="0 3 * * *")
    before = beat.due_at()
    with connection.checkout(beat.url) as conn:
        schedule.sync(conn, {"default": "0 3 * * *"}, "Asia/Kolkata")
        (now,) = conn.execute("SELECT now()").fetchone() or ()
    assert beat.due_at() != before
    assert beat.due_at() == next_due("0 3 * * *", "Asia/Kolkata", due=now, now=now)


def test_concurrent_processes_take_over_settings(beat: Beat) -> None:
    names = [f"index{number}" for number in range(10)]

    def take_over(number: int) -> None:
        beat.take_over(**{name: str(60 + number) for name in names[number % 3 :]})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(take_over, range(24)))
    beat.take_over(**dict.fromkeys(names, "60"))
    assert sorted(beat.execute("SELECT index_name, schedule FROM vector_index.schedules")) == sorted(
        (name, "60") for name in names
    )


def test_list_has_newest_run_and_later_skipped_ones(beat: Beat) -> None:
    beat.take_over(default="60", other=HOURLY)
    beat.begin("by hand", "failed")
    beat.execute(
        "INSERT INTO vector_index.runs (index_name, task_id, outcome, message) "
        "VALUES ('default', 'late', 'skipped', 'the index was paused')"
    )
    with connection.checkout(beat.url) as conn:
        default, other = schedule.list_schedules(conn, beat.indexes)
    assert (default["index"], default["schedule"], default["timezone"]) == ("default", "60", "Europe/Berlin")
    assert default["due_in_seconds"] == pytest.approx(60, abs=20)
    assert datetime.fromisoformat(default["due_at"]) == beat.due_at()
    assert default["last_run"]["outcome"] == "failed"
    assert default["skipped"]["message"] == "the index was paused"
    assert (other["last_run"], other["skipped"]) == (None, None)
