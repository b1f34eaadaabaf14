"""Query plans of searches and of look-ups by key, at a size at which Postgres uses the indexes."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from psycopg import sql

from tests.fixtures.application import HashBackend
from worker import configuration
from worker.configuration import HNSWSettings
from worker.recipes import Recipe
from worker.store import builds, connection, filling, garbage, hnsw, publishing, queue, rarity, search, verify
from worker.store.builds import Build
from worker.store.connection import Connection
from worker.store.filters import Filter, compile_filter
from worker.store.rebuilds import Pair

DIMENSIONS, DOCUMENTS, CHUNKS = 64, 5_000, 4

LOAD = """
INSERT INTO vector_index.documents (index_id, id, head_rev) SELECT 1, n, n FROM generate_series(1, {documents}) n;
INSERT INTO vector_index.revisions (rev, doc, title, metadata, text)
SELECT doc, doc, '', jsonb_build_object('n', doc, 'tenant', doc % 1000, 'half', doc % 2), ''
FROM vector_index.documents;
INSERT INTO vector_index.served_1 (doc, live_rev, state, since) SELECT doc, doc, 'live', now()
FROM vector_index.documents;
INSERT INTO vector_index.chunks_1 (rev, ordinal, hash, start, "end", tokens, heading, text, lexemes)
SELECT doc, o, sha256((doc * 10 + o)::text::bytea), 0, 1, 9, '', words, to_tsvector('english', words)
FROM vector_index.documents, generate_series(0, {chunks} - 1) o,
    LATERAL (SELECT 'word' || doc % 700 || ' of common words, n' || doc AS words) AS made;
INSERT INTO vector_index.embeddings_1 (hash, embedding)
SELECT hash, (SELECT array_agg(sin(('x' || substr(md5(hash::text || i), 1, 8))::bit(32)::int))
    FROM generate_series(1, {dimensions}) i)::vector FROM vector_index.chunks_1;
VACUUM ANALYZE
"""


@pytest.fixture(scope="module")
def loaded(services: Any, administrator: Any, template: str) -> Iterator[str]:
    """20,000 chunks with the vector index that the task builds."""
    from tests.fixtures.services import fresh_database

    with fresh_database(services, administrator, template) as url, pytest.MonkeyPatch.context() as patch:
        index = configuration.load({}).index("default")
        backend = HashBackend(dimensions=DIMENSIONS)
        with connection.checkout(url) as conn:
            builds.ensure(conn, "default", lambda: Recipe.of(index, backend).as_json())
            text = LOAD.format(documents=DOCUMENTS, chunks=CHUNKS, dimensions=DIMENSIONS)
            for statement in text.split(";"):
                conn.execute(statement.encode())
            build = live(conn)
            conn.execute("UPDATE vector_index.builds SET loading_at = 'epoch', seen_at = 'epoch'")
            assert hnsw.look(conn, build, HNSWSettings()) is None
            patch.setattr(hnsw, "MIN_NUMBERS", DOCUMENTS * CHUNKS * hnsw.MIN_WIDTH)
            assert hnsw.look(conn, build, HNSWSettings()) == "create"
            # as an interrupted task leaves it
            conn.execute(
                "CREATE INDEX embeddings_1_hnsw ON vector_index.embeddings_1 USING btree (hash) WHERE false"
            )
        assert hnsw.apply(url, build, HNSWSettings()) == "create"
        assert hnsw.apply(url, build, HNSWSettings()) is None
        yield url
        connection.close_pools()


@pytest.fixture
def conn(loaded: str) -> Iterator[Connection]:
    with connection.checkout(loaded) as conn:
        yield conn


def live(conn: Connection) -> Build:
    build = builds.live(conn, "default")
    assert build is not None
    return build


def plans(conn: Connection, monkeypatch: pytest.MonkeyPatch, ask: Any) -> list[str]:
    """Run a function; return the plans of all its statements."""
    found: list[str] = []
    execute = type(conn).execute

    def explaining(self: Connection, query: Any, params: Any = None, **options: Any) -> Any:
        if isinstance(query, sql.Composed):
            plan = execute(self, sql.SQL("EXPLAIN (FORMAT JSON) {}").format(query), params).fetchone()
            found.append(json.dumps(plan[0]))
        return execute(self, query, params, **options)

    monkeypatch.setattr(type(conn), "execute", explaining)
    ask()
    return found


def scanned(plan: str) -> set[str]:
    """The tables with a sequential scan."""
    return set(re.findall(r'"Node Type": "Seq Scan".*?"Relation Name": "(\w+)"', plan))


VECTOR = np.sin(np.arange(DIMENSIONS)).astype(np.float32)
ALL = compile_filter(None)


def test_search_without_a_filter_scans_the_vector_index(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    [plan] = plans(
        conn, monkeypatch, lambda: search.nearest(conn, live(conn), VECTOR, candidates=10, where=ALL)
    )
    assert "embeddings_1_hnsw" in plan
    assert not scanned(plan)


def test_a_search_right_after_a_load_walks_no_documents(
    databases: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without statistics, Postgres expects that many chunks share a content."""
    url, backend = databases(), HashBackend(dimensions=DIMENSIONS)
    index = configuration.load({}).index("default")
    with connection.checkout(url) as conn:
        builds.ensure(conn, "default", lambda: Recipe.of(index, backend).as_json())
        conn.execute("ALTER TABLE vector_index.chunks_1 SET (autovacuum_enabled = false)")
        conn.execute("ALTER TABLE vector_index.served_1 SET (autovacuum_enabled = false)")
        *statements, _ = LOAD.format(documents=1_000, chunks=CHUNKS, dimensions=DIMENSIONS).split(";")
        for statement in statements:
            conn.execute(statement.encode())
        ask = partial(search.nearest, conn, live(conn), VECTOR, candidates=100, where=ALL)
        [plan] = plans(conn, monkeypatch, ask)
    assert "served_1_live_rev_idx" in plan
    assert "served_1_pkey" not in plan


