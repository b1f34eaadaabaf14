"""Embedding models over OpenAI's HTTP: OpenAI's own, and every server that speaks it.

`llm` registers OpenAI's own under the same names, with a class that makes a client for each request (22 ms of CPU),
waits for 600 s, retries inside the call, takes vectors in the order in which they come, and knows no other server.
Ours are registered after them, and so are what the names resolve to.
"""

import base64
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from threading import Lock
from typing import Any, cast

import llm
import numpy as np
import openai
from llm.models import EmbeddingModel
from numpy.typing import NDArray

from worker.backends.limits import embedding_limits

_making = Lock()

# what a server says that does not take base64
_REFUSES_BASE64 = re.compile(r"encoding_format|base64", re.IGNORECASE)


class OpenAIEmbeddings(EmbeddingModel):
    """Safe in threads. One client per process, with its connections; nothing is retried.

    Vectors travel as base64, which takes a quarter of the CPU of floats. Some servers ignore it, refuse it, or return
    something else: LM Studio (its bug tracker, 756), LiteLLM in front of Ollama (192 numbers in place of 768, pull
    request 42421). So it is asked for once the length of a vector is known, and an answer of another length is
    compared with one in floats, which this object goes on to ask for if they differ.
    """

    batch_size = 100
    timeout_seconds = 60.0  # of a connection, and of silence during a request

    def __init__(
        self,
        model_id: str,
        model_name: str,
        *,
        dimensions: int | None = None,
        can_shorten: bool = False,
        api_base: str | None = None,
        api_key_name: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.model_id = model_id
        self.model_name = model_name  # as the server calls it
        self.dimensions = dimensions  # sent with each request; None: not sent, many servers refuse it
        self.can_shorten = can_shorten  # whether the model is known to take `dimensions`
        self.api_base = api_base  # None: OPENAI_BASE_URL, else OpenAI
        self.headers = headers
        self.takes_base64 = True  # until this server shows that it does not; else it is asked for floats
        # a server with an address of its own never gets OpenAI's key, unless its entry names it
        self.needs_key = api_key_name or (None if api_base else "openai")
        self.key_env_var = None if api_base else "OPENAI_API_KEY"
        known = embedding_limits(model_name)
        self._length = dimensions or (known.dimensions if known else None)  # of a vector; None: not yet known
        self._clients: dict[tuple[object, ...], openai.OpenAI] = {}

    def embed(self, item: str | bytes, *, key: str | None = None) -> list[float]:
        """A list, which `llm embed` can print."""
        vector: list[float] = np.asarray(super().embed(item, key=key)).tolist()
        return vector

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """An array of float32 for each text, in order, from one request; their length and values are not judged.

        Raises what the openai package raises, and ModelError for an answer without a vector for each text.
        """
        texts = cast(list[str], list(items))
        client = self._client(key)
        found = None
        tried = self.takes_base64 and (self.dimensions or self._length) is not None
        if tried:
            found = self._base64(client, texts)
            if found is not None and _lengths(found) == {self.dimensions or self._length}:
                return iter(cast(list[list[float]], found))
        vectors = self._floats(self._request(client, texts, "float"))
        if tried:
            self.takes_base64 = found is not None and _lengths(found) == _lengths(vectors)
        self._length = len(vectors[0])
        return iter(cast(list[list[float]], vectors))

    def _base64(self, client: openai.OpenAI, texts: list[str]) -> list[NDArray[np.float32]] | None:
        """None where the server does not take it, or sends what is no base64 of floats."""
        try:
            rows = self._request(client, texts, "base64")
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if _REFUSES_BASE64.search(str(error)):
                return None
            raise
        if not all(isinstance(row, str) for row in rows):
            self.takes_base64 = False
            return self._floats(rows)
        try:
            return [np.frombuffer(base64.b64decode(row, validate=True), dtype="<f4") for row in rows]
        except ValueError:
            return None

    def _floats(self, rows: list[Any]) -> list[NDArray[np.float32]]:
        with suppress(TypeError, ValueError):
            vectors = [np.array(row, dtype=np.float32) for row in rows]
            if all(vector.ndim == 1 for vector in vectors):
                return vectors
        raise llm.ModelError("the answer has vectors that are no lists of numbers")

    def _request(self, client: openai.OpenAI, texts: list[str], encoding: str) -> list[Any]:
        """What the answer has for each text, in their order."""
        request: dict[str, Any] = {"model": self.model_name, "input": texts, "encoding_format": encoding}
        if self.dimensions:
            request["dimensions"] = self.dimensions
        # embeddings.create looks at the type of each text, and makes an object of each vector: 3 ms for 100
        body: Any = client.post("/embeddings", body=request, cast_to=object)
        body = body if isinstance(body, dict) else {}
        if isinstance(said := body.get("error"), dict):  # gateways say so with status 200
            raise llm.ModelError(f"{said.get('code')}: {said.get('message')}")
        data = body.get("data")
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            raise llm.ModelError("the answer has no list of embeddings")
        if len(data) != len(texts):
            raise llm.ModelError(f"the answer has {len(data)} vectors for {len(texts)} texts")
        rows = {item.get("index", at): item.get("embedding") for at, item in enumerate(data)}
        if rows.keys() != set(range(len(texts))):
            raise llm.ModelError("the answer does not say which vector belongs to which text")
        return [rows[at] for at in range(len(texts))]

    def _client(self, key: str | None) -> openai.OpenAI:
        """Made by the process that sends: connections of a parent are not for its children."""
        headers = self.headers or {}
        made_for = (os.getpid(), self.api_base, key, self.timeout_seconds, frozenset(headers.items()))
        with _making:
            if made_for not in self._clients:
                client = self._clients[made_for] = openai.OpenAI(
                    # the package takes no empty key, nor does llm for its chat models
                    api_key=key or "DUMMY_KEY",
                    base_url=self.api_base,
                    default_headers=headers,
                    timeout=self.timeout_seconds,
                    max_retries=0,
                )
                # the texts, and all headers but Authorization, would go along to whatever host it names
                client._client.follow_redirects = False
            return self._clients[made_for]


def _lengths(vectors: list[NDArray[np.float32]]) -> set[int]:
    return {vector.size for vector in vectors}
