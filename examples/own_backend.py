"""Backends of your own: vectors from hashed words, answers that repeat the first passage, and a reranker by letters.

No key, no network.

    VECTOR_INDEX = {
        "EMBEDDING_BACKENDS": {"default": {"CLASS": "own_backend.HashedWords", "CONFIG": {"TOKEN_LIMIT": 500}}},
        "CHAT_BACKENDS": {"default": {"CLASS": "own_backend.FirstPassage"}},
        "RERANK_BACKENDS": {"default": {"CLASS": "own_backend.SharedLetters"}},
        "INDEXES": {"default": {}},
    }

in the settings file of workers that can import this module. Each process makes one object and uses it in many
threads. The keys of CONFIG arrive as keyword arguments (EMBEDDING_OUTPUT_DIMENSIONS: `dimensions`), an absent limit as
None. docs/how-to/models.md lists them. The protocols are `EmbeddingBackend`, `ChatBackend` and `RerankBackend` in
worker/protocols.py.
"""

import re
import zlib

import numpy as np

from worker.errors import Refused
from worker.protocols import Reply


class HashedWords:
    model_id = "hashed-words/1"  # another name when the vectors change: then documents need a new index
    tokenizer = "words and marks"
    batch_token_limit = 100_000
    batch_size = 1_000
    chunk_tokens = 120

    def __init__(self, *, dimensions=None, token_limit=None, document_prefix="", query_prefix="", **_):
        self.dimensions = dimensions or 512
        self.token_limit = token_limit or 1_000
        self.document_prefix, self.query_prefix = document_prefix, query_prefix

    def count_tokens(self, text):
        return len(re.findall(r"\w+|\S|\n", text))

    def embed(self, texts):
        vectors = np.zeros((len(texts), self.dimensions), dtype=np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in re.findall(r"\w+", text.lower()):
                row[zlib.crc32(word.encode()) % self.dimensions] += 1
            if not row.any():
                raise Refused("a text without a word has no direction")  # fails its document, and no other
        return vectors


class FirstPassage:
    model_id = "first-passage"
    system = None  # of the index
    prompt_tokens, token_limit = 4_000, 5_000  # of a prompt; with its answer

    def __init__(self, **_):
        pass

    def count_tokens(self, text):
        return len(text.split())

    def reply(self, messages, on_token=None):
        passage = messages[-1]["content"].partition("\n</passage>")[0]
        text = f"{passage.splitlines()[-1]} [1]"
        if on_token:
            on_token(text)
        return Reply(
            text=text, input_tokens=self.count_tokens(passage), output_tokens=self.count_tokens(text)
        )


class SharedLetters:
    model_id = "shared-letters"
    token_limit = 1_000  # of a question and one passage
    batch_size = 50

    def __init__(self, **_):
        pass

    def count_tokens(self, text):
        return len(text.split())

    def rerank(self, query, texts):
        asked = _triples(query)
        return [len(asked & _triples(text)) / max(1, len(asked)) for text in texts]


def _triples(text):
    return {text[at : at + 3].lower() for at in range(len(text) - 2)}
