"""`doctor` reports whether each source can be read, or how to fix it. It reads no document."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import eventually
from worker.cli.doctor import diagnoses
from worker.configuration import load
from worker.errors import SourceFailed
from worker.sources.callable import CallableSource
from worker.sources.sql import SQLSource

SHOP = """
print("a line that is no answer", flush=True)
def documents():
    raise AssertionError("it is not to be called")
"""

SETTINGS = """
SQL, FOLDER = "worker.sources.sql.SQLSource", "worker.sources.files.FolderSource"
QUERY = "SELECT 1 / (n - n) AS id, 'x' AS text FROM generate_series(1, 9) AS n"
CLOSED = "postgresql://reader:geheim@127.0.0.1:1/shop"
VECTOR_INDEX = {
    "SOURCES": {
        "pages": {"CLASS": SQL, "CONFIG": {"QUERY": QUERY}},
        "keyless": {"CLASS": SQL, "CONFIG": {"QUERY": QUERY, "KEY": "pk"}},
        "closed": {"CLASS": SQL, "CONFIG": {"QUERY": QUERY, "DSN": CLOSED}},
        "files": {"CLASS": FOLDER, "CONFIG": {"PATHS": ["HERE/handbook"]}},
        "lost": {"CLASS": FOLDER, "CONFIG": {"PATHS": ["HERE/nowhere"]}},
        "pipe": {"CLASS": FOLDER, "CONFIG": {"PATHS": ["HERE/odd"]}},
        "own": {"CLASS": "tests.fixtures.shelf.Shelf", "CONFIG": {"TEXTS": {"a": "b"}}},
        "typo": {"CLASS": FOLDER, "CONFIG": {"PATH": ["HERE/handbook"]}},
    },
    "INDEXES": {"default": {}} | {
        name: {"SOURCE": name}
        for name in ["pages", "keyless", "closed", "files", "lost", "pipe", "own", "typo",
                     "shop:documents", "shop:document", "nothing:documents"]
    },
}
"""


def test_doctor_prints_one_line_per_source(
    tmp_path: Path, database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("handbook/sub", "odd"):
        (tmp_path / folder).mkdir(parents=True)
    for name in (
        "handbook/a.md",
        "handbook/sub/b.txt",
        "handbook/.hidden.md",
        "handbook/picture.png",
        "odd/c.md",
    ):
        (tmp_path / name).write_bytes(b"\xff")
    os.mkfifo(tmp_path / "odd" / "d.md")
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "ours.py").write_text(SETTINGS.replace("HERE", str(tmp_path)))
    variables = {"DATABASE_URL": database_url, "BROKER_URL": "redis://127.0.0.1:1/0"}
    configuration = load({**variables, "VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py")})
    findings = list(diagnoses(configuration, offline=True))
    assert not [finding for finding in findings if "\n" in finding.detail or "geheim" in finding.detail]
    found = {name: f for f in findings if (name := f.name.removeprefix("source ")) != f.name}
    assert "default" not in found  # it has none
    assert {name: finding.code for name, finding in found.items() if not finding.ok} == {
        "keyless": 3, "closed": 3, "lost": 2, "pipe": 3, "typo": 2, "shop:document": 3, "nothing:documents": 3,
    }  # fmt: skip
    said = {name: finding.detail for name, finding in found.items()}
    assert said["pages"].endswith(", columns id, text")
    assert "QUERY has no column 'pk', only id, text; rename one" in said["keyless"]
    assert "Postgres at 127.0.0.1:1/shop says: " in said["closed"]
    assert said["files"] == f"files: 2 files in {tmp_path}/handbook"
    assert f"{tmp_path}/nowhere does not exist; name files or folders" in said["lost"]
    assert said["pipe"] == f"{tmp_path}/odd/d.md: is no regular file; fix it, or change PATHS"
    assert "Shelf has no check: the first sync will show" in said["own"]
    assert "CONFIG of source 'typo' does not fit" in said["typo"]
    assert said["shop:documents"] == f"shop:documents: shop:documents in {tmp_path}"
    assert "AttributeError: module 'shop' has no attribute 'document'" in said["shop:document"]
    assert f"there is no module 'nothing' in {tmp_path}; set FOLDER" in said["nothing:documents"]
    assert "a line that is no answer" not in capfd.readouterr().out


def test_check_rejects_a_key_without_an_order(database_url: str) -> None:
    source = SQLSource(dsn=database_url, query="SELECT '{}'::json AS id, 'x' AS text")
    with pytest.raises(SourceFailed, match="KEY 'id' is of type json, which has no order"):
        source.check()


def test_check_ends_an_import_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.sources.callable.CHECK_SECONDS", 0.5)
    (tmp_path / "shop.py").write_text(
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"
    )
    source: Any = CallableSource(callable="shop:documents", folder=str(tmp_path))
    with pytest.raises(
        SourceFailed, match="shop:documents was not imported within 0 s; fix what its module does"
    ):
        source.check()
    pid = int((tmp_path / "pid").read_text() or 0)
    eventually(lambda: not Path(f"/proc/{pid}").exists())
