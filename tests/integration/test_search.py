"""Search on real Postgres: modes, languages, repeated texts, pages, tenants."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fixtures.application import Application, HashBackend
from tests.fixtures.filters import filters
from worker.configuration import IndexSettings
from worker.errors import InvalidQuery, SettingsError
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer
from worker.search.modes import Ranker, Ranking
from worker.search.queries import MODES, SearchQuery
from worker.store import builds, connection, rarity, schema
from worker.store import search as store_search
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.rankings import Shape
from worker.store.search import Excluded

PETS = [
    {"id": "cats", "text": "Cats chase mice in the garden.", "metadata": {"owner": "ann"}},
    {"id": "dogs", "text": "Dogs chase cats in the garden.", "metadata": {"owner": "ann"}},
    {"id": "ships", "text": "Ships cross wide oceans slowly.", "metadata": {"owner": "bob"}},
]


def test_words_match_in_other_forms_and_rarer_words_count_more(
    application: Application,
) -> None:
    application.put(*PETS)
    assert application.search("garden of an ocean", mode="text") == ["ships", "cats", "dogs"]
    assert application.search("the SHIP", mode="text") == ["ships"]
    assert application.search("which of the two", mode="text") == []


def test_a_title_is_found_by_its_words(application: Application) -> None:
    application.put(*PETS, {"id": "n", "title": "Zeppelins", "text": "They were slow, too."})
    assert application.search("zeppelin", mode="text") == ["n"]


def test_text_mode_sends_no_request_and_returns_no_similarity(application: Application) -> None:
    application.put(*PETS)
    requests = len(application.backend.requests)
    [found] = application.passages("oceans", mode="text")
    assert (found.similarity, len(application.backend.requests)) == (None, requests)


def test_hybrid_is_the_default_and_returns_matches_by_word_and_by_vector_with_their_similarity(
    application: Application,
) -> None:
    """Scores fall, and items of a single ranking are included."""
    application.put(*PETS)
    found = application.passages("cats and oceans")
    assert {row.document_id for row in found} == {"cats", "dogs", "ships"}
    assert [row.score for row in found] == sorted((row.score for row in found), reverse=True)
    assert all(row.similarity is not None and -1.0 <= row.similarity <= 1.001 for row in found)
    near = {row.document_id: row.similarity for row in application.passages("cats and oceans", mode="vector")}
    assert {row.document_id: pytest.approx(row.similarity) for row in found} == near


def test_a_hybrid_score_is_the_mean_of_the_similarity_and_the_relevance_by_words(
    application: Application,
) -> None:
    application.put(*PETS)
    question = "cats and oceans"
    by_words = {row.document_id: row.score for row in application.passages(question, mode="text")}
    for row in application.passages(question):
        assert row.similarity is not None
        assert row.score == pytest.approx((row.similarity + by_words.get(row.document_id, 0)) / 2)


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
def test_hybrid_compares_angles_whatever_the_distance_of_the_index(
    application: Application, distance: str
) -> None:
    application.index = replace(application.index, distance=distance)
    application.put(*PETS)
    question, *vectors = application.backend.embed(["trees", *(pet["text"] for pet in PETS)])
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(question)
    angles = dict(zip([pet["id"] for pet in PETS], np.array(vectors) @ question / lengths, strict=True))
    found = {row.document_id: row.score for row in application.passages("trees")}
    assert found == {id: pytest.approx(cosine / 2, abs=1e-3) for id, cosine in angles.items()}
    assert list(found) == sorted(angles, key=lambda id: -angles[id])


def test_all_words_of_a_question_count_though_only_its_rarest_find_chunks(application: Application) -> None:
    """Eight rare words find both documents; the ninth, which three have, tells them apart."""
    rare = " ".join(f"rare{n}" for n in range(8))
    application.put(
        {"id": "a", "text": f"{rare} oak"},
        {"id": "b", "text": f"{rare} elm"},
        {"id": "c", "text": "elm one"},
        {"id": "d", "text": "elm two"},
    )
    assert application.search(f"{rare} elm", mode="text") == ["b", "a"]


def test_a_short_chunk_is_more_relevant_than_a_long_one_with_the_same_words(application: Application) -> None:
    filler = " ".join(f"filler{n}" for n in range(60))
    application.put(
        {"id": "long", "text": f"Zeppelins. {filler}"}, {"id": "short", "text": "Zeppelins landed."}
    )
    assert application.search("zeppelin", mode="text") == ["short", "long"]


def test_relevance_by_words_needs_no_statistics_of_postgres(application: Application) -> None:
    """A new index has none, and a small one gets none."""

    def ranked() -> list[tuple[str, float]]:
        return [(row.document_id, row.score) for row in application.passages("seven oak trees", mode="text")]

    numbers = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    application.put(*[{"id": n, "text": f"{n} {'oak' if len(n) > 3 else 'elm'} tree"} for n in numbers])
    before = ranked()
    assert before[0][0] == "seven"
    with connection.checkout(application.url) as conn:
        assert conn.execute("SELECT reltuples FROM pg_class WHERE relname = 'chunks_1'").fetchone() == (-1,)
        conn.execute("ANALYZE vector_index.chunks_1")
    assert ranked() == before


def test_a_large_index_takes_the_shares_of_common_words_from_postgres(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are as counted, and no chunk is read to count them."""
    trees = [{"id": str(n), "text": f"number{n} {'oak' if n % 4 else 'elm'} tree"} for n in range(60)]
    application.put(*trees)
    with connection.checkout(application.url) as conn:
        conn.execute("ANALYZE vector_index.chunks_1")
        build = builds.live(conn, application.index.name)
        assert build is not None
        counted = rarity.read_words(conn, build, "elm tree zebra")
        monkeypatch.setattr(rarity, "EXACTLY_COUNTED", 50)
        requested: list[list[str]] = []
        count = rarity._count

        def counting(conn: Connection, build: Build, words: list[str], *, most: int) -> dict[str, int]:
            requested.append(words)
            return count(conn, build, words, most=most)

        monkeypatch.setattr(rarity, "_count", counting)
        estimated = rarity.read_words(conn, build, "elm tree zebra")
    assert estimated.finding == counted.finding
    assert dict(estimated.weights) == pytest.approx(dict(counted.weights), rel=0.01)
    assert requested == [["'zebra'"]]


