"""Boosts and explanations on real Postgres: what they lift, how pages fit, and that the numbers add up."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import pytest

from tests.fixtures.application import Application, make_index
from worker.backends.budgets import Budget
from worker.configuration import IndexSettings
from worker.errors import InvalidQuery
from worker.passages import Passage
from worker.search.modes import FUSED
from worker.search.queries import MODES, SearchQuery
from worker.search.reranking import Reranker
from worker.search.retrieval import retrieve, retrieve_across

QUESTION = "words 3"
NEWEST = {"decay": "date", "half_life_days": 30, "now": "2026-11-30"}
VOTES = {"factor": "votes"}


@pytest.fixture
def numbers(application: Application) -> Application:
    """230 documents; those that only boosts tell apart are added by each test."""
    application.put(*[{"id": n, "text": f"Words say {n} and {n % 7} here."} for n in range(230)])
    return application


def found(application: Application, **options: Any) -> list[Passage]:
    return retrieve(application.target, SearchQuery(**{"text": QUESTION, **options}))


def ids(rows: Sequence[Passage]) -> list[str]:
    return [row.document_id for row in rows]


@pytest.mark.parametrize("mode", MODES)
def test_the_newer_of_like_documents_comes_first(application: Application, mode: str) -> None:
    dates = {"old": "2024-01-01", "new": "2026-11-29", "middle": "2026-10-01"}
    application.put(
        *[{"id": id, "text": f"Words of {id}.", "metadata": {"date": date}} for id, date in dates.items()]
    )
    rows = found(application, text="words", mode=mode, boosts=[NEWEST])
    assert ids(rows) == ["new", "middle", "old"]
    popular = found(application, text="words", mode=mode, boosts=[NEWEST, VOTES | {"factor": "missing"}])
    assert [(row.document_id, row.score) for row in popular] == [(row.document_id, row.score) for row in rows]


@pytest.mark.parametrize("mode", MODES)
def test_a_boost_lifts_candidates_and_no_others(numbers: Application, mode: str) -> None:
    """The best of each half are candidates: the one of rank 90 comes first, the last of all stays behind them."""
    plain = ids(found(numbers, mode=mode, limit=100, offset=0))
    last = ids(found(numbers, mode=mode, limit=100, offset=130))[-1]
    for id in (plain[90], last):
        numbers.put(
            {"id": id, "text": f"Words say {id} and {int(id) % 7} here.", "metadata": {"votes": 1_000_000}}
        )
    rows = found(numbers, mode=mode, limit=100, boosts=[VOTES])
    assert rows[0].document_id == plain[90]
    if mode != "hybrid":  # whose other half may have it among its best
        assert last not in ids(rows[:FUSED])


@pytest.mark.parametrize("mode", MODES)
def test_pages_with_boosts_fit_together(numbers: Application, mode: str) -> None:
    numbers.put(
        *[
            {"id": n, "text": f"Words say {n} and {n % 7} here.", "metadata": {"votes": n % 11}}
            for n in range(0, 230, 3)
        ]
    )
    whole = found(numbers, mode=mode, limit=100, boosts=[VOTES])
    pages = [
        row
        for at in range(0, 230, 23)
        for row in found(numbers, mode=mode, limit=23, offset=at, boosts=[VOTES])
    ]
    assert ids(pages[:100]) == ids(whole)
    assert sorted(ids(pages), key=int) == [str(n) for n in range(230)]
    assert [row.score for row in pages] == sorted((row.score for row in pages), reverse=True)


def test_a_boost_changes_no_similarity_and_no_threshold(numbers: Application) -> None:
    numbers.put({"id": 7, "text": "Words say 7 and 0 here.", "metadata": {"votes": 2}})
    plain = {row.document_id: row.similarity for row in found(numbers, limit=100)}
    rows = found(numbers, limit=100, boosts=[VOTES], similarity_threshold=0.2)
    assert {row.document_id: row.similarity for row in rows} == {
        id: similarity for id, similarity in plain.items() if similarity is not None and similarity >= 0.2
    }


def added_up(row: Passage, mode: str) -> float:
    """The score of a row, from the parts of its explanation."""
    explain = row.explain
    assert explain is not None
    if mode != "vector":
        assert explain["by_words"] == pytest.approx(sum(each["share"] for each in explain["words"]), abs=1e-6)
    if mode == "hybrid":
        assert explain["weights"] is not None
        vector, words = explain["weights"]
        assert explain["by_vector"] is not None
        fused = (vector * explain["by_vector"] + words * (explain["by_words"] or 0)) / (vector + words)
    else:
        fused = explain["by_vector" if mode == "vector" else "by_words"] or 0.0
    assert explain["fused"] == pytest.approx(fused)
    factor = prod(boost["factor"] for boost in explain["boosts"])
    assert explain["boosted"] == pytest.approx(fused * factor if fused >= 0 else fused / factor)
    assert explain["searched"] <= explain["boosted"] + 1e-9
    reranked = row.rerank["score"] if row.rerank else None
    return explain["searched"] if reranked is None else reranked


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize("mode", MODES)
def test_the_parts_of_an_explanation_add_up_to_the_score(
    application: Application, mode: str, distance: str
) -> None:
    """With weights, boosts, several questions and passages of several chunks, on the first page and behind it."""
    application.index = replace(application.index, hybrid_weights=(2.0, 0.5), distance=distance)
    long = "\n\n".join(f"The {n}th owl says words at the window of the {n}th house." for n in range(30))
    application.put(
        {"id": "owls", "text": long, "metadata": {"votes": 2}},
        *[
            {
                "id": n,
                "text": f"Words say {n} and {n % 7} here.",
                "metadata": {"votes": n, "date": "2026-10-01"},
            }
            for n in range(150)
        ],
    )
    query = SearchQuery(
        queries=["words 3", "owl at the window"], mode=mode, limit=100, boosts=[VOTES, NEWEST], explain=True
    )
    rows = retrieve(application.target, query)
    assert [row.score for row in rows] == pytest.approx([added_up(row, mode) for row in rows])
    kept = [row.explain for row in rows if row.explain and row.explain["searched"] == row.explain["boosted"]]
    assert len(kept) >= 50
    assert any(row.chunks[0] < row.chunks[1] for row in rows)
    behind = retrieve(application.target, replace(query, offset=100))
    assert [row.score for row in behind] == pytest.approx([added_up(row, mode) for row in behind])
    assert [row.document_id for row in rows] == ids(
        retrieve(application.target, replace(query, explain=False))
    )


def test_an_explanation_names_the_words_and_the_boosts(application: Application) -> None:
    application.put(
        {"id": "a", "text": "Zeppelins landed at 0042.", "metadata": {"votes": 3}},
        {"id": "b", "text": "Ships."},
    )
    [row] = found(
        application, text="zeppelin at the harbour 0042", mode="text", boosts=[VOTES, NEWEST], explain=True
    )
    assert row.explain is not None
    assert {each["word"] for each in row.explain["words"]} == {"zeppelin", "0042"}
    assert all(each["share"] > 0 for each in row.explain["words"])
    assert row.explain["boosts"] == [
        {"field": "votes", "value": 3, "factor": 3.0},
        {"field": "date", "value": None, "factor": 1.0},
    ]
    assert row.as_json()["explain"] == row.explain
    assert "explain" not in found(application, text="zeppelin")[0].as_json()


def test_a_reranked_row_explains_the_search_and_has_the_score_of_the_reranker(numbers: Application) -> None:
    class Reversing:
        model_id, token_limit, batch_size = "reversing", 100, 100

        def count_tokens(self, text: str) -> int:
            return len(text.split())

        def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
            return [float(at) for at in range(len(texts))]

    reranker = Reranker(backend=Reversing(), budget=Budget("", "rerank:mine"), passages=10)
    rows = retrieve(numbers.target, SearchQuery(text=QUESTION, limit=10, explain=True), reranker)
    assert (
        [row.score for row in rows]
        == [added_up(row, "hybrid") for row in rows]
        == [*map(float, range(9, -1, -1))]
    )
    plain = found(numbers, limit=10)
    assert [row.explain and row.explain["searched"] for row in rows[::-1]] == [row.score for row in plain]


def test_rows_of_several_indexes_are_explained(application: Application, index: IndexSettings) -> None:
    application.put({"id": "a", "text": "Words say owl."}, {"id": "b", "text": "Words say oak."})
    again = make_index(application.url, index, application.backend)
    rows = retrieve_across([again], SearchQuery(text="words owl", explain=True))
    assert [row.score for row in rows] == pytest.approx([added_up(row, "hybrid") for row in rows])


def test_explain_must_be_true_or_false() -> None:
    with pytest.raises(InvalidQuery, match="explain must be true or false, not 1"):
        SearchQuery(text="x", explain=1)  # type: ignore[arg-type]
