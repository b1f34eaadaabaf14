"""The script that one writes first: `llm` for vectors, and an upsert, one after the other; nothing is skipped.

Variants: batches (100 chunks of all documents a request), documents (a request for each document).
"""

from collections.abc import Iterator
from itertools import islice

import llm
import psycopg
from langchain_text_splitters import RecursiveCharacterTextSplitter
from pgvector import Vector
from pgvector.psycopg import register_vector

from benchmarks.rivals.contender import CHUNK_CHARACTERS, DIMENSIONS, Contender, serve
from benchmarks.rivals.corpus import Document

BATCH = 100
SAVE = """INSERT INTO chunk VALUES (%s, %s, %s, %s)
    ON CONFLICT (document, ordinal) DO UPDATE SET body = excluded.body, embedding = excluded.embedding"""

SEARCH = "SELECT document, ordinal, body FROM chunk ORDER BY embedding <=> %s LIMIT 5"


class Script(Contender):
    def __init__(self, *, database_url: str, variant: str) -> None:
        super().__init__(database_url=database_url, variant=variant)
        self.connection = psycopg.connect(database_url, autocommit=True)
        register_vector(self.connection)
        self.connection.execute(
            f"CREATE TABLE chunk (document text, ordinal int, body text, embedding vector({DIMENSIONS}), "
            "PRIMARY KEY (document, ordinal))"
        )
        self.splitter = RecursiveCharacterTextSplitter(chunk_size=CHUNK_CHARACTERS, chunk_overlap=0)
        self.model = llm.get_embedding_model("3-small")

    def index(self, documents: list[Document]) -> None:
        if self.variant == "documents":
            for document in documents:
                self._store(list(self._chunks([document])))
            return
        chunks = self._chunks(documents)
        while batch := list(islice(chunks, BATCH)):
            self._store(batch)

    def search(self, question: str) -> None:
        vector = Vector(self.model.embed(question))
        self.connection.execute(SEARCH, [vector]).fetchall()

    def _chunks(self, documents: list[Document]) -> Iterator[tuple[str, int, str]]:
        for document in documents:
            for ordinal, text in enumerate(self.splitter.split_text(document["text"])):
                yield document["id"], ordinal, text

    def _store(self, chunks: list[tuple[str, int, str]]) -> None:
        vectors = self.model.embed_multi([text for _, _, text in chunks])
        rows = [(*chunk, Vector(vector)) for chunk, vector in zip(chunks, vectors, strict=True)]
        with self.connection.transaction():
            self.connection.cursor().executemany(SAVE, rows)

    def rows(self) -> int:
        return self.connection.execute("SELECT count(*) FROM chunk").fetchone()[0]


if __name__ == "__main__":
    serve(Script)