def test_the_common_words_of_a_large_index_are_read_once_for_each_analyze(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rarity, "EXACTLY_COUNTED", 50)

    def put(numbers: range, word: str) -> None:
        application.put(*[{"id": str(n), "text": f"number{n} {word} tree"} for n in numbers])
        with connection.checkout(application.url) as conn:
            conn.execute("ANALYZE vector_index.chunks_1")

    def weights() -> dict[str, float]:
        with connection.checkout(application.url) as conn:
            build = builds.live(conn, application.index.name)
            assert build is not None
            return dict(rarity.read_words(conn, build, "elm tree").weights)

    statement, read = rarity.statement, []
    monkeypatch.setattr(rarity, "statement", lambda *names: read.append(names) or statement(*names))
    put(range(60), "elm")
    before = weights()
    assert weights() == before
    put(range(60, 200), "oak")
    after = weights()
    assert len(read) == 2
    assert before["'elm'"] == pytest.approx(before["'tree'"])
    assert after["'elm'"] > 2 * after["'tree'"]


def test_a_large_index_without_statistics_is_counted(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked right after a load, it weighs words as after its first ANALYZE."""
    monkeypatch.setattr(rarity, "EXACTLY_COUNTED", 20)
    trees = [{"id": str(n), "text": f"number{n} {'oak' if n % 4 else 'elm'} tree"} for n in range(60)]
    application.put(*trees)

    def weights() -> dict[str, float]:
        with connection.checkout(application.url) as conn:
            build = builds.live(conn, application.index.name)
            assert build is not None
            return dict(rarity.read_words(conn, build, "elm tree number7").weights)

    fresh = weights()
    with connection.checkout(application.url) as conn:
        conn.execute("ANALYZE vector_index.chunks_1")
    assert fresh == pytest.approx(weights(), rel=0.01)
    assert fresh["'tree'"] < fresh["'elm'"] < fresh["'number7'"]


def test_the_words_that_find_chunks_are_in_a_share_of_them(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = ["oak"] * 5 + ["elm"] * 8 + ["fir"] * 87
    application.put(*[{"id": str(n), "text": f"number{n} {tree}"} for n, tree in enumerate(trees)])
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, application.index.name)
        assert build is not None

        def finding(share: float) -> list[str]:
            return list(rarity.read_words(conn, build, "elm, fir or oak", share=share).finding)

        assert finding(0.01) == ["'oak'", "'elm'", "'fir'"]  # a small index is read as a whole
        monkeypatch.setattr(rarity, "FEW_CHUNKS", 1)
        assert [finding(share) for share in (0.01, 0.12, 0.13)] == [["'oak'"], ["'oak'"], ["'oak'", "'elm'"]]
        assert len(rarity.read_words(conn, build, "elm, fir or oak", share=0.01).weights) == 3


@pytest.mark.parametrize(
    ("documents", "paragraphs", "per_document", "modes"),
    [(60, 1, None, MODES), (60, 30, None, MODES), (16, 150, 1, ["vector"])],
    ids=["one chunk each", "many chunks each", "one chunk of each"],
)
def test_one_ranking_fills_a_page(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
    documents: int,
    paragraphs: int,
    per_document: int | None,
    modes: Sequence[str],
) -> None:
    """A second one, which leaves out what the first one found, takes ten times as long in a large index."""
    texts = ["\n\n".join(f"number {at} of w{n}x{at}" for at in range(paragraphs)) for n in range(documents)]
    application.put(*[{"id": str(n), "text": text} for n, text in enumerate(texts)])
    ranked: list[int] = []
    rank = Ranker.rank

    def ranking(self: Ranker, candidates: int, excluded: Excluded) -> Ranking:
        ranked.append(candidates)
        return rank(self, candidates, excluded)

    monkeypatch.setattr(Ranker, "rank", ranking)
    for mode in modes:
        for limit in (1, 5, 10):
            found = application.passages("number 7", mode=mode, limit=limit, per_document=per_document)
            assert len(found) == limit
    assert len(ranked) == len(modes) * 3


def test_a_wide_filter_is_remembered_and_answered_in_full_once_it_is_narrow(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To find out that it is wide, a search reads up to EXACT_CHUNKS chunks."""
    application.put(*[{"id": n, "text": f"number {n}", "metadata": {"wide": True}} for n in range(30)])
    monkeypatch.setattr(store_search, "EXACT_CHUNKS", 10)
    statements: list[str] = []
    ranking = store_search.ranking

    def noted(shape: Shape) -> Any:
        statements.append(shape.name)
        return ranking(shape)

    monkeypatch.setattr(store_search, "ranking", noted)

    def asked(filter: dict[str, Any]) -> tuple[list[str], int]:
        statements.clear()
        found = application.search("number 7", mode="vector", filter=filter, limit=5)
        return found, statements.count("exact")

    first, again = asked({"wide": True}), asked({"wide": True})
    assert first == (again[0], 1)
    assert again[1] == 0
    assert asked({"wide": {"$ne": False}}) == first
    application.delete(*[str(n) for n in range(3, 30)])
    assert sorted(asked({"wide": True})[0]) == ["0", "1", "2"]


def test_hybrid_weights_of_an_index_choose_between_the_rankings(application: Application) -> None:
    application.put(*[{"id": n, "text": f"{'common ' * n}text number {n}"} for n in range(1, 9)])
    question = "number 3"
    application.index = replace(application.index, hybrid_weights=(1.0, 0.0))
    assert application.search(question) == application.search(question, mode="vector")
    application.index = replace(application.index, hybrid_weights=(0.0, 1.0))
    assert application.search(question)[0] == application.search(question, mode="text")[0] == "3"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "question",
    ["C++ and C#", "the of and", "\U0001f600", "a\x00b", "word " * 2000, "x" * 10_000, "it's \\ 'quoted' & | ! <-> :*",
     "\ud800", "\u732b\u306f\u5ead\u3067", " ".join(f"w{n}" for n in range(3000))],
)  # fmt: skip
def test_every_question_string_can_be_searched(application: Application, question: str, mode: str) -> None:
    application.put(*PETS)
    found = application.search(question, mode=mode)
    assert mode == "text" or set(found) == {"cats", "dogs", "ships"}


