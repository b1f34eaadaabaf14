"""Several questions in one search, on real Postgres."""

from dataclasses import replace
from statistics import fmean

import pytest

from tests.fixtures.application import Application
from worker.errors import InvalidQuery
from worker.passages import Passage
from worker.search.queries import MAX_QUERIES, MODES, SearchQuery
from worker.search.question_cache import remembered
from worker.search.retrieval import retrieve

PETS = [
    {"id": "cats", "text": "Cats chase mice in the garden.", "metadata": {"owner": "ann"}},
    {"id": "dogs", "text": "Dogs chase cats in the garden.", "metadata": {"owner": "ann"}},
    {"id": "ships", "text": "Ships cross wide oceans slowly.", "metadata": {"owner": "bob"}},
]
QUESTIONS = ["mice in a garden", "which dogs chase cats?", "wide oceans and gardens"]


def found(application: Application, *queries: str, **options: object) -> list[Passage]:
    return retrieve(application.target, SearchQuery(queries=queries, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_a_score_is_the_mean_of_the_scores_of_the_questions(application: Application, mode: str) -> None:
    application.put(*PETS)
    alone = [
        {row.document_id: row for row in application.passages(text, mode=mode, limit=3)} for text in QUESTIONS
    ]
    rows = found(application, *QUESTIONS, mode=mode)
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    assert {row.document_id for row in rows} == {"cats", "dogs", "ships"}
    for row in rows:
        each = [by_id.get(row.document_id) for by_id in alone]
        assert row.score == pytest.approx(fmean(one.score if one else 0.0 for one in each), abs=1e-5)
        if mode != "text":
            assert row.similarity == pytest.approx(
                fmean(one.similarity or 0 for one in each if one), abs=1e-5
            )


def test_all_questions_are_embedded_in_one_request_and_each_once(application: Application) -> None:
    application.put(*PETS)
    requests = application.backend.requests
    before = len(requests)
    found(application, *QUESTIONS, QUESTIONS[0])
    assert requests[before:] == [QUESTIONS]
    application.backend.batch_size = 2
    remembered.clear()
    found(application, *QUESTIONS)
    assert requests[before + 1 :] == [QUESTIONS[:2], QUESTIONS[2:]]


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
@pytest.mark.parametrize("mode", MODES)
def test_pages_of_several_questions_fit_together(application: Application, mode: str, distance: str) -> None:
    application.index = replace(application.index, distance=distance)
    application.put(*[{"id": n, "text": f"Words say {n} and {n % 7} here."} for n in range(230)])
    whole = [row.document_id for row in found(application, "words 3", "say 5", mode=mode, limit=100)]
    pages = [
        found(application, "words 3", "say 5", mode=mode, limit=23, offset=at) for at in range(0, 230, 23)
    ]
    together = [row.document_id for page in pages for row in page]
    assert together[:100] == whole
    assert sorted(together, key=int) == [str(n) for n in range(230)]


def test_filter_threshold_and_per_document_apply_as_to_one_question(application: Application) -> None:
    text = "\n\n".join(f"The {n}th owl sat at the window of the {n}th house, and said so." for n in range(40))
    application.put({"id": "owls", "text": text}, *PETS)
    rows = found(application, *QUESTIONS, filter={"owner": "ann"}, limit=9)
    assert {row.document_id for row in rows} == {"cats", "dogs"}
    rows = found(application, "owl at the window", "house of an owl", per_document=1)
    assert sorted(row.document_id for row in rows) == ["cats", "dogs", "owls", "ships"]


def test_rows_below_the_threshold_are_left_out_by_their_mean_similarity(application: Application) -> None:
    application.put(*[{"id": n, "text": f"{'owl ' * (n % 4)}bird number {n}"} for n in range(40)])
    near = [row for row in found(application, "owl owl bird", "an owl", limit=100) if row.similarity]
    expected = [row.document_id for row in near if (row.similarity or 0) >= 0.4]
    rows = found(application, "owl owl bird", "an owl", limit=100, similarity_threshold=0.4)
    assert 10 < len(rows) < 40
    assert [row.document_id for row in rows] == expected


def test_questions_of_only_common_words_are_searched_beside_others(application: Application) -> None:
    application.put(*PETS)
    assert found(application, "the of", "oceans", mode="text")[0].document_id == "ships"


def test_many_long_questions_are_within_the_bounds_of_one(application: Application) -> None:
    application.put(*PETS)
    long = [" ".join(f"w{n}x{at}" for n in range(400)) for at in range(MAX_QUERIES - 1)]
    assert {row.document_id for row in found(application, *long, "oceans")} == {"cats", "dogs", "ships"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "query or queries, and neither is given"),
        ({"text": "x", "queries": ["y"]}, "query or queries, and both are given"),
        ({"queries": []}, "queries has 0 questions: send 1 to 10"),
        ({"queries": ["x"] * 11}, "queries has 11 questions: send 1 to 10"),
        ({"queries": "x y"}, "queries must be a list of 1 to 10 strings, not a string of 3 characters"),
        ({"queries": ["x", " "]}, r"queries\[1\] must be a string with at least one word"),
    ],
)
def test_a_wrong_list_of_questions_is_named_with_the_fix(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        SearchQuery(**arguments)  # type: ignore[arg-type]
