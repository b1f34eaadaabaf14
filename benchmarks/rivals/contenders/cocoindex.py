"""CocoIndex: a table as a source, a splitter, LiteLLM, and a table as a target; remembered for each document."""

import os
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import asyncpg
import psycopg

STATE = Path(tempfile.mkdtemp(dir=os.environ["RIVALS_FOLDER"]))
os.environ["COCOINDEX_DB"] = str(STATE)  # read when it is imported

import cocoindex as coco  # noqa: E402
from cocoindex.connectors import postgres  # noqa: E402
from cocoindex.ops.litellm import LiteLLMEmbedder  # noqa: E402
from cocoindex.ops.text import RecursiveSplitter  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from benchmarks.rivals.contender import CHUNK_CHARACTERS, MODEL, Contender, serve  # noqa: E402
from benchmarks.rivals.corpus import Document  # noqa: E402

POOL = coco.ContextKey[asyncpg.Pool]("pool")
EMBEDDER = coco.ContextKey[LiteLLMEmbedder]("embedder", detect_change=True)
SPLITTER = RecursiveSplitter()
SAVE = "INSERT INTO page VALUES (%s, %s) ON CONFLICT (id) DO UPDATE SET body = excluded.body"


@coco.lifespan
async def lifespan(builder: coco.EnvironmentBuilder) -> AsyncIterator[None]:
    builder.settings.db_path = STATE
    async with asyncpg.create_pool(os.environ["RIVALS_DATABASE_URL"]) as pool:
        builder.provide(POOL, pool)
        url = os.environ["OPENAI_BASE_URL"]
        builder.provide(EMBEDDER, LiteLLMEmbedder(f"openai/{MODEL}", api_base=url, api_key="none"))
        yield


@dataclass
class Page:
    id: str
    body: str


@dataclass
class Chunk:
    document: str
    ordinal: int
    body: str
    embedding: Annotated[NDArray, EMBEDDER]


@coco.fn
async def embed(piece: tuple[int, str], document: str, table: postgres.TableTarget[Chunk]) -> None:
    ordinal, text = piece
    vector = await coco.use_context(EMBEDDER).embed(text)
    table.declare_row(row=Chunk(document=document, ordinal=ordinal, body=text, embedding=vector))


@coco.fn(memo=True)
async def split(page: Page, table: postgres.TableTarget[Chunk]) -> None:
    pieces = SPLITTER.split(page.body, chunk_size=CHUNK_CHARACTERS, chunk_overlap=0)
    await coco.map(embed, [(at, piece.text) for at, piece in enumerate(pieces)], page.id, table)


@coco.fn
async def flow() -> None:
    schema = await postgres.TableSchema.from_class(Chunk, primary_key=["document", "ordinal"])
    table = await postgres.mount_table_target(
        POOL, table_name="chunk", pg_schema_name="target", table_schema=schema
    )
    pages = postgres.PgTableSource(coco.use_context(POOL), table_name="page", row_type=Page)
    await coco.mount_each(split, pages.fetch_rows().items(lambda page: page.id), table)


class CocoIndex(Contender):
    def __init__(self, *, database_url: str, variant: str) -> None:
        super().__init__(database_url=database_url, variant=variant)
        self.connection = psycopg.connect(database_url, autocommit=True)
        self.connection.execute("CREATE TABLE page (id text PRIMARY KEY, body text)")
        self.app = coco.App(coco.AppConfig(name="Rivals"), flow)

    def index(self, documents: list[Document]) -> None:
        with self.connection.transaction():
            self._save(documents)
        self.app.update_blocking()

    def index_each(self, documents: list[Document], patience_seconds: float) -> int:
        for document in documents:  # a commit each; one update then finds all of them
            self._save([document])
        self.app.update_blocking()
        return len(documents)

    def _save(self, documents: list[Document]) -> None:
        rows = [(found["id"], found["text"]) for found in documents]
        self.connection.cursor().executemany(SAVE, rows)

    def rows(self) -> int:
        return self.connection.execute("SELECT count(*) FROM target.chunk").fetchone()[0]


if __name__ == "__main__":
    serve(CocoIndex)
