"""A source of your own: the pages of a SQLite file. A run reads only the pages that changed since the run before.

    VECTOR_INDEX = {
        "SOURCES": {"pages": {"CLASS": "own_source.SQLitePages", "CONFIG": {"PATH": "/srv/shop/shop.db"}}},
        "INDEXES": {"default": {"SOURCE": "pages"}},
    }

Put this into the settings file of workers that can import this module. The keys of CONFIG arrive as keyword arguments,
in lower case. Only `documents` is required; `check` serves `vector-index doctor`, and `fingerprint` with
`documents_since` make the source incremental. The protocols: `Source` and the two below it in worker/protocols.py.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from worker.errors import SettingsError, SourceFailed

PAGES = "SELECT id, title, body, updated_at FROM page WHERE updated_at >= ? ORDER BY updated_at"


class SQLitePages:
    def __init__(self, *, path):
        if not Path(path).is_absolute():
            raise SettingsError(f"PATH of SQLitePages is {path!r}: give an absolute path")
        self.path = path

    def documents(self):
        yield from self.documents_since(None)

    def check(self):
        try:
            with closing(self._open()) as connection:
                [pages] = connection.execute("SELECT count(*) FROM page").fetchone()
        except sqlite3.Error as error:
            raise SourceFailed(f"{self.path}: {error}; set PATH to the SQLite file of the shop") from error
        return f"{pages:,} pages in {self.path}"

    def fingerprint(self):
        return f"{self.path} {PAGES}"  # another file or query: a cursor of the old one means nothing

    def documents_since(self, cursor):
        newest = cursor
        with closing(self._open()) as connection:
            for id, title, body, updated_at in connection.execute(PAGES, [cursor or ""]):
                yield {"id": id, "title": title, "text": body}
                newest = updated_at
        return newest  # the next run begins with the newest page of this one

    def _open(self):
        return sqlite3.connect(f"{Path(self.path).as_uri()}?mode=ro", uri=True)