PREPARED = """
SELECT count(*) FILTER (WHERE statement LIKE %s), sum(generic_plans) FILTER (WHERE statement LIKE %s)::int
FROM pg_prepared_statements
"""
SCANS = "SELECT relname, seq_scan FROM pg_stat_xact_user_tables WHERE schemaname = 'vector_index' ORDER BY relname"


@pytest.mark.parametrize("mode", ["vector", "text"])
def test_searches_of_a_large_index_share_a_plan_that_scans_no_table(conn: Connection, mode: str) -> None:
    build, found = live(conn), []
    conn.execute("DEALLOCATE ALL")
    with search.snapshot(conn):
        before = conn.execute(SCANS).fetchall()
        for n in range(1, 13):
            words = rarity.read_words(conn, build, f"word{n} n{n}")
            if mode == "vector":
                nearest = search.nearest(conn, build, VECTOR + n, candidates=10, where=ALL, words=words)
                found.append(nearest.hits)
            else:
                found.append(search.lexical(conn, build, words, VECTOR, candidates=10, where=ALL).hits)
        assert conn.execute(SCANS).fetchall() == before
    pattern = "%e.embedding%" if mode == "vector" else "%visible%"
    [(statements, shared)] = conn.execute(PREPARED, [pattern, pattern])
    assert statements == 1
    # Postgres makes five plans for their values first; by words, those may stay cheaper than one for any words
    assert shared == 7 or mode == "text"
    assert len({tuple(hits) for hits in found}) == 12


def test_only_the_common_searches_of_a_large_index_are_prepared(conn: Connection) -> None:
    def prepared(build: Build, where: Filter, question: str) -> bool:
        conn.execute("DEALLOCATE ALL")
        conn._prepared.clear()  # psycopg's own list of what it has prepared
        with search.snapshot(conn):
            words = rarity.read_words(conn, build, question)
            search.lexical(conn, build, words, VECTOR, candidates=10, where=where)
        row = conn.execute(PREPARED, ["%visible%", "%"]).fetchone()
        return row is not None and row[0] > 0

    build = live(conn)
    assert prepared(build, ALL, "word7 n7")
    assert not prepared(replace(build, is_indexed=False), ALL, "word7 n7")
    assert not prepared(build, compile_filter({"tenant": 7}), "word7 n7")
    assert not prepared(build, ALL, " ".join(f"word{n}" for n in range(9)))