def test_an_index_uses_its_language_and_an_unknown_language_is_reported(
    application: Application,
) -> None:
    application.index = replace(application.index, language="german")
    application.put({"id": "1", "text": "Die H\u00e4user am Ufer."})
    assert application.search("ein Haus", mode="text") == ["1"]
    application.index = replace(application.index, name="other", language="klingon")
    with pytest.raises(SettingsError, match="LANGUAGE of index 'other' is 'klingon'"):
        application.put({"id": "1", "text": "x"})


@pytest.mark.slow
def test_a_text_too_large_for_a_tsvector_is_still_indexed(
    url: str,
    index: IndexSettings,
) -> None:
    wide = HashBackend(token_limit=400_000, batch_token_limit=400_000, chunk_tokens=400_000)
    application = Application(url, index, wide, Drainer(url, index.embedding_backend, wide))
    words = " ".join(f"word{n}" for n in range(150_000))
    documents = [{"id": "wide", "text": words}]
    staging.stage(application.target, "job", documents, max_bytes=10_000_000)
    application.drainer.drain()
    assert application.search("word7", mode="text") == ["wide"]
    connection.close_pools()


def test_the_same_text_is_returned_once_under_any_title(application: Application) -> None:
    copies = [{"id": f"copy{n}", "title": f"Title {n}", "text": "All rights reserved."} for n in range(60)]
    application.put(*copies, *PETS)
    for mode in ("hybrid", "vector"):
        found = application.passages("Are all the rights of cats reserved?", mode=mode, limit=4)
        assert sorted(row.document_id for row in found if "copy" not in row.document_id) == [
            "cats",
            "dogs",
            "ships",
        ]
        assert len(found) == 4
    assert len(application.search("rights", mode="text", limit=10)) == 1


