"""A sample of an index under other settings: searchable for its session, and seen by nobody else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.application import LONG, Application, HashBackend, faulty
from tests.fixtures.rebuilding import ChangingApplication
from tests.fixtures.system import eventually
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge
from worker.indexing.sampling import Estimate, Sample
from worker.search import retrieval
from worker.search.embedding import embed_questions
from worker.search.queries import SearchQuery
from worker.store import connection, samples
from worker.store.builds import Build


@pytest.fixture
def shop(application: Application) -> ChangingApplication:
    shop = ChangingApplication(application)
    shop.put(*({"id": str(n), "text": f"Book number {n} tells of the year {1900 + n}."} for n in range(30)))
    return shop


@contextmanager
def sampled(
    shop: ChangingApplication, *, size: int = 30, ids: Sequence[str] = (), embeds: bool = True
) -> Iterator[Sample]:
    live = shop.live_build()
    with connection.session(shop.url) as session:
        make = Sample.searchable if embeds else Sample.estimating
        sample = make(shop.target, session, live)
        sample.run(samples.choose(session, live, ids, limit=size), lambda documents: None)
        yield sample


def estimate(sample: Sample) -> Estimate:
    return sample.estimate(samples.totals(sample.connection, sample.live))


def found(
    shop: ChangingApplication, sample: Sample, build: Build | None, text: str, **options: Any
) -> list[str]:
    assert build is not None
    query = SearchQuery(text=text, **options)
    vectors = None if query.mode == "text" else embed_questions(shop.target, build, [text])
    weights = shop.target.settings.hybrid_weights
    return retrieval.rank_documents(sample.connection, build, query, vectors, weights=weights)


def sent(backend: HashBackend) -> list[str]:
    return [text for texts in backend.requests for text in texts]


def test_a_sample_of_all_documents_ranks_them_as_the_index_before_and_after_its_rebuild(
    shop: ChangingApplication,
) -> None:
    def ranked(mode: str) -> list[str]:
        return shop.search("year 1907", mode=mode, per_document=1, limit=10)

    modes = ("hybrid", "vector", "text")
    before = {mode: ranked(mode) for mode in modes}
    shop.change(HashBackend(dimensions=24))
    with sampled(shop) as sample:
        options = {"limit": 10, "per_document": 1}
        old = {mode: found(shop, sample, sample.old, "year 1907", mode=mode, **options) for mode in modes}
        new = {mode: found(shop, sample, sample.new, "year 1907", mode=mode, **options) for mode in modes}
    assert old == before
    shop.rebuild()
    assert new == {mode: ranked(mode) for mode in modes}


def test_both_samples_have_the_same_documents(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    with sampled(shop, size=8, ids=["3", "17"]) as sample:
        old, new = (set(found(shop, sample, build, "book", limit=100)) for build in (sample.old, sample.new))
        assert old == new
        assert len(old) == 8
        assert {"3", "17"} <= old
        assert (sample.documents, sample.inputs) == (8, 8)


def test_a_sample_is_the_same_each_time(shop: ChangingApplication) -> None:
    live = shop.live_build()
    with connection.checkout(shop.url) as conn:
        first = samples.choose(conn, live, [], limit=5)
        assert samples.choose(conn, live, [], limit=5) == first
        assert samples.choose(conn, live, [], limit=9)[:5] == first


def test_nothing_of_a_sample_is_seen_or_left(shop: ChangingApplication) -> None:
    tables = (
        "SELECT relname FROM pg_class WHERE relname ~ '^(chunks|embeddings|pending|served)_' ORDER BY relname"
    )
    before = shop.rows(tables)
    shop.change(HashBackend(dimensions=24))
    with sampled(shop) as sample:
        assert shop.states() == [(1, "live")]
        assert shop.rows("SELECT count(*) FROM vector_index.embeddings_1") == [(30,)]
        with connection.checkout(shop.url) as conn, pytest.raises(Exception, match="pg_temp"):
            conn.execute(sample.new.sql("statistics.sql", "analyze"))
    assert shop.rows("SELECT count(*) FROM vector_index.builds") == [(1,)]
    eventually(lambda: shop.rows(tables) == before)  # once the server has ended the session


def test_vectors_that_both_recipes_share_are_not_sent(shop: ChangingApplication) -> None:
    shop.put({"id": "long", "text": LONG})
    before = shop.sent
    shop.change(chunk_tokens=60, language="german")
    with sampled(shop, size=31) as sample:
        texts = sent(shop.backend)[before:]
        assert 0 < len(texts) == sample.inputs < sample.chunks
        assert sample.reused == 30
        assert found(shop, sample, sample.new, "number 33 follows")[0] == "long"
        assert estimate(sample).inputs == len(texts)


def test_another_language_alone_sends_no_document(shop: ChangingApplication) -> None:
    before = shop.sent
    shop.change(language="german")
    with sampled(shop) as sample:
        assert shop.sent == before
        figures = estimate(sample)
        assert (figures.tokens, figures.requests, figures.reused) == (0, 0, 1.0)
        assert figures.seconds is not None


def test_an_estimate_alone_sends_nothing(shop: ChangingApplication) -> None:
    wider = HashBackend(dimensions=24)
    shop.change(wider)
    with sampled(shop, size=10, embeds=False) as sample:
        assert not wider.requests
        assert sample.documents == 10
        figures = estimate(sample)
        assert figures.documents == 30
        assert figures.seconds is None


def test_the_estimate_of_a_whole_index_is_what_its_rebuild_sends(shop: ChangingApplication) -> None:
    shop.put({"id": "long", "text": LONG})
    wider = HashBackend(dimensions=24)
    shop.change(wider)
    with sampled(shop, size=100, embeds=False) as sample:
        figures = estimate(sample)
    shop.rebuild()
    assert figures.inputs == len(sent(wider))
    assert figures.tokens == sum(wider.count_tokens(text) for text in sent(wider))
    assert figures.requests <= len(wider.requests)


def test_a_part_of_an_index_is_scaled_up(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    with sampled(shop, size=100, embeds=False) as whole, sampled(shop, size=10, embeds=False) as part:
        assert estimate(part).tokens == pytest.approx(estimate(whole).tokens, rel=0.05)


def test_limits_of_the_backend_lengthen_the_estimated_time(shop: ChangingApplication) -> None:
    wider = HashBackend(dimensions=24)
    limited = replace(shop.index.embedding_backend, tokens_per_minute=10)
    shop.change(wider, embedding_backend=limited)
    with sampled(shop) as sample:
        figures = estimate(sample)
        assert figures.seconds is not None
        assert figures.seconds >= figures.tokens / 10 * 60


def test_a_document_that_the_new_model_refuses_is_named(shop: ChangingApplication) -> None:
    wider = HashBackend(dimensions=24)
    faulty(wider, lambda texts: Refused("too odd") if any("number 3 " in text for text in texts) else None)
    shop.change(wider)
    with sampled(shop) as sample:
        assert sample.failed == {"3": "too odd"}
        assert "3" not in found(shop, sample, sample.new, "year 1903", limit=100)
        assert found(shop, sample, sample.old, "year 1903")[0] == "3"


def test_a_text_that_is_too_large_for_the_new_model_is_cut(shop: ChangingApplication) -> None:
    shop.put({"id": "long", "text": LONG})
    wider = HashBackend(dimensions=24, chunk_tokens=100)
    faulty(wider, lambda texts: TooLarge("long") if any(len(text.split()) > 60 for text in texts) else None)
    shop.change(wider)
    with sampled(shop, size=31) as sample:
        assert not sample.failed
        assert found(shop, sample, sample.new, "number 33 follows")[0] == "long"


def test_a_provider_that_is_away_ends_the_sample(shop: ChangingApplication) -> None:
    wider = HashBackend(dimensions=24)
    faulty(wider, lambda texts: ProviderUnavailable("away"), words=True)
    shop.change(wider)
    with pytest.raises(ProviderUnavailable, match="away"), sampled(shop):
        pass
    assert shop.states() == [(1, "live")]


def test_a_text_is_sent_again_after_an_answer_was_missed(
    shop: ChangingApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.indexing.draining.backoff.BACKOFF_SECONDS", 0.01)
    wider = HashBackend(dimensions=24)
    misses = iter([ProviderUnavailable("one"), ProviderUnavailable("two", rate_limited=True)])
    faulty(wider, lambda texts: next(misses, None))
    shop.change(wider)
    with sampled(shop) as sample:
        assert not sample.failed
        assert len(found(shop, sample, sample.new, "book", limit=100)) == 30


def test_a_role_without_temporary_tables_is_told(shop: ChangingApplication) -> None:
    shop.change(HashBackend(dimensions=24))
    live = shop.live_build()
    with connection.session(shop.url) as session:
        [(name,)] = session.execute("SELECT current_database()")
        role = f"visitor_{name}"
        session.execute(f'CREATE ROLE "{role}"'.encode())
        try:
            session.execute(f'REVOKE TEMPORARY ON DATABASE "{name}" FROM PUBLIC'.encode())
            session.execute(f'GRANT USAGE ON SCHEMA vector_index TO "{role}"'.encode())
            session.execute(f'SET ROLE "{role}"'.encode())
            with pytest.raises(SettingsError, match="GRANT TEMPORARY"):
                samples.create(session, live, live.recipe, number=samples.NEW)
        finally:
            session.execute(
                f'RESET ROLE; REVOKE USAGE ON SCHEMA vector_index FROM "{role}"; DROP ROLE "{role}"'.encode()
            )
