"""Export and import: an index moves with its vectors, and no request is sent."""

import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.application import LONG, Application, HashBackend, faulty, make_index, vector
from tests.fixtures.verification import found, verify
from worker.cli import run
from worker.configuration import IndexSettings
from worker.errors import InvalidQuery, Refused, SettingsError
from worker.indexing import verification
from worker.indexing.draining.drainer import Drainer
from worker.indexing.transfer import lines
from worker.indexing.transfer.exporting import Exported, export
from worker.indexing.transfer.importing import Import, Imported, read_header
from worker.store import connection

QUESTIONS = ("ships", "paragraph number 7", "cats and dogs", "list")


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "RECHECK_SECONDS", (0.01,))


@pytest.fixture
def make(databases: Callable[[], str], index: IndexSettings) -> Iterator[Callable[..., Application]]:
    """Applications on databases of their own; keyword arguments are of the backend."""

    def new(settings: IndexSettings = index, **values: Any) -> Application:
        url, backend = databases(), HashBackend(**values)
        return Application(url, settings, backend, Drainer(url, settings.embedding_backend, backend))

    yield new
    connection.close_pools()


@pytest.fixture
def full(make: Callable[..., Application]) -> Application:
    """An index with versions, tombstones, shared contents, a blank text, and documents that fail and wait."""
    application = make()
    documents: list[dict[str, Any]] = [
        {"id": str(n), "text": f"Ship {n} crosses the sea.\n\n" + LONG[: 70 * n], "title": f"Ship {n}",
         "metadata": {"n": n, "deep": {"list": [1.5, None, "ü"]}}, "version": n}
        for n in range(1, 9)
    ]  # fmt: skip
    documents += [{"id": "same", "text": documents[2]["text"], "title": documents[2]["title"]}]
    documents += [{"id": "blank", "text": " \n"}, {"id": "plain", "text": "Cats and dogs."}]
    application.put(*documents)
    application.delete("8", version=80)
    application.delete("7")
    faulty(application.backend, lambda texts: Refused("no") if "bad" in texts[0] else None)
    application.put({"id": "1", "text": "A bad newest text.", "version": 11})
    application.stage({"id": "2", "text": "A newest text that waits.", "version": 12})
    return application


def exported(application: Application) -> list[bytes]:
    found: list[bytes] = []
    export(application.url, application.index.name, found.append, Exported())
    return found


def imported(application: Application, file: list[bytes]) -> Imported:
    checksum, source, done = lines.new_checksum(), iter(file), Imported()
    header = read_header(source, "file", checksum)
    run = Import(index=application.target, header=header, max_bytes=10_000, done=done)
    run.run(source, checksum)
    return done


def answers(application: Application) -> list[Any]:
    return [
        application.passages(question, mode=mode)
        for question in QUESTIONS
        for mode in ("vector", "text", "hybrid")
    ]


def contents(application: Application) -> list[bytes]:
    """What an export says, without the moment of it."""
    first, *others, _ = exported(application)
    return [json.dumps(json.loads(first)["recipe"]).encode(), *others]


def test_an_imported_index_gives_the_same_rows_and_sends_no_request(
    full: Application, make: Callable[..., Application]
) -> None:
    other = make()
    file = exported(full)
    done = imported(other, file)
    assert (done.indexed, done.unchanged, done.stale, done.deleted, done.failed) == (9, 0, 0, 0, [])
    assert other.backend.requests == []
    assert answers(other) == answers(full)
    assert found(verify(other), garbage=False) == {}
    assert other.state("1") == {"state": "pending", "version": 11, "searchable": True, "error": None}
    assert other.state("2")["searchable"]
    assert done.queued == 2  # the texts that failed and waited have no vector
    # versions and tombstones count on
    other.stage({"id": "8", "text": "Too late.", "version": 79}, {"id": "6", "text": "Old.", "version": 5})
    assert [other.state(id)["state"] for id in ("8", "6", "7")] == ["absent", "live", "absent"]
    assert other.passages("ships", mode="vector") == full.passages("ships", mode="vector")


