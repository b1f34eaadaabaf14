"""Deleted text is gone from every table, from the files of the tables, and from the outbox."""

import random
import string
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.fixtures.application import Application, during_request, faulty
from tests.fixtures.system import eventually
from tests.fixtures.verification import found, verify
from worker.errors import InvalidQuery, Refused
from worker.indexing import staging
from worker.recipes import Recipe
from worker.store import builds, connection, deletion, garbage, jobs
from worker.store.filters import compile_filter
from worker.store.statements import statements

MARKER = "xqjzkvw"  # a word that no stemmer changes and no other word contains
FORGET = {"user": MARKER}

TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'vector_index'::regnamespace AND relkind = 'r' ORDER BY 1"
# tables with their indexes, and TOAST tables with theirs
FILES = """
WITH ours AS (
    SELECT oid, reltoastrelid FROM pg_class WHERE relnamespace = 'vector_index'::regnamespace
), every AS (
    SELECT oid FROM ours UNION SELECT reltoastrelid FROM ours
    UNION SELECT indexrelid FROM pg_index JOIN ours ON indrelid = reltoastrelid
)
SELECT c.relname, pg_relation_filepath(c.oid) FROM every JOIN pg_class c USING (oid) WHERE c.relfilenode <> 0
"""


def enqueue(application: Application, id: str, text: str, metadata: dict[str, Any], **options: Any) -> None:
    with psycopg.connect(application.url, autocommit=True) as conn:
        conn.execute(
            "SELECT vector_index.enqueue_document('default', %s::text, %s, %s, %s, %s)",
            [id, text, options.get("title", ""), Jsonb(metadata), options.get("version")],
        )


def delete_matching(application: Application, filter: dict[str, Any], **options: Any) -> staging.Deleted:
    task_id = options.get("task_id", str(uuid4()))
    return staging.delete_matching(application.target, task_id, filter, options.get("version"))


def tables_with_marker(application: Application) -> set[str]:
    """Tables of the schema with a row that has the marker in any column."""
    with connection.checkout(application.url) as conn:
        tables = [row[0] for row in conn.execute(TABLES)]
        marked = {
            table
            for table in tables
            if conn.execute(
                f"SELECT FROM vector_index.{table} t WHERE t::text ILIKE '%{MARKER}%' LIMIT 1".encode()
            ).rowcount
        }
    assert len(tables) > 12
    return marked


def vacuum(application: Application) -> None:
    """Vacuum until no dead row is left; an older transaction, such as an autovacuum, keeps dead rows alive."""
    with connection.checkout(application.url) as conn:
        for (table,) in conn.execute(TABLES).fetchall():
            conn.execute(f"VACUUM (FULL, ANALYZE) vector_index.{table}".encode())


def files_with_marker(application: Application) -> set[str]:
    """Tables, indexes and TOAST tables of the schema whose files contain the marker."""
    with connection.checkout(application.url) as conn:
        conn.execute("CHECKPOINT")
        folder = Path(psutil.Process(conn.info.backend_pid).cwd())  # Postgres works in its data folder
        files = conn.execute(FILES).fetchall()
    return {name for name, path in files if MARKER.encode() in (folder / path).read_bytes()}


