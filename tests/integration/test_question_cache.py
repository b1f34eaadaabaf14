"""A repeated question sends no request and takes nothing of the budget; another recipe never gets its vector."""

import prometheus_client
import pytest

from tests.fixtures.application import Application, HashBackend
from tests.fixtures.rebuilding import ChangingApplication
from worker.observability import metrics


@pytest.fixture
def shop(application: Application) -> ChangingApplication:
    return ChangingApplication(application)


def questions(application: ChangingApplication, backend: HashBackend | None = None) -> list[str]:
    return [text for sent in (backend or application.backend).requests for text in sent if "?" in text]


def test_a_repeated_question_is_sent_once(shop: ChangingApplication) -> None:
    shop.put({"id": "a", "text": "Apples are red."})
    found = [shop.search("red apples?", mode=mode) for mode in ("hybrid", "vector", "hybrid")]
    assert found == [["a"]] * 3
    assert questions(shop) == ["red apples?"]
    shop.search("green apples?")
    assert questions(shop) == ["red apples?", "green apples?"]


def test_only_the_new_ones_of_several_questions_are_sent(shop: ChangingApplication) -> None:
    shop.put({"id": "a", "text": "Apples are red."})
    shop.search("red apples?")
    assert shop.search(None, queries=["red apples?", "sour apples?", "red apples?"]) == ["a"]
    assert questions(shop) == ["red apples?", "sour apples?"]


def test_a_rebuilt_index_gets_the_vectors_of_its_own_model_and_prefix(shop: ChangingApplication) -> None:
    shop.put({"id": "a", "text": "Apples are red."})
    shop.search("red apples?")
    prefixed = HashBackend(query_prefix="query: ")
    for backend, sent in (
        (prefixed, "query: red apples?"),
        (HashBackend(model_id="other", dimensions=32), "red apples?"),
    ):
        shop.change(backend)
        shop.search("red apples?")
        shop.rebuild()
        assert shop.search("red apples?") == ["a"]
        assert questions(shop, backend)[-1] == sent


def test_hits_and_misses_are_counted(shop: ChangingApplication, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.put({"id": "a", "text": "Apples are red."})
    registry = prometheus_client.CollectorRegistry()
    monkeypatch.setattr(metrics, "_families", metrics.define_families(registry))
    for _ in range(3):
        shop.search("red apples?")

    def counted(result: str) -> float | None:
        return registry.get_sample_value(
            "vector_index_question_vectors_total", {"backend": "default", "cache": result}
        )

    assert (counted("hit"), counted("miss")) == (2, 1)