def test_an_import_can_be_repeated_and_adds_nothing(
    full: Application, make: Callable[..., Application]
) -> None:
    other = make()
    file = exported(full)
    imported(other, file)
    before = contents(other)
    counts = "SELECT (SELECT count(*) FROM vector_index.chunks_1), (SELECT count(*) FROM vector_index.revisions), " \
        "(SELECT count(*) FROM vector_index.embeddings_1), (SELECT count(*) FROM vector_index.documents)"  # fmt: skip
    rows = other.rows(counts)
    done = imported(other, file)
    assert (done.indexed, done.unchanged, done.stale) == (0, 9, 0)
    assert other.rows(counts) == rows
    assert contents(other) == before
    assert before[-2:] == [lines.tombstone_line("7", 7), lines.tombstone_line("8", 80)]


def test_an_export_of_an_import_is_the_export(full: Application, make: Callable[..., Application]) -> None:
    other = make()
    imported(other, exported(full))
    assert contents(other) == contents(full)


def test_each_content_is_in_the_file_once(full: Application) -> None:
    chunks = [chunk for line in exported(full) for chunk in json.loads(line).get("chunks", ())]
    given = [chunk["hash"] for chunk in chunks if "vector" in chunk]
    assert len(given) == len(set(given)) < len({chunk["hash"] for chunk in chunks}) + 1
    assert len(chunks) > len(given)


def test_newer_versions_of_the_index_stay_and_older_ones_are_replaced(
    make: Callable[..., Application],
) -> None:
    one, other = make(), make()
    one.put(*({"id": id, "text": f"File {id}.", "version": 5} for id in "abcd"))
    one.delete("c", version=6)
    one.delete("d", version=6)
    other.put(
        {"id": "a", "text": "Index a.", "version": 9},
        {"id": "b", "text": "Index b.", "version": 1},
        {"id": "c", "text": "Index c.", "version": 9},
        {"id": "d", "text": "Index d.", "version": 1},
    )
    done = imported(other, exported(one))
    assert (done.indexed, done.stale, done.deleted) == (1, 2, 1)
    texts = {id: other.passages(id)[0].text for id in "abc"}
    assert texts == {"a": "Index a.", "b": "File b.", "c": "Index c."}
    assert other.state("d")["state"] == "absent"
    assert found(verify(other), garbage=False) == {}


def test_vectors_of_a_file_complete_documents_that_wait_for_them(make: Callable[..., Application]) -> None:
    one, other = make(), make()
    one.put({"id": "a", "text": "Cats and dogs."})
    other.stage({"id": "a", "text": "Cats and dogs."}, {"id": "b", "text": "Cats and dogs."})
    assert other.search("cats") == []
    done = imported(other, exported(one))
    assert (done.unchanged, done.queued) == (1, 0)
    other.backend.requests.clear()
    other.drainer.drain()
    assert other.backend.requests == []
    assert [other.state(id)["state"] for id in "ab"] == ["live", "live"]


def test_another_model_embeds_the_documents_again(
    full: Application, make: Callable[..., Application]
) -> None:
    other = make(model_id="other", dimensions=8)
    done = imported(other, exported(full))
    assert (done.indexed, done.failed) == (9, [])
    assert done.queued > 10
    assert other.rows("SELECT DISTINCT priority FROM vector_index.pending_1") == [(2,)]
    other.drainer.drain()
    assert other.search("cats and dogs")[0] == "plain"
    assert found(verify(other), garbage=False) == {}


def test_another_chunk_size_reuses_the_vectors_of_equal_contents(
    full: Application, make: Callable[..., Application]
) -> None:
    other = make(chunk_tokens=30)
    done = imported(other, exported(full))
    assert 0 < done.queued < done.chunks
    assert other.rows("SELECT count(*) > 0 FROM vector_index.embeddings_1") == [(True,)]
    assert other.search("cats and dogs")[0] == "plain"  # one short chunk, the same in both
    other.drainer.drain()
    assert found(verify(other), garbage=False) == {}


def test_another_language_or_distance_sends_no_request(
    full: Application, make: Callable[..., Application], index: IndexSettings
) -> None:
    other = make(replace(index, language="german", distance="l2"))
    assert imported(other, exported(full)).queued == 2  # without a vector in the file either
    assert other.backend.requests == []


