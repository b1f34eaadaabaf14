"""pgai: a vectorizer on a table, and its worker, which drains the queue in this process as `--once` does.

Variants: c10 (ten requests in flight, its most), c1.
"""

import asyncio
import datetime

import openai  # noqa: F401  pgai imports both in its first batch; here, no clock runs yet
import pgai
import psycopg
import tiktoken
from pgai.vectorizer import Worker

from benchmarks.rivals.contender import CHUNK_CHARACTERS, DIMENSIONS, MODEL, Contender, serve
from benchmarks.rivals.corpus import Document

SAVE = """INSERT INTO page VALUES (%s, %s, %s)
    ON CONFLICT (id) DO UPDATE SET title = excluded.title, body = excluded.body"""
VECTORIZER = """SELECT ai.create_vectorizer('page'::regclass, name => 'page', loading => ai.loading_column('body'),
    embedding => ai.embedding_openai(%s, %s), formatting => ai.formatting_python_template('$chunk'),
    chunking => ai.chunking_recursive_character_text_splitter(%s, 0), indexing => ai.indexing_none(),
    scheduling => ai.scheduling_none(), destination => ai.destination_table('embedded'))"""


class Pgai(Contender):
    def __init__(self, *, database_url: str, variant: str) -> None:
        super().__init__(database_url=database_url, variant=variant)
        tiktoken.encoding_for_model(MODEL)
        pgai.install(database_url)
        self.connection = psycopg.connect(database_url, autocommit=True)
        self.connection.execute("CREATE TABLE page (id text PRIMARY KEY, title text, body text)")
        self.connection.execute(VECTORIZER, [MODEL, DIMENSIONS, CHUNK_CHARACTERS])

    def index(self, documents: list[Document]) -> None:
        with self.connection.transaction():
            self._save(documents)
        self._drain()

    def index_each(self, documents: list[Document], patience_seconds: float) -> int:
        for document in documents:  # a commit each; the worker takes what is queued by then
            self._save([document])
        self._drain()
        return len(documents)

    def _save(self, documents: list[Document]) -> None:
        rows = [(found["id"], found["title"], found["text"]) for found in documents]
        self.connection.cursor().executemany(SAVE, rows)

    def _drain(self) -> None:
        parallel = int(self.variant.removeprefix("c"))
        worker = Worker(self.database_url, datetime.timedelta(seconds=1), once=True, concurrency=parallel)
        if failure := asyncio.run(worker.run()):
            raise failure

    def rows(self) -> int:
        return self.connection.execute("SELECT count(*) FROM embedded").fetchone()[0]


if __name__ == "__main__":
    serve(Pgai)
