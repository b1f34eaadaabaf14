"""One search over several indexes, on real Postgres."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.application import Application, HashBackend, make_index
from worker.configuration import IndexSettings
from worker.errors import InvalidQuery
from worker.indexing.draining.drainer import Drainer
from worker.passages import Passage
from worker.search.queries import MODES, SearchQuery, checked_indexes
from worker.search.retrieval import retrieve_across

PETS = [
    {"id": "cats", "text": "Cats chase mice in the garden.", "metadata": {"owner": "ann"}},
    {"id": "dogs", "text": "Dogs chase cats in the garden.", "metadata": {"owner": "ann"}},
]
SEA = [
    {"id": "ships", "text": "Ships cross wide oceans slowly.", "metadata": {"owner": "bob"}},
    {"id": "cats", "text": "Cats of the sea chase mice on ships.", "metadata": {"owner": "ann"}},
]


@pytest.fixture
def settings(application: Application, index: IndexSettings) -> list[IndexSettings]:
    """Two indexes with documents."""
    named = [replace(index, name=name) for name in ("pets", "sea")]
    for each, documents in zip(named, (PETS, SEA), strict=True):
        put(application, each, *documents)
    return named


def put(application: Application, settings: IndexSettings, *documents: Any) -> None:
    """Index documents in another index than the one before, which a running drainer would notice after a while."""
    application.index = settings
    application.drainer = Drainer(application.url, settings.embedding_backend, application.backend)
    application.put(*documents)


def found(
    application: Application, settings: Sequence[IndexSettings], *queries: str, **options: Any
) -> list[Passage]:
    targets = [make_index(application.url, each, application.backend) for each in settings]
    return retrieve_across(targets, SearchQuery(queries=queries, **options))


@pytest.mark.parametrize("mode", MODES)
def test_rows_of_all_indexes_are_ranked_together_and_name_their_index(
    application: Application, settings: list[IndexSettings], mode: str
) -> None:
    rows = found(application, settings, "which cats chase mice on ships", mode=mode)
    assert (rows[0].index, rows[0].document_id) == ("sea", "cats")
    assert {(row.index, row.document_id) for row in rows} == {
        ("pets", "cats"),
        ("pets", "dogs"),
        ("sea", "cats"),
        ("sea", "ships"),
    }
    assert [row.score for row in rows] == sorted((row.score for row in rows), reverse=True)
    assert rows[0].as_json()["index"] == "sea"


def test_the_order_by_vector_is_that_of_one_index_with_all_documents(
    application: Application, index: IndexSettings
) -> None:
    """So are the pages, which take from each index only what it has among the best."""
    documents = [{"id": n, "text": f"Words say {n} and {n % 7} here."} for n in range(120)]
    parts = {"all": documents, "even": documents[::2], "odd": documents[1::2]}
    for name, part in parts.items():
        put(application, replace(index, name=name), *part)
    one, *two = [replace(index, name=name) for name in parts]
    whole = [row.document_id for row in found(application, [one], "words 3", mode="vector", limit=100)]
    pages = [
        row.document_id
        for at in range(0, 120, 20)
        for row in found(application, two, "words 3", mode="vector", limit=20, offset=at)
    ]
    assert pages[:100] == whole
    assert len(set(pages)) == 120
    hybrid = [
        row.document_id
        for at in range(0, 120, 20)
        for row in found(application, two, "words 3", "say 5", limit=20, offset=at)
    ]
    assert len(set(hybrid)) == 120


def test_a_word_counts_alike_in_every_index(application: Application, index: IndexSettings) -> None:
    """The elm is rare in the one and common in the other, yet two like chunks have the same score."""
    few, many = replace(index, name="few"), replace(index, name="many")
    for each, tree, end in ((few, "oak", "today"), (many, "elm", "tonight")):
        others = [{"id": str(n), "text": f"One {tree} number {n}."} for n in range(20)]
        put(application, each, {"id": "owl", "text": f"An owl in the elm {end}."}, *others)

    def scores(*searched: IndexSettings) -> list[float]:
        rows = found(application, searched, "owl elm oak", mode="text", limit=99)
        return [row.score for row in rows if row.document_id == "owl"]

    assert scores(few)[0] != pytest.approx(scores(many)[0], rel=0.05)
    assert scores(few, many) == pytest.approx([scores(few, many)[0]] * 2)


def test_the_questions_are_embedded_once_for_all_indexes(
    application: Application, settings: list[IndexSettings], backend: HashBackend
) -> None:
    before = len(backend.requests)
    found(application, settings, "cats", "mice")
    assert backend.requests[before:] == [["cats", "mice"]]


def test_the_tenant_of_each_index_holds(application: Application, settings: list[IndexSettings]) -> None:
    """Only one of the indexes has a TENANT_FIELD."""
    pets, sea = settings
    searched = [pets, replace(sea, tenant_field="owner")]
    with pytest.raises(InvalidQuery, match="needs its TENANT_FIELD"):
        found(application, searched, "cats and ships")
    rows = found(application, searched, "cats and ships", filter={"owner": "ann"}, limit=9)
    assert {(row.index, row.document_id) for row in rows} == {
        ("pets", "cats"),
        ("pets", "dogs"),
        ("sea", "cats"),
    }


def test_an_index_without_documents_adds_nothing(
    application: Application, settings: list[IndexSettings], index: IndexSettings
) -> None:
    empty = replace(index, name="empty")
    assert found(application, [empty], "cats") == []
    rows = found(application, [empty, *settings], "cats")
    assert {row.index for row in rows} == {"pets", "sea"}


@pytest.mark.parametrize(
    ("difference", "message"),
    [
        ({"distance": "l2"}, "DISTANCE is 'cosine' in the one and 'l2' in the other"),
        ({"language": "german"}, "LANGUAGE is 'english' in the one and 'german' in the other"),
    ],
)
def test_indexes_of_different_recipes_are_refused_with_the_difference(
    application: Application, index: IndexSettings, difference: dict[str, Any], message: str
) -> None:
    one, other = index, replace(index, name="other", **difference)
    for each in (one, other):
        put(application, each, *PETS)
    with pytest.raises(InvalidQuery, match=f"'default' and 'other' cannot be searched together: {message}"):
        found(application, [one, other], "cats")


def test_indexes_that_weigh_their_halves_differently_are_refused(
    application: Application, settings: list[IndexSettings]
) -> None:
    pets, sea = settings
    with pytest.raises(InvalidQuery, match="HYBRID_WEIGHTS"):
        found(application, [pets, replace(sea, hybrid_weights=(2.0, 1.0))], "cats")


@pytest.mark.parametrize(
    ("names", "index", "message"),
    [
        ("pets", "default", "indexes must be a list of names of indexes, not a string of 4 characters"),
        ([1], "default", "indexes must be a list of names of indexes, not a list"),
        ([], "default", "indexes has 0 names: send 1 to 10"),
        (["a"] * 11, "default", "indexes has 11 names: send 1 to 10"),
        (["a"], "b", "index or indexes, and both are given"),
    ],
)
def test_a_wrong_list_of_indexes_is_named_with_the_fix(names: Any, index: str, message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        checked_indexes(names, index)
