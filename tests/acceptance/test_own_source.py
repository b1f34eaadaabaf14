"""A user's own source class, named by dotted path, has all that the shipped ones have."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "own_source.py"


def test_example_source_is_checked_and_read_incrementally(
    start_system: Callable[..., Any], tmp_path: Path
) -> None:
    """A second run reads only what changed; a full one deletes; `doctor` says what a run would read."""
    shutil.copy(EXAMPLE, tmp_path)
    shown = EXAMPLE.read_text().partition("    VECTOR_INDEX")[2].partition("\n    }\n")[0]
    lines = f"    VECTOR_INDEX{shown}\n    }}".replace("/srv/shop", str(tmp_path)).splitlines()
    (tmp_path / "ours.py").write_text("\n".join(line.removeprefix("    ") for line in lines))
    variables = {"VECTOR_INDEX_SETTINGS": str(tmp_path / "ours.py")}
    with (
        closing(sqlite3.connect(tmp_path / "shop.db", isolation_level=None)) as shop,
        start_system(tmp_path, {"all": ["worker"]}, **variables) as system,
    ):
        assert f"FAIL  source default    {tmp_path}/shop.db: no such table: page; set PATH" in doctor(system)
        shop.execute("CREATE TABLE page (id INTEGER PRIMARY KEY, title TEXT, body TEXT, updated_at TEXT)")
        insert = "INSERT INTO page VALUES (?, 'A page', ?, ?)"
        shop.executemany(insert, [(n, f"Page {n}", f"2026-01-0{n} 12:00") for n in range(1, 6)])
        assert f"ok    source default    pages: 5 pages in {tmp_path}/shop.db" in doctor(system)
        assert system.call("tasks.reindex")["indexed"] == 5
        shop.execute("UPDATE page SET body = 'New', updated_at = '2026-01-09 12:00' WHERE id = 2")
        shop.execute("DELETE FROM page WHERE id = 1")
        second = system.call("tasks.reindex")
        assert (second["indexed"], second["unchanged"], second["deleted"]) == (1, 1, 0)
        third = system.call("tasks.reindex", full=True)
        assert (third["indexed"], third["unchanged"], third["deleted"]) == (0, 4, 1)
        assert system.call("tasks.reindex")["unchanged"] == 1
        with psycopg.connect(system.environment["DATABASE_URL"]) as conn:
            runs = "SELECT incremental, read, cursor ->> 'reached' FROM vector_index.runs ORDER BY run"
            assert conn.execute(runs).fetchall() == [
                (False, 5, "2026-01-05 12:00"),
                (True, 2, "2026-01-09 12:00"),
                (False, 4, "2026-01-09 12:00"),
                (True, 1, "2026-01-09 12:00"),
            ]


def doctor(system: Any) -> str:
    done = system.command("doctor", "--offline")
    assert not done.stderr
    return str(done.stdout)