def test_a_line_that_does_not_fit_fails_alone_and_is_named(make: Callable[..., Application]) -> None:
    one, other = make(), make()
    one.put(*({"id": id, "text": f"Text of {id}."} for id in "abcd"))
    file = exported(one)
    file[1] = file[1].replace(b"Text of a.", b"Text of x.")  # another text than the chunk was made from
    file[2] = file[2][:50] + b"\n"
    broken = json.loads(file[3])
    broken["chunks"][0]["vector"] = broken["chunks"][0]["vector"][:-8]
    file[3] = lines.dump(broken)
    del file[-1]
    file[0] = file[0].replace(b'"documents":4', b'"documents":null')
    done = imported(other, file)
    assert [entry["id"] for entry in done.failed] == ["a (line 2)", "line 3", "c (line 4)"]
    assert "does not have the hash" in done.failed[0]["error"]
    assert (done.documents, done.indexed) == (4, 1)
    assert other.backend.requests == []
    assert other.search("text") == ["d"]


@pytest.mark.parametrize("kept", [1, 3, -1])
def test_a_truncated_file_is_noticed_and_completed_by_a_second_import(
    kept: int, full: Application, make: Callable[..., Application]
) -> None:
    other = make()
    file = exported(full)
    with pytest.raises(InvalidQuery, match="is truncated"):
        imported(other, file[:kept])
    imported(other, file)
    assert contents(other) == contents(full)


def test_a_missing_line_is_noticed(full: Application, make: Callable[..., Application]) -> None:
    file = exported(full)
    del file[3]
    with pytest.raises(InvalidQuery, match="checksum differs"):
        imported(make(), file)


def test_bought_vectors_are_searched_and_no_request_is_sent(make: Callable[..., Application]) -> None:
    other = make()
    header = lines.dump({"format": lines.FORMAT, "recipe": {"model": "hash", "dimensions": 16}})
    file = [
        header,
        lines.dump({"id": 1, "text": "Cats and dogs.", "vector": vector("Cats and dogs.").tolist()}),
        lines.dump(
            {"id": "2", "title": "Sea", "metadata": {"kind": "ship"}, "version": 3, "chunks": [
                {"text": "Ships cross the sea.", "vector": vector("Ships cross the sea.").tolist()},
                {"text": "Sailors sing.", "vector": vector("Sailors sing.").tolist()},
            ]}
        ),
    ]  # fmt: skip
    done = imported(other, file)
    assert (done.indexed, done.vectors, done.queued) == (2, 3, 0)
    assert other.backend.requests == []
    assert other.search("dogs", mode="vector")[0] == "1"
    [passage] = other.passages("sailors sing", mode="hybrid", filter={"kind": "ship"})
    assert passage.text == "Ships cross the sea.\n\nSailors sing."
    assert found(verify(other), garbage=False) == {}


def test_an_index_of_another_backend_refuses_the_import(make: Callable[..., Application]) -> None:
    one, other = make(), make()
    one.put({"id": "a", "text": "A text."})
    other.put({"id": "a", "text": "A text."})
    other.backend.model_id = "newer"
    with pytest.raises(SettingsError, match="set MODEL_ID back to hash"):
        imported(other, exported(one))


def test_an_export_shows_one_moment(full: Application) -> None:
    def change_after_the_header(line: bytes) -> None:
        if not written:
            full.delete("3", "4", "5", "6", "same")
        written.append(line)

    before = contents(full)
    written: list[bytes] = []
    export(full.url, full.index.name, change_after_the_header, Exported())
    assert written[1:-1] == before[1:]


