"""No product, but what the machine allows: no queue, no retries, no bookkeeping beyond a hash for each chunk.

Eight threads send requests of 128 chunks, each over its own connection; one thread writes with COPY in binary.
"""

import base64
import hashlib
import os
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from urllib.parse import urlsplit

import numpy as np
import orjson
import psycopg
import urllib3
from psycopg.adapt import Dumper
from psycopg.pq import Format
from semantic_text_splitter import TextSplitter

from benchmarks.rivals.contender import CHUNK_CHARACTERS, DIMENSIONS, MODEL, Contender, serve
from benchmarks.rivals.corpus import Document

THREADS, INPUTS = 8, 128
HEAD = np.array([DIMENSIONS, 0], ">u2").tobytes()  # of a vector in pgvector's binary format
TABLES = f"""CREATE TABLE document (id text PRIMARY KEY, hash bytea);
    CREATE TABLE chunk (document text, ordinal int, hash bytea, body text, embedding vector({DIMENSIONS}),
        PRIMARY KEY (document, ordinal));"""
UPSERT = """INSERT INTO chunk SELECT * FROM staged ON CONFLICT (document, ordinal)
    DO UPDATE SET hash = excluded.hash, body = excluded.body, embedding = excluded.embedding"""
REMOVE = """DELETE FROM chunk USING unnest(%s::text[], %s::int[]) AS now (document, chunks)
    WHERE chunk.document = now.document AND chunk.ordinal >= now.chunks"""
REMEMBER = """INSERT INTO document SELECT * FROM unnest(%s::text[], %s::bytea[])
    ON CONFLICT (id) DO UPDATE SET hash = excluded.hash"""

Chunk = tuple[str, int, bytes, str]  # document, ordinal, hash, text


class Vector(bytes):
    """A vector in pgvector's binary format."""


class VectorDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Vector) -> Vector:
        return obj


class Sketch(Contender):
    def __init__(self, *, database_url: str, variant: str) -> None:
        super().__init__(database_url=database_url, variant=variant)
        self.connection = psycopg.connect(database_url, autocommit=True)
        self.connection.execute(TABLES)
        [self.vector_oid] = self.connection.execute("SELECT 'vector'::regtype::oid").fetchone()
        self.connection.execute("CREATE TEMP TABLE staged (LIKE chunk) ON COMMIT DELETE ROWS")
        bound = type("BoundDumper", (VectorDumper,), {"oid": self.vector_oid})
        self.connection.adapters.register_dumper(Vector, bound)
        self.splitter = TextSplitter(CHUNK_CHARACTERS)
        url = urlsplit(os.environ["OPENAI_BASE_URL"])
        self.path = f"{url.path}/embeddings"
        self.pool = urllib3.HTTPConnectionPool(url.hostname, url.port, maxsize=THREADS)

    def index(self, documents: list[Document]) -> None:
        ids = [document["id"] for document in documents]
        known = dict(self._all("SELECT id, hash FROM document WHERE id = ANY(%s)", ids))
        hashes = {document["id"]: digest(document["text"]) for document in documents}
        changed = [document for document in documents if known.get(document["id"]) != hashes[document["id"]]]
        if not changed:
            return
        pieces = {document["id"]: self.splitter.chunks(document["text"]) for document in changed}
        old = self._all("SELECT document, ordinal, hash FROM chunk WHERE document = ANY(%s)", list(pieces))
        stored = {(document, ordinal): found for document, ordinal, found in old}
        self._embed_and_write(
            (document, ordinal, found, text)
            for document, texts in pieces.items()
            for ordinal, text in enumerate(texts)
            if stored.get((document, ordinal)) != (found := digest(text))
        )
        with self.connection.transaction():
            self.connection.execute(REMOVE, [list(pieces), list(map(len, pieces.values()))])
            self.connection.execute(REMEMBER, [list(pieces), [hashes[id] for id in pieces]])

    def rows(self) -> int:
        return self._all("SELECT count(*) FROM chunk")[0][0]

    def _all(self, statement: str, *arguments: object) -> list[tuple]:
        return self.connection.execute(statement, arguments).fetchall()

    def _embed_and_write(self, chunks: Iterator[Chunk]) -> None:
        batches: queue.SimpleQueue[list[Chunk]] = queue.SimpleQueue()
        finished: queue.SimpleQueue[tuple[list[Chunk], list[Vector]] | None] = queue.SimpleQueue()
        while batch := list(islice(chunks, INPUTS)):
            batches.put(batch)
        threads = min(THREADS, batches.qsize())

        def work() -> None:
            try:
                while True:
                    batch = batches.get_nowait()
                    finished.put((batch, self._request([text for *_, text in batch])))
            except queue.Empty:
                pass
            finally:
                finished.put(None)

        with ThreadPoolExecutor(THREADS) as pool:
            working = [pool.submit(work) for _ in range(threads)]
            while threads:
                if found := finished.get():
                    self._write(*found)
                else:
                    threads -= 1
        for thread in working:
            thread.result()  # raises what the thread raised

    def _request(self, texts: list[str]) -> list[Vector]:
        body = orjson.dumps({"model": MODEL, "input": texts, "encoding_format": "base64"})
        response = self.pool.request(
            "POST", self.path, body=body, headers={"content-type": "application/json"}
        )
        if response.status != 200:
            raise RuntimeError(response.data[:300])
        vectors = (base64.b64decode(found["embedding"]) for found in orjson.loads(response.data)["data"])
        return [Vector(HEAD + np.frombuffer(vector, "<f4").astype(">f4").tobytes()) for vector in vectors]

    def _write(self, chunks: list[Chunk], vectors: list[Vector]) -> None:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            with cursor.copy("COPY staged FROM STDIN (FORMAT BINARY)") as copy:
                copy.set_types(["text", "int4", "bytea", "text", self.vector_oid])
                for (document, ordinal, found, text), vector in zip(chunks, vectors, strict=True):
                    copy.write_row((document, ordinal, found, text, vector))
            cursor.execute(UPSERT)


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


if __name__ == "__main__":
    serve(Sketch)
