"""find_similar compares stored vectors, on real Postgres."""

from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.application import Application, HashBackend
from worker.configuration import IndexSettings
from worker.errors import InvalidQuery
from worker.search.queries import SimilarQuery
from worker.search.similar import find_similar
from worker.store import connection

PETS = [
    {"id": "cats", "text": "Cats chase mice in the garden.", "metadata": {"owner": "ann"}},
    {"id": "dogs", "text": "Dogs chase cats in the garden.", "metadata": {"owner": "ann"}},
    {"id": "ships", "text": "Ships cross wide oceans slowly.", "metadata": {"owner": "bob"}},
]


def similar(application: Application, id: str, **options: Any) -> list[str]:
    found = find_similar(application.target, SimilarQuery(id=id, **options))
    return [passage.document_id for passage in found]


def test_the_nearest_documents_come_first_without_the_document_itself_and_without_a_request(
    application: Application,
) -> None:
    application.put(*PETS)
    requests = len(application.backend.requests)
    assert similar(application, "cats") == ["dogs", "ships"]
    assert similar(application, "cats", include_self=True, limit=2) == ["cats", "dogs"]
    assert len(application.backend.requests) == requests


def test_each_document_is_returned_once_with_its_best_passage(application: Application) -> None:
    sea = "Ships cross wide oceans slowly and carefully, day by day, without ever stopping anywhere at all."
    land = "Dogs chase cats in the garden, all day long, until someone comes home and calls them in."
    application.put(PETS[2], {"id": "both", "text": f"{land}\n\n{sea}\n\n{land[:-1]} again."})
    [passage] = find_similar(application.target, SimilarQuery(id="ships"))
    assert (passage.document_id, passage.text.split()[0]) == ("both", "Ships")


def test_every_copy_of_a_document_is_found(application: Application) -> None:
    """Copies share one content, and a search shows it once; find_similar shows every copy."""
    application.put(*[{"id": n, "text": "The same words in every one of them."} for n in range(8)])
    assert sorted(similar(application, "0", limit=10)) == [str(n) for n in range(1, 8)]


def test_a_document_of_many_chunks_does_not_crowd_out_the_others(
    application: Application,
) -> None:
    long = "\n\n".join(f"Paragraph {n} says that number {n} follows number {n - 1}." for n in range(600))
    application.put({"id": "long", "text": long[:9000]}, *PETS)
    assert set(similar(application, "long")) == {"cats", "dogs", "ships"}


def test_filter_threshold_and_limit_apply_to_the_results(application: Application) -> None:
    application.put(*PETS)
    assert similar(application, "cats", filter={"owner": "bob"}) == ["ships"]
    assert similar(application, "cats", similarity_threshold=0.3) == ["dogs"]
    assert similar(application, "cats", limit=1) == ["dogs"]


def test_an_unknown_document_raises_and_one_without_vectors_has_no_neighbours(
    application: Application,
) -> None:
    with pytest.raises(InvalidQuery, match="no document 'cats' in index 'default'"):
        similar(application, "cats")
    application.put(*PETS, {"id": "empty", "text": ""})
    application.stage({"id": "waiting", "text": "Not embedded yet."})
    assert similar(application, "empty") == similar(application, "waiting") == []
    application.delete("cats")
    with pytest.raises(InvalidQuery, match="no document 'cats'"):
        similar(application, "cats")


def test_a_tenant_can_neither_find_nor_compare_documents_of_another(
    application: Application,
) -> None:
    application.put(*PETS)
    application.index = replace(application.index, tenant_field="owner")
    with pytest.raises(InvalidQuery, match="TENANT_FIELD"):
        similar(application, "cats")
    assert similar(application, "cats", filter={"owner": "ann"}) == ["dogs"]
    with pytest.raises(InvalidQuery, match="no document 'ships'"):
        similar(application, "ships", filter={"owner": "ann"})


def test_find_similar_works_on_half_precision_vectors(url: str, index: IndexSettings) -> None:
    from worker.indexing.draining.drainer import Drainer

    wide = HashBackend(dimensions=2500)
    application = Application(url, index, wide, Drainer(url, index.embedding_backend, wide))
    application.put(*PETS)
    assert similar(application, "cats", limit=1) == ["dogs"]
    connection.close_pools()


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"similarity_threshold": 2}, {"include_self": "no"}])
def test_an_invalid_argument_of_find_similar_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidQuery, match=next(iter(wrong))):
        SimilarQuery(id="a", **wrong)


def test_a_text_that_is_not_indexed_is_compared_like_a_document_with_the_same_text(
    application: Application,
) -> None:
    """One request with the document prefix, its chunks cut as those of a document, and the mean of their vectors."""
    application.backend.document_prefix = "passage: "
    sea = "Ships cross wide oceans slowly and carefully, day by day, without ever stopping anywhere at all."
    land = "Dogs chase cats in the garden, all day long, until someone comes home and calls them in."
    text = f"{land}\n\n{sea}\n\n{land[:-1]} again."
    application.put(*PETS, {"id": "both", "text": text})
    requests = application.backend.requests
    embedded, before = requests[-1], len(requests)
    assert len(embedded) > 1
    stored = find_similar(application.target, SimilarQuery(id="both"))
    found = find_similar(application.target, SimilarQuery(text=text, limit=4))
    assert found[0].document_id == "both"
    assert [(row.document_id, row.similarity) for row in found[1:]] == [
        (row.document_id, pytest.approx(row.similarity, abs=1e-5)) for row in stored
    ]
    [request] = requests[before:]
    assert len(request) == 3
    assert set(request) < set(embedded)


def test_a_text_is_compared_within_the_tenant_and_an_empty_index_has_no_neighbours(
    application: Application,
) -> None:
    assert find_similar(application.target, SimilarQuery(text="Cats chase mice.")) == []
    application.put(*PETS)
    application.index = replace(application.index, tenant_field="owner")
    with pytest.raises(InvalidQuery, match="needs its TENANT_FIELD"):
        find_similar(application.target, SimilarQuery(text="Ships cross oceans."))
    found = find_similar(
        application.target, SimilarQuery(text="Ships cross oceans.", filter={"owner": "ann"})
    )
    assert sorted(row.document_id for row in found) == ["cats", "dogs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "document_id or text, and neither is given"),
        ({"id": "a", "text": "b"}, "document_id or text, and both are given"),
        ({"text": " "}, "text must be a string with at least one word"),
        ({"text": "word " * 20_001}, "text has 100,005 characters; at most 100,000"),
    ],
)
def test_a_wrong_text_to_compare_with_is_named_with_the_fix(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidQuery, match=message):
        SimilarQuery(**arguments)
