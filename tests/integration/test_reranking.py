"""The first passages of a search are ordered by a reranker; after any failure the order stays, and the rows say so."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from tests.fixtures.application import Application
from tests.fixtures.echo import Echo
from tests.provider import Provider
from worker.backends.budgets import Budget
from worker.backends.rerank import HTTPRerankBackend
from worker.chat.answering import ask
from worker.chat.questions import ChatQuestion
from worker.chat.sending import ChatModel
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge
from worker.passages import Passage
from worker.search.queries import MODES, SearchQuery
from worker.search.reranking import Reranker
from worker.search.retrieval import retrieve

QUESTION = "words 3"


@dataclass
class Reversing:
    """A user's own rerank backend class, which reverses the order."""

    model_id: str = "reversing"
    token_limit: int = 100
    batch_size: int = 100
    requests: list[tuple[str, list[str]]] = field(default_factory=list)

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        before = sum(len(sent) for _, sent in self.requests)
        self.requests.append((query, list(texts)))
        return [float(before + at) for at in range(len(texts))]


def reranker(backend: Any, passages: int = 20, budget: Budget | None = None) -> Reranker:
    return Reranker(backend=backend, budget=budget or Budget("", "rerank:mine"), passages=passages)


@pytest.fixture
def numbers(application: Application) -> Application:
    application.put(*[{"id": n, "text": f"Words say {n} and {n % 7} here."} for n in range(60)])
    return application


def found(application: Application, reranker: Reranker | None, **options: Any) -> list[Passage]:
    return retrieve(application.target, SearchQuery(text=QUESTION, **options), reranker)


def ids(rows: Sequence[Passage]) -> list[str]:
    return [row.document_id for row in rows]


@pytest.mark.parametrize("mode", MODES)
def test_the_first_passages_are_reordered_and_the_others_follow(numbers: Application, mode: str) -> None:
    plain = ids(found(numbers, None, mode=mode, limit=40))
    backend = Reversing()
    rows = found(numbers, reranker(backend, 15), mode=mode, limit=40)
    assert ids(rows) == [*reversed(plain[:15]), *plain[15:]]
    assert [row.rerank and row.rerank["score"] for row in rows] == [
        *map(float, range(14, -1, -1)),
        *[None] * 25,
    ]
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    assert rows[0].as_json()["rerank"] == {"model": "reversing", "score": 14.0}
    [(asked, texts)] = backend.requests
    assert (asked, len(texts)) == (QUESTION, 15)


def test_pages_within_and_behind_the_reranked_passages_fit_together(numbers: Application) -> None:
    """Each page within them sends one request with the same passages; one behind them sends none."""
    backend = Reversing()
    whole = ids(found(numbers, reranker(backend, 15), limit=60))
    backend.requests.clear()
    pages: list[str] = []
    for at in range(0, 60, 6):
        backend.requests.clear()
        pages += ids(found(numbers, reranker(backend, 15), limit=6, offset=at))
        assert len(backend.requests) == (1 if at < 15 else 0)
    assert pages == whole
    assert len(set(whole)) == 60


def test_more_passages_are_reranked_than_the_page_shows(numbers: Application) -> None:
    plain = ids(found(numbers, None, limit=30))
    assert ids(found(numbers, reranker(Reversing(), 30), limit=2)) == plain[:-3:-1]


def test_a_search_without_rows_asks_no_reranker(application: Application) -> None:
    backend = Reversing()
    assert found(application, reranker(backend)) == []
    assert backend.requests == []


def test_filter_and_per_document_choose_the_passages_before(application: Application) -> None:
    text = "\n\n".join(
        f"The {n}th owl sat at the window of the {n}th house, and said words." for n in range(40)
    )
    application.put({"id": "owls", "text": text, "metadata": {"kind": 1}}, {"id": "b", "text": "Words."})
    backend = Reversing()
    assert ids(found(application, reranker(backend), per_document=1)) != ids(
        found(application, None, per_document=1)
    )
    [(_, texts)] = backend.requests
    assert len(texts) == 2
    rows = found(application, reranker(Reversing()), filter={"kind": 1}, limit=9)
    assert set(ids(rows)) == {"owls"}


def test_a_reranker_reads_the_title_and_the_start_of_a_long_passage_and_rows_stay_whole(
    application: Application,
) -> None:
    long = "words " * 15 + "end"
    application.put({"id": "a", "title": "Long one", "text": long})
    backend = Reversing(token_limit=10)
    [row] = found(application, reranker(backend))
    [(asked, [text])] = backend.requests
    assert (asked, text) == (QUESTION, "Long one\n" + "words " * 5 + "words")
    assert row.text == long


def test_a_question_may_fill_half_of_the_limit(application: Application) -> None:
    application.put({"id": "a", "text": "words " * 15})
    backend = Reversing(token_limit=10)
    retrieve(application.target, SearchQuery(text="words and more words " * 5), reranker(backend))
    [(asked, [text])] = backend.requests
    assert (len(asked.split()), len(text.split())) == (5, 5)


