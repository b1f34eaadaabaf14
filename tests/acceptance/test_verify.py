"""`vector-index verify` and garbage collection with real workers; SQL does the damage."""

import json

import psycopg
import pytest

from tests.fixtures.system import EMBED, System, eventually

pytestmark = pytest.mark.slow


def execute(system: System, statement: str, index: str) -> list[tuple[object, ...]]:
    """Run a statement on the tables of an index; `{build}` is the number of its build."""
    with psycopg.connect(system.environment["DATABASE_URL"], autocommit=True) as conn:
        find = "SELECT index_id, live_build FROM vector_index.indexes WHERE name = %s"
        [(index_id, build)] = conn.execute(find, [index]).fetchall()
        cursor = conn.execute(statement.format(build=build, index_id=index_id).encode())
        return cursor.fetchall() if cursor.description else []


def test_verify_reports_and_repairs_a_missing_vector(system: System, index: str) -> None:
    system.call("tasks.index_documents", documents=[{"id": "a", "text": "Ships cross the sea."}], index=index)
    whole = system.command("verify", "--index", index)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.startswith(f"{index}: documents 0 pending, 1 live, 0 failed; checked in ")

    execute(system, "DELETE FROM vector_index.embeddings_{build}", index)
    broken = system.command("verify", "--index", index)
    assert broken.returncode == 1
    assert "searchable documents with a missing vector: a\n" in broken.stdout
    assert broken.stdout.endswith("inconsistencies found: run `vector-index verify --repair`\n")

    repaired = system.command("verify", "--index", index, "--repair", "--json")
    assert repaired.returncode == 0
    [row] = [row for row in json.loads(repaired.stdout)["checks"] if row["found"]]
    assert (row["check"], row["examples"], row["repaired"]) == ("missing_vectors", ["a"], 1)
    eventually(lambda: system.command("verify", "--index", index).returncode == 0)


def test_an_empty_index_has_no_inconsistencies(system: System, index: str) -> None:
    done = system.command("verify", "--index", index)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        "the index is empty: nothing has been indexed yet",
    )


def test_the_sweep_deletes_old_texts_within_an_hour(system: System, index: str) -> None:
    for text in ("A text that is to be forgotten.", "Another text."):
        system.call("tasks.index_documents", documents=[{"id": "a", "text": text}], index=index)
    execute(
        system,
        "UPDATE vector_index.indexes SET collected_at = now() - interval '61 minutes' WHERE index_id = {index_id}",
        index,
    )
    system.send("tasks.sweep", EMBED)
    texts = (
        "SELECT r.text FROM vector_index.revisions r JOIN vector_index.documents USING (doc) "
        "WHERE index_id = {index_id}"
    )
    vectors = "SELECT count(*) FROM vector_index.embeddings_{build}"  # 1 of 2 is garbage: above a fifth
    eventually(lambda: execute(system, texts, index) == [("Another text.",)])
    eventually(lambda: execute(system, vectors, index) == [(1,)])
    assert system.call("tasks.collect", index=index) == {
        "index": index, "embeddings": 0, "kept": 0, "revisions": 0, "pending": 0, "tombstones": 0
    }  # fmt: skip


def test_the_sweep_sends_the_task_that_looks_after_vector_indexes(system: System, index: str) -> None:
    documents = [{"id": "a", "text": "Ships cross the sea."}, {"id": "b", "text": "Boats cross the lake."}]
    system.call("tasks.index_documents", documents=documents, index=index)
    with pytest.raises(psycopg.errors.UniqueViolation):  # as an interrupted task leaves it
        execute(
            system,
            "CREATE UNIQUE INDEX CONCURRENTLY left_{build} ON vector_index.embeddings_{build} ((1))",
            index,
        )
    left = "SELECT to_regclass('vector_index.left_{build}') IS NULL"
    assert execute(system, left, index) == [(False,)]
    system.send("tasks.sweep", EMBED)
    eventually(lambda: execute(system, left, index) == [(True,)])