def test_an_index_of_an_older_schema_gets_full_text_search(application: Application) -> None:
    application.put(*PETS)
    with connection.checkout(application.url) as conn:
        conn.execute("ALTER TABLE vector_index.chunks_1 DROP COLUMN lexemes")
        conn.execute("ALTER TABLE vector_index.builds DROP COLUMN indexing_until")
        conn.execute("DROP INDEX vector_index.revisions_metadata")
        conn.execute("UPDATE vector_index.builds SET recipe = recipe - 'language'")
        conn.execute("DELETE FROM vector_index.migrations WHERE version = 4")
    schema.install(application.url)
    assert application.search("oceans", mode="text") == ["ships"]


@pytest.mark.parametrize("mode", MODES)
def test_pages_fit_together_and_return_all_rows(application: Application, mode: str) -> None:
    """Every page is full while rows exist, no row is repeated, and none is missing."""
    application.put(*[{"id": n, "text": f"Words say {n} and {n % 7} here."} for n in range(230)])
    whole = application.search("words 3", limit=100, mode=mode)
    assert len(whole) == 100
    pages = [application.search("words 3", limit=23, offset=at, mode=mode) for at in range(0, 230, 23)]
    together = [id for page in pages for id in page]
    assert together[:100] == whole
    assert sorted(together, key=int) == [str(n) for n in range(230)]


def test_neighbouring_chunks_become_one_passage_of_the_stored_text(application: Application) -> None:
    text = "\n\n".join(f"The {n}th owl sat at the window of the {n}th house, and said so." for n in range(40))
    application.put({"id": "owls", "text": text}, *PETS)
    found = application.passages("owl at the window", limit=20)
    assert all(text[row.start : row.end] == row.text for row in found if row.document_id == "owls")
    assert any(row.chunks[0] < row.chunks[1] for row in found)
    numbers = [
        n for row in found if row.document_id == "owls" for n in range(row.chunks[0], row.chunks[1] + 1)
    ]
    assert len(numbers) == len(set(numbers))


def test_per_document_limits_the_rows_of_a_document(application: Application) -> None:
    text = "\n\n".join(f"The {n}th owl sat at the window of the {n}th house, and said so." for n in range(40))
    application.put({"id": "owls", "text": text}, *PETS)
    for mode in ("hybrid", "vector"):
        found = application.search("owl at the window", limit=4, per_document=1, mode=mode)
        assert sorted(found) == ["cats", "dogs", "owls", "ships"]


def test_a_threshold_applies_to_similarity_and_needs_vectors(application: Application) -> None:
    application.put(*PETS)
    [cats] = application.passages("Cats chase mice in the garden.", similarity_threshold=0.99)
    assert cats.document_id == "cats"
    with pytest.raises(InvalidQuery, match="similarity_threshold needs vectors"):
        SearchQuery(text="x", mode="text", similarity_threshold=0.5)
    with pytest.raises(InvalidQuery, match="mode must be one of hybrid, vector, text, not 'both'"):
        SearchQuery(text="x", mode="both")


def test_rows_below_the_threshold_do_not_count_for_a_page(application: Application) -> None:
    application.put(*[{"id": n, "text": f"{'owl ' * (n % 4)}bird number {n}"} for n in range(40)])
    near = [row for row in application.passages("owl owl bird", limit=100) if (row.similarity or 0) >= 0.5]
    assert 10 < len(near) < 40
    pages = [
        application.passages("owl owl bird", limit=7, offset=at, similarity_threshold=0.5)
        for at in range(0, 40, 7)
    ]
    assert [row.document_id for page in pages for row in page] == [row.document_id for row in near]


@given(text=st.text(), filter=filters, mode=st.sampled_from(MODES))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_question_or_filter_returns_a_row_of_another_tenant(
    tenants: Application, text: str, filter: Any, mode: str
) -> None:
    try:
        found = tenants.passages(text, filter={**filter, "owner": "ann"}, mode=mode, limit=100)
    except InvalidQuery:
        return
    assert {row.document_id for row in found} <= {"cats", "dogs"}


@pytest.fixture
def tenants(application: Application) -> Application:
    application.put(*PETS)
    application.index = replace(application.index, tenant_field="owner")
    return application