def settings(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("BROKER_URL", "redis://127.0.0.1:1/0")  # neither command needs a broker


def load_wordllama(url: str, count: int) -> Application:
    """An index of the default model."""
    from worker import configuration, wiring

    settings = configuration.load({}).index("default")
    backend: Any = wiring.make_backend(settings.embedding_backend)
    application = Application(url, settings, backend, Drainer(url, settings.embedding_backend, backend))
    application.put(*({"id": str(n), "text": f"Ship {n} crosses the sea."} for n in range(count)))
    return application


@pytest.mark.parametrize("name", ["index.jsonl", "index.jsonl.gz"])
def test_the_commands_move_an_index_between_databases(
    name: str,
    databases: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one, two, file = databases(), databases(), tmp_path / name
    application = load_wordllama(one, 250)
    settings(monkeypatch, one)
    assert run(["export", str(file)]) == 0
    assert capsys.readouterr().out.startswith(
        "default: exported 250 documents, 250 chunks and 250 vectors to "
    )
    assert list(tmp_path.iterdir()) == [file]
    settings(monkeypatch, two)
    assert run(["import", str(file), "--no-embed"]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(
        "default: 250 indexed, 0 unchanged, 0 stale, 0 failed\n250 chunks, 250 vectors"
    )
    assert output.err == ""
    other = replace_url(application, two)
    assert other.passages("ship 7", limit=10) == application.passages("ship 7", limit=10)
    assert run(["import", str(file), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["unchanged"], report["queued"], report["failed"]) == (250, 0, [])
    connection.close_pools()


def replace_url(application: Application, url: str) -> Application:
    return Application(url, application.index, application.backend, application.drainer)


@pytest.mark.slow
def test_an_import_that_is_killed_is_completed_by_the_next(
    databases: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = databases(), databases()
    application = load_wordllama(one, 250)
    pipe, file = tmp_path / "pipe", tmp_path / "index.jsonl"
    settings(monkeypatch, one)
    assert run(["export", str(file)]) == 0
    settings(monkeypatch, two)
    os.mkfifo(pipe)
    with (
        subprocess.Popen([sys.executable, "-m", "worker.cli", "import", str(pipe)]) as process,
        pipe.open("wb") as target,
    ):
        target.writelines(file.read_bytes().splitlines(keepends=True)[:150])
        target.flush()
        other = replace_url(application, two)
        deadline = time.monotonic() + 60
        staged = "SELECT count(*) FROM vector_index.documents"
        while time.monotonic() < deadline and other.rows(staged) == [(0,)]:
            time.sleep(0.05)
        process.kill()
    assert other.rows("SELECT count(*) BETWEEN 100 AND 149 FROM vector_index.documents") == [(True,)]
    assert run(["import", str(file)]) == 0
    assert contents(other) == contents(application)
    assert other.rows("SELECT count(*) FROM vector_index.revisions") == [(250,)]
    assert found(verify(other), garbage=False) == {}
    connection.close_pools()


def test_mistakes_are_told_in_one_sentence(
    databases: Callable[[], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings(monkeypatch, databases())
    header = lines.dump({"format": lines.FORMAT, "recipe": {"model": "other", "dimensions": 3}})
    files = {
        "text.txt": b"Hello\n",
        "empty": b"",
        "other.jsonl": header,
        "cut.gz": gzip.compress(header * 2_000)[:60],
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    expected = {
        ("import", "missing.jsonl"): "missing.jsonl cannot be read: No such file or directory",
        ("import", "."): "cannot be read: Is a directory",
        ("import", "text.txt"): "is not an exported index",
        ("import", "empty"): "is not an exported index",
        ("import", "cut.gz"): "is truncated or damaged",
        (
            "import",
            "other.jsonl",
            "--no-embed",
        ): "index 'default' cannot use all vectors of the file (model 'other'",
        ("import", "text.txt", "--index", "nope"): "nope",
        ("export", "x.jsonl"): "index 'default' has no documents yet: there is nothing to export",
        ("export", "no/folder/x.jsonl"): "x.jsonl cannot be written: No such file or directory",
        ("export", "--json"): "the lines go to stdout: name a file",
    }
    monkeypatch.chdir(tmp_path)
    for arguments, sentence in expected.items():
        assert run(list(arguments)) == 2, arguments
        output = capsys.readouterr()
        assert sentence in output.err, arguments
        assert output.err.count("\n") == 1, output.err
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(files)
    connection.close_pools()


def test_an_import_into_the_target_of_a_tenant_needs_no_backend_request(
    make: Callable[..., Application],
) -> None:
    """An application whose tenants share an index moves with them."""
    one = make()
    one.index = replace(one.index, tenant_field="tenant")
    one.put({"id": "a", "text": "A text.", "metadata": {"tenant": "x"}})
    other = make()
    other.index = one.index
    assert imported(other, exported(one)).indexed == 1
    assert make_index(other.url, other.index, other.backend).settings.tenant_field == "tenant"
    assert other.search("text", filter={"tenant": "x"}) == ["a"]
