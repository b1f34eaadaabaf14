"""LlamaIndex: an ingestion pipeline with a store of documents, which skips what has not changed.

Variants: async (eight requests in flight), sync.
"""

import asyncio
import os
from pathlib import Path

import psycopg
from llama_index.core import Document as Text
from llama_index.core import VectorStoreIndex
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.vector_stores.postgres import PGVectorStore

from benchmarks.rivals.contender import CHUNK_TOKENS, DIMENSIONS, MODEL, Contender, serve
from benchmarks.rivals.corpus import Document

BATCH, PARALLEL = 100, 8


class LlamaIndex(Contender):
    def __init__(self, *, database_url: str, variant: str) -> None:
        super().__init__(database_url=database_url, variant=variant)
        self.connection = psycopg.connect(database_url, autocommit=True)
        store = PGVectorStore.from_params(
            connection_string=database_url.replace("postgresql://", "postgresql+psycopg2://"),
            async_connection_string=database_url.replace("postgresql://", "postgresql+asyncpg://"),
            table_name="chunk",
            embed_dim=DIMENSIONS,
            indexed_metadata_keys={("doc_id", "text")},
        )
        embedding = OpenAIEmbedding(
            model=MODEL,
            api_base=os.environ["OPENAI_BASE_URL"],
            embed_batch_size=BATCH,
            num_workers=PARALLEL if variant == "async" else None,
        )
        self.file = Path(os.environ["RIVALS_FOLDER"]) / "llamaindex.json"
        self.pipeline = IngestionPipeline(
            transformations=[SentenceSplitter(chunk_size=CHUNK_TOKENS, chunk_overlap=0), embedding],
            vector_store=store,
            docstore=SimpleDocumentStore(),
            docstore_strategy=DocstoreStrategy.UPSERTS,
            disable_cache=True,
        )
        searched = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
        self.retriever = searched.as_retriever(similarity_top_k=5)
        self.loop = asyncio.new_event_loop()  # its connections belong to one loop

    def index(self, documents: list[Document]) -> None:
        texts = [Text(text=found["text"], id_=found["id"]) for found in documents]
        if self.variant == "async":
            self.loop.run_until_complete(self.pipeline.arun(documents=texts))
        else:
            self.pipeline.run(documents=texts)
        self.pipeline.docstore.persist(str(self.file))

    def search(self, question: str) -> None:
        self.retriever.retrieve(question)

    def rows(self) -> int:
        return self.connection.execute("SELECT count(*) FROM data_chunk").fetchone()[0]


if __name__ == "__main__":
    serve(LlamaIndex)