def test_passages_are_sent_in_requests_of_batch_size(numbers: Application) -> None:
    backend = Reversing(batch_size=8)
    plain = ids(found(numbers, None, limit=20))
    assert ids(found(numbers, reranker(backend, 20), limit=20)) == plain[::-1]
    assert [len(texts) for _, texts in backend.requests] == [8, 8, 4]


def test_several_questions_are_reranked_together(numbers: Application) -> None:
    backend = Reversing()
    retrieve(numbers.target, SearchQuery(queries=["words 3", "say 5"]), reranker(backend))
    assert backend.requests[0][0] == "words 3\nsay 5"


def failing(result: Any) -> Reversing:
    """A reranker that returns this, or raises it."""
    backend = Reversing()

    def rerank(query: str, texts: Sequence[str]) -> Any:
        backend.requests.append((query, list(texts)))
        if isinstance(result, Exception):
            raise result
        return result(texts)

    backend.rerank = rerank  # type: ignore[method-assign]
    return backend


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        (ProviderUnavailable("m: the provider does not answer"), "m: the provider does not answer"),
        (SettingsError("m: give the backend a key"), "m: give the backend a key"),
        (Refused("m: refused"), "m: refused"),
        (TooLarge("m: too large"), "m: too large"),
        (ValueError("Words say 3"), "reversing: it raised ValueError"),
        (lambda texts: [1.0], "reversing did not return one finite score for each of 20 passages"),
        (lambda texts: [1.0] * 21, "reversing did not return one finite score for each of 20 passages"),
        (lambda texts: [float("nan")] * 20, "reversing did not return one finite score for each of 20 passages"),
        (lambda texts: [float("inf")] * 20, "reversing did not return one finite score for each of 20 passages"),
        (lambda texts: ["high"] * 20, "reversing did not return one finite score for each of 20 passages"),
    ],
    ids=["away", "settings", "refused", "too large", "bug", "too few", "too many", "NaN", "infinite", "words"],
)  # fmt: skip
def test_after_a_failure_the_order_stays_and_each_row_says_why(
    numbers: Application, caplog: pytest.LogCaptureFixture, result: Any, sentence: str
) -> None:
    """So does the log, which has no word of a passage."""
    plain = found(numbers, None, limit=30)
    with caplog.at_level(logging.INFO, "vector_index.events"):
        rows = found(numbers, reranker(failing(result), 20), limit=30)
    assert [replace(row, rerank=None) for row in rows] == plain
    assert [row.rerank for row in rows] == [{"model": "reversing", "score": None, "error": sentence}] * 30
    [line] = [record for record in caplog.records if record.message == "rerank_failed"]
    assert "Words say" not in str(vars(line))


def test_a_reranker_that_was_away_is_left_alone_for_a_while(numbers: Application) -> None:
    """Otherwise every search would wait for its time limit."""
    backend = failing(ProviderUnavailable("m: the provider does not answer"))
    target = reranker(backend)
    found(numbers, target)
    [again, *_] = found(numbers, target)
    assert len(backend.requests) == 1
    assert again.rerank is not None
    assert "may send again in" in again.rerank["error"]


def test_a_used_up_rate_limit_keeps_the_order(numbers: Application) -> None:
    backend, budget = Reversing(), Budget("", "rerank:mine", requests_per_minute=1, burst=1.0)
    first = found(numbers, reranker(backend, budget=budget))
    second = found(numbers, reranker(backend, budget=budget))
    assert (len(backend.requests), ids(second)) == (1, ids(found(numbers, None)))
    assert first != second
    assert second[0].rerank is not None
    assert "rate limit" in second[0].rerank["error"]


def test_a_stand_in_that_reverses_is_slow_or_is_away(numbers: Application) -> None:
    """The shipped class over HTTP."""
    plain = ids(found(numbers, None, limit=20))
    with Provider() as provider:
        backend = HTTPRerankBackend(
            name="r",
            model_id="m",
            init_kwargs={"api_base": provider.url},
            token_limit=200,
            timeout_seconds=10,
        )
        assert ids(found(numbers, reranker(backend), limit=20)) == plain[::-1]
        provider.inject("hang")
        slow = HTTPRerankBackend(
            name="r", model_id="m", init_kwargs={"api_base": provider.url}, timeout_seconds=0.2
        )
        rows = found(numbers, reranker(slow), limit=20)
        assert ids(rows) == plain
        assert rows[0].rerank is not None
        assert "does not answer" in rows[0].rerank["error"]
    rows = found(numbers, reranker(backend), limit=20)
    assert ids(rows) == plain
    assert rows[0].rerank is not None
    assert "does not answer" in rows[0].rerank["error"]


def test_a_chat_reads_the_passages_in_the_order_of_the_reranker(numbers: Application) -> None:
    plain = ids(retrieve(numbers.target, SearchQuery(text=QUESTION, limit=20)))
    model = ChatModel(backend=Echo(), budget=Budget("", "echo"))
    answer = ask(numbers.target, model, ChatQuestion(text=QUESTION, limit=3), None, reranker(Reversing()))
    assert [row["document_id"] for row in answer["sources"]] == plain[:-4:-1]
    assert answer["sources"][0]["rerank"]["model"] == "reversing"
