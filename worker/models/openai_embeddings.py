"""Embedding models of OpenAI and of every server with OpenAI's HTTP API.

`llm` registers OpenAI's models under the same names. Its class makes a client for each request (22 ms of CPU), waits
for 600 s, retries inside the call, assumes that vectors arrive in order, and supports no other server. Ours are
registered after them, so the names resolve to ours.
"""

# openai is imported at its first use, so annotations must not use it
from __future__ import annotations

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

# the message of a server that does not accept base64
_REFUSES_BASE64 = re.compile(r"encoding_format|base64", re.IGNORECASE)


class OpenAIEmbeddings(EmbeddingModel):
    """An embedding model of an OpenAI-compatible server. Safe in threads; one client per process, without retries.

    Vectors arrive as base64, which takes a quarter of the CPU of floats. Some servers ignore the parameter, refuse it,
    or return something else: LM Studio (its bug tracker, 756), LiteLLM in front of Ollama (192 numbers instead of 768,
    pull request 42421). So requests use base64 only after the length of a vector is known. An answer of another length
    is compared with one in floats. If they differ, all later requests use floats.
    """

    batch_size = 100
    timeout_seconds = 60.0  # to connect, and for a silence during a request

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
        self.model_name = model_name  # the server's name for it
        self.dimensions = dimensions  # sent with each request; None: not sent, since many servers refuse it
        self.can_shorten = can_shorten  # whether the model accepts `dimensions`
        self.api_base = api_base  # None: OPENAI_BASE_URL, else OpenAI
        self.headers = headers
        self.takes_base64 = True  # until the server shows otherwise; then requests use floats
        # a server with its own URL gets OpenAI's key only if its entry names that key
        self.needs_key = api_key_name or (None if api_base else "openai")
        self.key_env_var = None if api_base else "OPENAI_API_KEY"
        known = embedding_limits(model_name)
        self._length = dimensions or (known.dimensions if known else None)  # of a vector; None: not yet known
        self._clients: dict[tuple[object, ...], openai.OpenAI] = {}

    def embed(self, item: str | bytes, *, key: str | None = None) -> list[float]:
        """Embed one text as a list, which `llm embed` can print."""
        vector: list[float] = np.asarray(super().embed(item, key=key)).tolist()
        return vector

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """Send one request, and return an array of float32 for each text, in order, without a check of the values.

        Raises the errors of the openai package, and ModelError for an answer without a vector for each text.
        """
        texts = cast(list[str], list(items))
        client = self._client(key)
        found = None
        use_base64 = self.takes_base64 and (self.dimensions or self._length) is not None
        if use_base64:
            found = self._base64(client, texts)
            if found is not None and _lengths(found) == {self.dimensions or self._length}:
                return iter(cast(list[list[float]], found))
        vectors = self._floats(self._request(client, texts, "float"))
        if use_base64:
            self.takes_base64 = found is not None and _lengths(found) == _lengths(vectors)
        self._length = len(vectors[0])
        return iter(cast(list[list[float]], vectors))

    def _base64(self, client: openai.OpenAI, texts: list[str]) -> list[NDArray[np.float32]] | None:
        """Ask for base64; `None` if the server refuses it or sends something else."""
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
        raise llm.ModelError("the answer has vectors that are not lists of numbers")

    def _request(self, client: openai.OpenAI, texts: list[str], encoding: str) -> list[Any]:
        """Send a request, and return the embedding of each text as it is in the answer, in the order of the texts."""
        request: dict[str, Any] = {"model": self.model_name, "input": texts, "encoding_format": encoding}
        if self.dimensions:
            request["dimensions"] = self.dimensions
        # embeddings.create checks the type of each text and makes an object of each vector: 3 ms for 100
        body: Any = client.post("/embeddings", body=request, cast_to=object)
        body = body if isinstance(body, dict) else {}
        if isinstance(said := body.get("error"), dict):  # gateways report errors with status 200
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
        """The client of this process, since a child process cannot share the connections of its parent."""
        headers = self.headers or {}
        made_for = (os.getpid(), self.api_base, key, self.timeout_seconds, frozenset(headers.items()))
        with _making:
            if made_for not in self._clients:
                client = self._clients[made_for] = openai.OpenAI(
                    # the package refuses an empty key; llm uses the same value for its chat models
                    api_key=key or "DUMMY_KEY",
                    base_url=self.api_base,
                    default_headers=headers,
                    timeout=self.timeout_seconds,
                    max_retries=0,
                )
                # a redirect would send the texts, and all headers but Authorization, to any host that it names
                client._client.follow_redirects = False
            return self._clients[made_for]


def _lengths(vectors: list[NDArray[np.float32]]) -> set[int]:
    return {vector.size for vector in vectors}
