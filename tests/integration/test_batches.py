"""Batches: messages that are staged together end as if each had been staged by itself, one after the other."""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.application import Application
from worker.errors import InvalidQuery
from worker.indexing.batches import stage_batch
from worker.indexing.draining import claiming
from worker.store.batches import NotBatchable

MAX_BYTES = 10_000
Messages = dict[str, list[Any]]


def together(application: Application, messages: Messages) -> None:
    stage_batch(application.target, messages, max_bytes=MAX_BYTES)


def one_by_one(application: Application, messages: Messages) -> None:
    for task_id, documents in messages.items():
        application.stage(*documents, task_id=task_id)


def test_each_message_gets_its_own_result(application: Application) -> None:
    together(
        application,
        {
            "one": [{"id": "a", "text": "First words."}],
            "two": [{"id": "b", "text": "Second words."}, {"id": "c", "text": "Third words."}],
            "bad": [{"id": "d", "text": 7}],
        },
    )
    application.drainer.drain()
    results = {task_id: application.result(task_id) for task_id in ("one", "two", "bad")}
    assert [(each["indexed"], each["chunks"], each["embedded"]) for each in results.values()] == [
        (1, 1, 1),
        (2, 2, 2),
        (0, 0, 0),
    ]
    assert [failed["id"] for failed in results["bad"]["failed"]] == ["d"]
    assert application.search("Third words.")[0] == "c"


def test_messages_share_one_transaction(application: Application) -> None:
    application.put({"id": "first", "text": "The index exists."})
    together(application, {f"job {n}": [{"id": f"{n}", "text": f"Text {n}."}] for n in range(50)})
    assert application.rows(
        "SELECT count(DISTINCT xmin::text) FROM vector_index.jobs WHERE task_id LIKE 'job %'"
    ) == [(1,)]


def test_a_message_that_was_staged_before_is_left_to_be_staged_by_itself(application: Application) -> None:
    one_by_one(application, {"old": [{"id": "a", "text": "Words."}]})
    with pytest.raises(NotBatchable):
        together(application, {"new": [{"id": "b", "text": "New."}], "old": [{"id": "a", "text": "Words."}]})
    assert application.rows("SELECT task_id FROM vector_index.jobs") == [("old",)]
    with pytest.raises(InvalidQuery, match="used in the last 7 days with other arguments"):
        application.stage({"id": "a", "text": "Others."}, task_id="old")


def test_a_message_with_many_documents_is_left_to_be_staged_by_itself(application: Application) -> None:
    with pytest.raises(NotBatchable):
        together(application, {"many": [{"id": str(n), "text": "Words."} for n in range(101)]})


def random_messages(chance: random.Random, turn: int) -> Messages:
    """Messages with few ids and texts, so that they overtake, repeat and refuse each other."""

    def document() -> dict[str, Any]:
        found: dict[str, Any] = {"id": chance.choice(IDS), "text": chance.choice(TEXTS)}
        if chance.random() < 0.3:
            found["version"] = chance.randint(1, 9)
        if chance.random() < 0.1:
            found["text"] = None
        return found

    return {
        f"turn {turn}, message {number}": [document() for _ in range(chance.choice([1, 1, 1, 2, 5]))]
        for number in range(chance.randint(1, 8))
    }


IDS = "abcdefgh"
TEXTS = [
    "One text.",
    "Another text.",
    "Two words.\n\nAnd a paragraph.",
    "Words that are long enough to be found.",
]


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_is_like_its_messages_one_after_the_other(
    application: Application, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(claiming, "BUILDS_SECONDS", 0.0)  # it finds each new index at once
    outcomes = [outcome(application, stage, random.Random(seed)) for stage in (together, one_by_one)]
    assert outcomes[0] == outcomes[1]


def outcome(
    application: Application, stage: Callable[[Application, Messages], None], chance: random.Random
) -> dict[str, Any]:
    """Stage random messages into an index of its own; the results and what is stored then."""
    name = stage.__name__
    application.index = replace(application.index, name=name)
    sent: list[str] = []
    for turn in range(12):
        messages = random_messages(chance, turn)
        stage(application, {f"{name}: {id}": documents for id, documents in messages.items()})
        sent += messages
        if chance.random() < 0.6:
            application.drainer.drain()
    application.drainer.drain()
    results = {id: application.result(f"{name}: {id}") for id in sent}
    return {
        "results": {id: result and {**result, "index": ""} for id, result in results.items()},
        "documents": application.rows(DOCUMENTS.format(name=name)),
        "refusals": application.rows(REFUSALS.format(name=name)),
        "states": {id: application.state(id) for id in IDS},
    }


DOCUMENTS = """
    SELECT d.id, d.version, d.content_hash, d.deleted FROM vector_index.documents d
    JOIN vector_index.indexes i USING (index_id) WHERE i.name = '{name}' ORDER BY d.id
"""
REFUSALS = """
    SELECT r.id, r.version, r.error, split_part(r.task_id, ': ', 2) FROM vector_index.refusals r
    JOIN vector_index.indexes i USING (index_id) WHERE i.name = '{name}' ORDER BY r.id
"""
