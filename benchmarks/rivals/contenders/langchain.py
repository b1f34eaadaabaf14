"""LangChain: a splitter, and index() with a record manager, which skips what it has seen.

Variants: v1 (PGVector, 500 chunks a batch), v2 (PGVectorStore, 100).
"""

import psycopg
from langchain_classic.indexes import SQLRecordManager
from langchain_core.documents import Document as Text
from langchain_core.indexing import index
from langchain_openai import OpenAIEmbeddings
from langchain_postgres import Column, PGEngine, PGVector, PGVectorStore
from langchain_text_splitters import RecursiveCharacterTextSplitter

from benchmarks.rivals.contender import CHUNK_CHARACTERS, DIMENSIONS, MODEL, Contender, serve
from benchmarks.rivals.corpus import Document

BATCHES = {"v1": 500, "v2": 100}
TABLES = {"v1": "langchain_pg_embedding", "v2": "chunk"}


class LangChain(Contender):
    def __init__(self, *, database_url: str, variant: str) -> None:
        super().__init__(database_url=database_url, variant=variant)
        self.connection = psycopg.connect(database_url, autocommit=True)
        url = database_url.replace("postgresql://", "postgresql+psycopg://")
        embeddings = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False)
        if variant == "v2":
            engine = PGEngine.from_connection_string(url=url)
            ids = Column("langchain_id", "TEXT", nullable=False)
            engine.init_vectorstore_table(table_name=TABLES["v2"], vector_size=DIMENSIONS, id_column=ids)
            self.store = PGVectorStore.create_sync(
                engine=engine, table_name=TABLES["v2"], embedding_service=embeddings
            )
        else:
            self.store = PGVector(
                embeddings=embeddings, connection=url, use_jsonb=True, embedding_length=DIMENSIONS
            )
        self.records = SQLRecordManager("rivals", db_url=url)
        self.records.create_schema()
        self.splitter = RecursiveCharacterTextSplitter(chunk_size=CHUNK_CHARACTERS, chunk_overlap=0)

    def index(self, documents: list[Document]) -> None:
        texts = [Text(page_content=found["text"], metadata={"source": found["id"]}) for found in documents]
        index(
            self.splitter.split_documents(texts),
            self.records,
            self.store,
            cleanup="incremental",
            source_id_key="source",
            key_encoder="blake2b",
            batch_size=BATCHES[self.variant],
        )

    def search(self, question: str) -> None:
        self.store.similarity_search(question, k=5)

    def rows(self) -> int:
        return self.connection.execute(f"SELECT count(*) FROM {TABLES[self.variant]}").fetchone()[0]


if __name__ == "__main__":
    serve(LangChain)