def noise(characters: int) -> str:
    """Random text that does not compress."""
    draw = random.Random(7)
    return " ".join("".join(draw.choices(string.ascii_letters, k=9)) for _ in range(characters // 10))


def secret(id: str, *, words: str = "", large: bool = False) -> dict[str, Any]:
    """A document with the marker in every field."""
    text = f"# About {MARKER}\n\nWhat {MARKER} said. {words}\n\n" + (noise(6_000) if large else "")
    return {
        "id": id,
        "title": f"Title {MARKER}",
        "text": text + MARKER,
        "metadata": FORGET | {"note": f"of {MARKER}"},
    }


@pytest.fixture
def plain(application: Application) -> Application:
    """An application whose tables are not compressed, so that text can be found in their files."""
    with connection.checkout(application.url) as conn:
        builds.ensure(conn, "default", lambda: Recipe.of(application.index, application.backend).as_json())
        for table, columns in {
            "revisions": ("title", "metadata", "text"),
            "chunks_1": ("heading", "text", "lexemes"),
            "served_1": ("error",),
            "outbox": ("text", "title", "metadata"),
        }.items():
            for column in columns:
                alter = f"ALTER TABLE vector_index.{table} ALTER COLUMN {column} SET STORAGE EXTERNAL"
                conn.execute(alter.encode())
    return application


def test_deleted_text_is_in_no_table_and_in_no_file(plain: Application) -> None:
    """Live, replaced, pending, failed, retired, rejected and enqueued texts are deleted, and nothing else."""
    shared = "These words are of two tenants."
    plain.put(
        secret("live", words=shared), secret("large", large=True), secret("replaced"), secret("emptied")
    )
    plain.put({"id": "other", "text": shared, "metadata": {"user": "other"}})
    plain.put(secret("replaced", words="Once more."), secret("emptied") | {"text": ""})
    retire(plain)
    refusing = [True]
    faulty(plain.backend, lambda texts: Refused(f"refused {MARKER}") if refusing else None)
    plain.put(secret("failed", words="no good"))
    refusing.clear()
    plain.stage(secret("pending", words="Not yet."), secret("replaced", words="Thrice."))
    enqueue(plain, "enqueued", f"Enqueued {MARKER} {noise(3_000)} {MARKER}", FORGET, title=MARKER)
    enqueue(plain, "live", f"Again {MARKER}", FORGET)
    plain.stage({"id": "bad", "text": "x", MARKER: 1})
    before = {"revisions", "chunks_1", "chunks_2", "served_1", "builds", "outbox", "jobs", "refusals"}
    assert tables_with_marker(plain) == before
    in_files = files_with_marker(plain)
    assert in_files > before
    assert any(name.startswith("pg_toast") for name in in_files)
    assert any(name.startswith("chunks_1_lexemes") for name in in_files)

    assert delete_matching(plain, FORGET) == staging.Deleted(deleted=6)
    # a refused document has no metadata: the filter misses it, its id does not
    assert tables_with_marker(plain) == {"jobs", "refusals"}
    plain.delete("bad")
    assert tables_with_marker(plain) == set()
    eventually(lambda: [vacuum(plain), files_with_marker(plain)][1] == set())
    with connection.checkout(plain.url) as conn:
        stats = "SELECT count(*) FROM pg_stats WHERE schemaname = 'vector_index' AND pg_stats::text LIKE %s"
        assert conn.execute(stats, [f"%{MARKER}%"]).fetchone() == (0,)

    requests = len(plain.backend.requests)
    plain.drainer.drain()
    assert plain.search("words of two tenants") == ["other"]
    assert len(plain.backend.requests) == requests + 1  # the one of the question
    assert set(found(verify(plain))) <= {
        "unreferenced_vectors"
    }  # vectors of replaced texts; a collection deletes them
    with connection.checkout(plain.url) as conn:
        garbage.collect_index(conn, builds.index_key(conn, "default"))
    assert found(verify(plain)) == {}


def retire(application: Application) -> None:
    """Add a retired build with the rows of the live one."""
    with connection.checkout(application.url) as conn:
        live = builds.live(conn, "default")
        assert live is not None
        with builds.locked(conn, live.index_id, exclusive=True):
            build = builds.create(conn, "default", live.recipe, state="retired")
        for table in ("served", "embeddings", "chunks"):
            conn.execute(
                f"INSERT INTO vector_index.{table}_{build.build} TABLE vector_index.{table}_1".encode()
            )


def test_the_vector_is_deleted_with_the_last_document_of_its_content(application: Application) -> None:
    application.put({"id": "a", "text": "Shared words."}, {"id": "b", "text": "Shared words."})
    application.delete("a")
    assert application.search("shared words") == ["b"]
    application.delete("b")
    assert application.rows("SELECT count(*) FROM vector_index.embeddings_1") == [(0,)]


def test_a_vector_that_arrives_after_the_deletion_is_not_kept(application: Application) -> None:
    application.stage({"id": "a", "text": "Words of one."}, {"id": "b", "text": "Words of the other."})

    def delete() -> None:
        application.delete("a")
        assert application.rows("SELECT count(*) FROM vector_index.pending_1") == [(1,)]

    during_request(application.backend, delete)
    assert application.drainer.step()
    assert application.rows("SELECT count(*) FROM vector_index.embeddings_1") == [(1,)]
    assert application.search("words") == ["b"]
    # a document that is sent again is embedded again
    assert application.put({"id": "a", "text": "Words of one."})["indexed"] == 1


def test_the_next_collection_deletes_vectors_of_replaced_texts(application: Application) -> None:
    """A collection is due ten minutes after a deletion. Without one, it keeps the vectors for reuse."""
    application.put(*[{"id": n, "text": f"Words number {n}."} for n in range(10)])
    application.put({"id": 1, "text": "Words number 2."})

    def collect() -> garbage.Collected:
        with connection.checkout(application.url) as conn:
            return garbage.collect_index(conn, builds.index_key(conn, "default"))

    assert collect() == garbage.Collected(kept=1, revisions=1)
    application.delete("1")
    assert application.rows("SELECT erased_at IS NULL FROM vector_index.indexes") == [(False,)]
    assert collect() == garbage.Collected(embeddings=1)
    assert application.rows("SELECT erased_at IS NULL FROM vector_index.indexes") == [(True,)]


def test_a_tombstone_is_deleted_after_thirty_days(application: Application) -> None:
    application.put(
        {"id": "a", "text": "Words."}, {"id": "b", "text": "Words."}, {"id": "c", "text": "Words."}
    )
    application.delete("a", "b")

    def age(id: str, days: int) -> None:
        aged = (
            f"UPDATE vector_index.documents SET changed_at = now() - interval '{days} days' WHERE id = '{id}'"
        )
        application.rows(f"{aged} RETURNING 1")

    for id, days in {"a": 31, "b": 29, "c": 31}.items():
        age(id, days)
    with connection.checkout(application.url) as conn:
        assert garbage.collect_index(conn, builds.index_key(conn, "default")).tombstones == 1
    assert application.rows("SELECT id FROM vector_index.documents ORDER BY id") == [("b",), ("c",)]
    assert application.search("words") == ["c"]


# Deletions and the outbox


def enqueued(application: Application) -> list[tuple[Any, ...]]:
    return application.rows("SELECT id, text FROM vector_index.outbox WHERE NOT deleted ORDER BY seq")


def test_a_deletion_removes_enqueued_texts_of_the_document_unless_their_version_is_newer(
    application: Application,
) -> None:
    application.put({"id": "a", "text": "Words."})
    for id, version in (("a", 3), ("a", 5), ("a", None), ("b", None), ("other", None)):
        enqueue(application, id, f"{id} {version}", {}, version=version)
    application.delete("a", "b", version=4)
    # a row without a version takes that of the row before it
    assert enqueued(application) == [("a", "a 5"), ("a", "a None"), ("other", "other None")]
    application.delete("a")
    assert enqueued(application) == [("other", "other None")]


def test_a_filter_that_matches_the_newest_enqueued_text_deletes_the_document_too(
    application: Application,
) -> None:
    mine, yours = {"user": 1}, {"user": 2}
    application.put(*[{"id": id, "text": "Words.", "metadata": yours} for id in ("moves", "stays", "moved")])
    enqueue(
        application, "moves", "newest and mine", mine
    )  # the newest text matches the filter, so the document is deleted
    enqueue(application, "stays", "was mine for a moment", mine)
    enqueue(application, "stays", "newest and yours", yours)
    enqueue(application, "new", "not there yet", mine)
    assert delete_matching(application, mine) == staging.Deleted(deleted=1)
    assert enqueued(application) == [("stays", "newest and yours")]
    assert [application.state(id)["state"] for id in ("moves", "stays", "moved")] == [
        "absent",
        "live",
        "live",
    ]


@pytest.mark.parametrize("by", ["id", "filter"])
def test_deleting_an_enqueued_text_leaves_a_tombstone_for_older_versions(
    application: Application, by: str
) -> None:
    """As if it had been staged: no older text replaces it, for known and unknown documents."""
    mine = {"user": 1}
    application.put({"id": "known", "text": "Words.", "version": 5, "metadata": mine})
    for id in ("known", "new"):
        enqueue(application, id, "Newer.", mine, version=7)
    if by == "id":
        application.delete("known", "new")
    else:
        delete_matching(application, mine)
    late = [{"id": id, "text": "Late.", "version": 6} for id in ("known", "new")]
    assert application.put(*late)["stale"] == 2
    assert application.put(*[document | {"version": 7} for document in late])["indexed"] == 2


def test_a_deletion_by_filter_keeps_enqueued_texts_of_a_newer_version(application: Application) -> None:
    mine = {"user": 1}
    application.put({"id": "a", "text": "Words.", "version": 3, "metadata": mine})
    for version in (4, 6):
        enqueue(application, "a", f"Version {version}.", mine, version=version)
    assert delete_matching(application, mine, version=5) == staging.Deleted(deleted=1)
    assert enqueued(application) == [("a", "Version 6.")]


def test_a_stale_deletion_keeps_enqueued_texts(
    application: Application,
) -> None:
    application.put({"id": "a", "text": "Words.", "version": 9})
    enqueue(application, "a", "Without a version.", {})
    assert application.delete("a", version=5) == staging.Deleted(stale=1)
    assert enqueued(application) == [("a", "Without a version.")]


@pytest.fixture
def crowded(application: Application) -> Application:
    """3,000 rows in an outbox without statistics in Postgres."""
    with connection.checkout(application.url) as conn:
        builds.register(conn, "default")
        conn.execute("ALTER TABLE vector_index.outbox SET (autovacuum_enabled = off)")
        conn.execute(
            "SELECT vector_index.enqueue_document('default', n, 'Words.', '', jsonb_build_object('user', n % 2)) "
            "FROM generate_series(1, 3000) n"
        )
    return application


def plan(application: Application, text: sql.Composable, values: dict[str, Any]) -> str:
    with connection.checkout(application.url) as conn:
        return "\n".join(row[0] for row in conn.execute(sql.SQL("EXPLAIN ") + text, values))


@pytest.mark.parametrize("key", ["id", "seq"])
def test_deleting_enqueued_texts_reads_only_their_rows(crowded: Application, key: str) -> None:
    text = sql.SQL(statements("deletion.sql")["delete_enqueued"]).format(key=sql.Identifier(key))
    keys = [1, 2] if key == "seq" else ["1", "2"]
    told = plan(crowded, text, {"index_id": 1, "keys": keys, "version": None})
    assert "Seq Scan on outbox" not in told
    assert "BitmapAnd" not in told


def test_a_filter_finds_the_newest_row_of_a_document_by_its_id(crowded: Application) -> None:
    """With a scan of all rows per document, 200,000 rows took 54 s; now they take 0.7 s."""
    condition, parameters = compile_filter({"user": 1}, tenant_field=None)
    text = sql.SQL(statements("selection.sql")["enqueued"]).format(filter=condition)
    told = plan(crowded, text, {"index_id": 1, "name": "default", "after": "", "limit": 100, **parameters})
    looks = told[told.index("SubPlan") :]
    assert looks.count("Index Cond: ((index_name = 'default'::text) AND (id = m.id))") == 2


def test_a_deletion_removes_texts_enqueued_before_the_index_exists(application: Application) -> None:
    enqueue(application, "a", "Words.", {"user": 1})
    enqueue(application, "b", "Words.", {"user": 2})
    assert delete_matching(application, {"user": 1}) == staging.Deleted()
    assert enqueued(application) == [("b", "Words.")]
    assert application.delete("b") == staging.Deleted()
    assert enqueued(application) == []


def test_deletions_of_a_reindexing_keep_enqueued_texts(application: Application) -> None:
    """They were enqueued after the source was read."""
    application.put({"id": "a", "text": "Words."})
    enqueue(application, "a", "Newer words.", {})
    with connection.checkout(application.url) as conn:
        index_id = builds.index_key(conn, "default")
        [(head,)] = conn.execute("SELECT head_rev FROM vector_index.documents").fetchall()
        job = jobs.JobSlice(task_id="reindex", slice=0, slices=1, index_id=index_id)
        assert deletion.delete(conn, job, ["a"], None, heads={"a": head})["deleted"] == 1
    assert enqueued(application) == [("a", "Newer words.")]


# Races


def test_a_redelivered_deletion_continues_where_it_was_interrupted(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application.put(*[{"id": n, "text": f"Words number {n}.", "metadata": {"old": True}} for n in range(250)])
    delete, done = deletion.delete, []

    def dying(*args: Any, **options: Any) -> Any:
        if len(done) == 1:
            raise SystemExit
        done.append(delete(*args, **options))
        return done[-1]

    monkeypatch.setattr(deletion, "delete", dying)
    with pytest.raises(SystemExit):
        delete_matching(application, {"old": True}, task_id="forget")
    monkeypatch.undo()
    for _ in range(2):
        assert delete_matching(application, {"old": True}, task_id="forget") == staging.Deleted(deleted=250)
    assert application.rows("SELECT count(*) FROM vector_index.embeddings_1") == [(0,)]


@pytest.mark.parametrize("seconds", [3, pytest.param(60, marks=pytest.mark.slow)])
def test_concurrent_staging_and_saving_leave_no_deleted_text(
    application: Application,
    seconds: int,
) -> None:
    """Few contents in many documents: each deletion meets a staging that reuses the deleted vectors."""
    texts = [f"Phrase {n} that many documents share." for n in range(4)]
    over = time.monotonic() + seconds
    errors: list[Exception] = []
    done = {"stagings": 0, "deletions": 0}

    def repeat(step: Any) -> None:
        try:
            while time.monotonic() < over or (min(done.values()) < 20 and time.monotonic() < over + 60):
                step()
        except Exception as error:  # noqa: BLE001 any error fails the test
            errors.append(error)

    def stage() -> None:
        documents = [
            {"id": random.randrange(8), "text": "\n\n".join(random.sample(texts, 2)), "metadata": {"n": 1}}
            for _ in range(3)
        ]
        staging.stage(application.target, str(uuid4()), documents, max_bytes=1000)
        done["stagings"] += 1

    def delete() -> None:
        if random.random() < 0.2:
            delete_matching(application, {"n": 1})
        else:
            ids = [str(random.randrange(8)) for _ in range(2)]
            staging.delete(application.target, str(uuid4()), ids, None)
        done["deletions"] += 1

    def drain() -> None:
        application.drainer.drain()
        time.sleep(0.002)

    stage()
    threads = [
        threading.Thread(target=repeat, args=(step,)) for step in (stage, stage, delete, delete, drain, drain)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 90)
    assert not errors
    assert min(done.values()) >= 20  # reached on a busy machine too
    application.drainer.drain()
    alarms = [row["check"] for row in verify(application)["checks"] if row["fault"] and row["found"]]
    assert not alarms
    delete_matching(application, {"n": 1})
    for table in ("pending_1", "chunks_1", "served_1", "revisions"):
        assert application.rows(f"SELECT count(*) FROM vector_index.{table}") == [(0,)], table
    with connection.checkout(
        application.url
    ) as conn:  # delete vectors of texts that were replaced before their deletion
        garbage.collect_index(conn, builds.index_key(conn, "default"))
    assert application.rows("SELECT count(*) FROM vector_index.embeddings_1") == [(0,)]


def test_a_tenant_deletes_only_its_own_documents(application: Application) -> None:
    application.index = replace(application.index, tenant_field="user")
    enqueue(application, "b", "Words.", {"user": 2})
    application.put({"id": "a", "text": "Words.", "metadata": {"user": 1}})
    assert delete_matching(application, {"user": 1}) == staging.Deleted(deleted=1)
    assert enqueued(application) == [("b", "Words.")]


def test_a_tenant_leaves_documents_that_are_others_too(application: Application) -> None:
    application.index = replace(application.index, tenant_field="user")
    enqueue(application, "waiting", "Words.", {"user": ["a", "b"]})
    application.put(
        {"id": "shared", "text": "Words.", "metadata": {"user": ["a", "b"]}},
        {"id": "alone", "text": "Words.", "metadata": {"user": "b"}},
        {"id": "in a list", "text": "Words.", "metadata": {"user": ["b", "b"]}},
    )
    assert delete_matching(application, {"user": "b"}) == staging.Deleted(deleted=2)
    assert application.search("words", filter={"user": "a"}) == ["shared"]
    assert enqueued(application) == [("waiting", "Words.")]


@pytest.mark.parametrize("tenant", ["a\x00", "\x00a", "a\ud800", ["a\x00", "b"]])
def test_a_tenant_that_postgres_would_rename_is_refused(application: Application, tenant: Any) -> None:
    """Without its NUL it would be tenant "a"."""
    application.index = replace(application.index, tenant_field="user")
    application.put({"id": "own", "text": "Words.", "metadata": {"user": "a"}})
    for metadata in ({"user": tenant}, {"user\x00": "a"}, {"user": "b", "user\x00": "a"}):
        result = application.put({"id": "other", "text": "Words.", "metadata": metadata})
        assert [item["id"] for item in result["failed"]] == ["other"]
        assert "metadata.user, the tenant, contains a NUL" in result["failed"][0]["error"]
    if isinstance(tenant, str):
        for ask in (application.search, application.passages):
            with pytest.raises(InvalidQuery, match="contains a NUL or a lone surrogate"):
                ask("words", filter={"user": tenant})
        with pytest.raises(InvalidQuery, match="contains a NUL or a lone surrogate"):
            delete_matching(application, {"user": {"$eq": tenant}})
    assert application.search("words", filter={"user": "a"}) == ["own"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    random.seed(20261123)


def test_a_deletion_during_a_collection_makes_the_next_collection_due(
    application: Application,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    application.put({"id": "a", "text": "Words."}, {"id": "b", "text": "Words."})
    application.delete("a")
    collect = garbage.collect

    def overtaken(*args: Any, **options: Any) -> garbage.Collected:
        found = collect(*args, **options)
        monkeypatch.undo()
        application.delete("b")
        return found

    monkeypatch.setattr(garbage, "collect", overtaken)
    with connection.checkout(application.url) as conn:
        garbage.collect_index(conn, builds.index_key(conn, "default"))
    assert application.rows("SELECT erased_at IS NULL FROM vector_index.indexes") == [(False,)]


@pytest.mark.parametrize(
    "filter",
    [
        {},
        {"$and": []},
        {"$and": [{}, {"$and": [{}]}]},
        {"$or": [{"user": 1}, {}]},
        {"$not": {"$or": []}},
        {"$not": {"user": {"$in": []}}},
        {"user": {"$nin": []}},
        {"$not": {"$and": [{"user": 1}, {"kind": {"$in": []}}]}},
    ],
    ids=str,
)
def test_a_filter_without_a_condition_deletes_nothing_unless_all_is_said(
    application: Application, filter: dict[str, Any]
) -> None:
    application.put({"id": "a", "text": "Words.", "metadata": {"user": 2}})
    with pytest.raises(InvalidQuery, match="filter has no condition, so it would delete every document"):
        delete_matching(application, filter)
    assert application.search("words") == ["a"]
    done = staging.delete_matching(application.target, "all", filter, None, everything=True)
    assert done == staging.Deleted(deleted=1)


@pytest.mark.parametrize(
    "filter",
    [{"$or": []}, {"user": {"$in": []}}, {"$and": [{}, {"user": 1}]}, {"user": {}}, {"user": []}],
    ids=str,
)
def test_a_filter_that_a_document_can_fail_is_no_empty_filter(
    application: Application, filter: dict[str, Any]
) -> None:
    application.put({"id": "a", "text": "Words.", "metadata": {"user": 2}})
    assert delete_matching(application, filter) == staging.Deleted()