@pytest.mark.slow
def test_a_narrow_filter_uses_the_inverted_index_and_is_exact(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for filter in ({"tenant": 7}, {"tenant": {"$in": list(range(10))}}):
        where = compile_filter(filter)
        [plan] = plans(
            conn,
            monkeypatch,
            lambda w=where: search.nearest(conn, live(conn), VECTOR, candidates=10, where=w),
        )
        assert "revisions_metadata" in plan
        assert "hnsw" not in plan
        monkeypatch.undo()


def test_text_search_uses_the_inverted_index(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> None:
        words = rarity.read_words(conn, live(conn), "word77 n4711")
        assert len(words.finding) == 2
        search.lexical(conn, live(conn), words, VECTOR, candidates=10, where=ALL)

    found = [plan for plan in plans(conn, monkeypatch, ask) if "chunks_1_lexemes" in plan]
    assert len(found) == 2
    for plan in found:
        assert not scanned(plan) & {"chunks_1", "embeddings_1"}


def test_an_index_of_bits_is_scanned_and_its_best_are_compared_again(
    conn: Connection, loaded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = live(conn)
    design = HNSWSettings(m=4, ef_construction=8, quantisation="binary")
    with connection.connect(loaded) as own:
        hnsw.create(own, build, design, vectors=DOCUMENTS * CHUNKS)
    try:
        [plan] = plans(
            conn, monkeypatch, lambda: search.nearest(conn, live(conn), VECTOR, candidates=10, where=ALL)
        )
        assert "embeddings_1_hnsw_4_8_binary" in plan
        assert not scanned(plan)
    finally:
        monkeypatch.undo()
        conn.execute("UPDATE vector_index.builds SET quantised = false")
        conn.execute("DROP INDEX vector_index.embeddings_1_hnsw_4_8_binary")


COSTS = ("parallel_setup_cost", "parallel_tuple_cost", "min_parallel_index_scan_size")


@pytest.fixture
def queued(conn: Connection) -> Iterator[None]:
    """2,000 contents in the queue, and helpers for every plan that can have them."""
    conn.execute(
        "INSERT INTO vector_index.pending_1 (hash, tokens, visible_at) "
        "SELECT hash, 9, now() FROM vector_index.chunks_1 LIMIT 2000"
    )
    for cost in COSTS:
        conn.execute(f"SET {cost} = 0".encode())
    yield
    for cost in COSTS:
        conn.execute(f"RESET {cost}".encode())
    conn.execute("DELETE FROM vector_index.pending_1")


@pytest.mark.usefixtures("queued")
def test_claiming_saving_and_publishing_look_up_rows_by_key_in_one_process(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, vectors = live(conn), np.ones((64, DIMENSIONS), dtype=np.float32)

    def embed() -> None:
        claim = queue.claim(conn, build, limit=64, fill=len, lease_seconds=60.0)
        assert claim is not None
        queue.save(conn, build, claim.saved, vectors)  # which they have already
        publishing.publish(conn, build, [1, *publishing.documents_waiting_for(conn, build, claim.saved)])

    found = plans(conn, monkeypatch, embed)
    assert any("chunks_1_hash_idx" in plan and "served_1_want_rev_idx" in plan for plan in found)
    tables = {"chunks_1", "embeddings_1", "pending_1", "served_1"}
    assert [plan for plan in found if "Gather" in plan or scanned(plan) & tables] == []


def rows_read(plan: Any) -> Iterator[tuple[str, float]]:
    """Each table that a plan has read, with the number of rows."""
    if "Relation Name" in plan:
        rows = plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)
        yield plan["Relation Name"], rows * plan["Actual Loops"]
    for child in plan.get("Plans", ()):
        yield from rows_read(child)


def reading(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, walk: Callable[[], Any], parameter: str
) -> list[tuple[str, float]]:
    """Run a walk; return each table that its statements with this parameter have read, with the number of rows."""
    found: list[tuple[str, float]] = []
    execute = type(conn).execute

    def explaining(self: Connection, query: Any, params: Any = None, **options: Any) -> Any:
        if isinstance(query, sql.Composed) and parameter in (params or {}):
            explained = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) {}").format(query)
            [((plan,),)] = execute(self, explained, params).fetchall()
            found.extend(rows_read(plan["Plan"]))
        return execute(self, query, params, **options)

    monkeypatch.setattr(type(conn), "execute", explaining)
    walk()
    monkeypatch.undo()
    return found


WALKS: dict[str, Callable[[Connection, Build], Any]] = {
    check.name: partial(verify.find, check=check, max_attempts=5) for check in verify.CHECKS if check.over
} | {
    "unreferenced_vectors": garbage.unreferenced_embeddings,
    "unreferenced_revisions": garbage.unreferenced_revisions,
}


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_in_slices_reads_no_other_table_as_a_whole_for_each_slice(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It would take the square of their size."""

    def walk() -> None:
        assert list(WALKS[name](conn, live(conn))) == []  # nothing is wrong

    read = reading(conn, monkeypatch, walk, "until")
    assert read
    for table, rows in read:
        of_document = CHUNKS if table.startswith(("chunks", "embeddings")) else 1
        assert rows <= garbage.SLICE * of_document, (table, rows)


def test_filling_a_build_reads_no_table_as_a_whole_for_each_page(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Pair(live=live(conn), new=replace(live(conn), build=2))
    with conn.transaction(force_rollback=True):
        conn.execute("CREATE TABLE vector_index.served_2 (LIKE vector_index.served_1 INCLUDING ALL)")
        conn.execute(
            "INSERT INTO vector_index.served_2 SELECT * FROM vector_index.served_1 WHERE doc <= 2000"
        )
        conn.execute("ANALYZE vector_index.served_2")
        found: list[Any] = []
        read = reading(
            conn,
            monkeypatch,
            lambda: found.extend(filling.unfilled(conn, pair, after=2000, limit=100)),
            "after",
        )
    assert [each.doc for each in found] == list(range(2001, 2101))
    assert {table for table, _ in read} == {"documents", "served_1", "served_2", "revisions"}
    assert max(rows for _, rows in read) <= 101
