"""Embedding models of OpenAI and of every server with OpenAI's HTTP API.

`llm` registers OpenAI's models under the same names. Its class makes a client for each request (22 ms of CPU), waits
for 600 s, retries inside the call, assumes that vectors arrive in order, and supports no other server. Ours are
registered after them, so the names resolve to ours.
"""

# openai is imported at its first use, so annotations must not use it
from __future__ import annotations

import binascii
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, cast

import numpy as np
import openai
from llm.models import EmbeddingModel
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from worker.backends.failures import UnexpectedAnswer
from worker.backends.limits import embedding_limits
from worker.backends.urls import with_query_behind_path

_making = Lock()

_NONE: NDArray[np.float32] = np.empty(0, dtype=np.float32)

# the message of a server that does not accept base64
_REFUSES_BASE64 = re.compile(r"encoding_format|base64", re.IGNORECASE)


class OpenAIEmbeddings(EmbeddingModel):
    """An embedding model of an OpenAI-compatible server. Safe in threads; one client per process, without retries.

    Vectors arrive as base64, which takes a quarter of the CPU of floats. Some servers ignore the parameter, refuse it,
    or return something else: LM Studio (its bug tracker, 756), LiteLLM in front of Ollama (192 numbers instead of 768,
    pull request 42421). So requests use base64 only after the length of a vector is known. An answer in which no vector
    has that length is compared with one in floats. If they differ, all later requests use floats.
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

        A text whose vector is missing, `null` or unreadable gets an empty array. Raises the errors of the openai
        package, and UnexpectedAnswer for an answer without embeddings.
        """
        texts = cast(list[str], list(items))
        client = self._client(key)
        found = None
        expected = self.dimensions or self._length
        use_base64 = self.takes_base64 and expected is not None
        if use_base64:
            found = self._base64(client, texts)
            if found is not None and expected in _lengths(found):
                return iter(cast(list[list[float]], found))
        vectors = [_vector(row) for row in self._request(client, texts, "float")]
        if use_base64:
            self.takes_base64 = found is not None and _lengths(found) == _lengths(vectors)
        if self._length is None and len(lengths := _lengths(vectors)) == 1:
            self._length = lengths.pop() or None
        return iter(cast(list[list[float]], vectors))

    def _base64(self, client: openai.OpenAI, texts: list[str]) -> list[NDArray[np.float32]] | None:
        """Ask for base64; `None` if the server refuses it or sends something else."""
        try:
            rows = self._request(client, texts, "base64")
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if _REFUSES_BASE64.search(str(error)):
                return None
            raise
        if any(isinstance(row, list) for row in rows):
            self.takes_base64 = False
            return [_vector(row) for row in rows]
        try:
            return [_unpacked(row) for row in rows]
        except ValueError:
            return None

    def _request(self, client: openai.OpenAI, texts: list[str], encoding: str) -> list[Any]:
        """Send a request. Returns the embedding of each text as it is in the answer, in the order of the texts."""
        request: dict[str, Any] = {"model": self.model_name, "input": texts, "encoding_format": encoding}
        if self.dimensions:
            request["dimensions"] = self.dimensions
        # embeddings.create checks the type of each text and makes an object of each vector: 3 ms for 100
        answer = client.post("/embeddings", body=request, cast_to=openai.APIResponse[object])
        data = _packed(answer.http_response.content) if encoding == "base64" else None
        if not data:
            body: Any = answer.parse()
            data = body.get("data") if isinstance(body, dict) else None
            if not isinstance(data, list) or not data or not all(isinstance(item, dict) for item in data):
                raise UnexpectedAnswer(
                    "the answer has no list of embeddings", body=body, url=str(client.base_url)
                )
        return [item and item.get("embedding") for item in in_order(data, len(texts))]

    def _client(self, key: str | None) -> openai.OpenAI:
        """The client of this process, since a child process cannot share the connections of its parent."""
        headers = self.headers or {}
        made_for = (os.getpid(), self.api_base, key, self.timeout_seconds, frozenset(headers.items()))
        with _making:
            if made_for not in self._clients:
                client = openai.OpenAI(
                    # the package refuses an empty key; llm uses the same value for its chat models
                    api_key=key or "DUMMY_KEY",
                    base_url=self.api_base,
                    default_headers=headers,
                    timeout=self.timeout_seconds,
                    max_retries=0,
                )
                # a redirect would send the texts, and all headers but Authorization, to any host that it names
                client._client.follow_redirects = False
                self._clients[made_for] = with_query_behind_path(client)
            return self._clients[made_for]


def in_order(data: Sequence[Mapping[str, Any]], texts: int) -> Sequence[Mapping[str, Any] | None]:
    """Return the item of each text; `None` for a text whose item is missing, or cannot be told from another.

    Servers state `index` in each item from 0 or from 1, in all but the first (those that leave out a zero), or in none
    (then the items are in the order of the texts). A number that is stated twice says nothing about either item, and
    one that no text has says that the numbers mean something else.
    """
    stated = [item.get("index") for item in data]
    if stated == list(range(texts)):
        return data
    if (
        len(set(map(repr, stated))) == 1 and len(data) == texts
    ):  # missing, `null`, or the same: they have no numbers
        return data
    numbers = [index for index in stated if isinstance(index, int)]
    first = 1 if sorted(numbers) == list(range(1, texts + 1)) else 0
    items: list[Mapping[str, Any] | None] = [None] * texts
    if len(numbers) + stated.count(None) < len(data) or not all(0 <= n - first < texts for n in numbers):
        return items
    times = Counter(numbers)
    for index, item in zip(stated, data, strict=True):
        if index is not None and times[index] == 1:
            items[index - first] = item
    unnumbered = iter([item for index, item in zip(stated, data, strict=True) if index is None])
    if len(data) == texts and max(times.values()) == 1:
        return [next(unnumbered) if item is None else item for item in items]
    return items


def _vector(row: object) -> NDArray[np.float32]:
    """A vector as an array; an empty one for what is no list of numbers. `null` among numbers becomes NaN."""
    if isinstance(row, list):
        try:
            vector = np.array(row, dtype=np.float32)
        except (TypeError, ValueError):
            return _NONE
        return vector if vector.ndim == 1 else _NONE
    return _NONE


class _Item(BaseModel):
    model_config = ConfigDict(val_json_bytes="base64")

    index: Any = None
    embedding: bytes


class _Packed(BaseModel):
    """An answer with base64. pydantic reads it six times as fast as Python's modules for JSON and base64 do."""

    data: list[_Item]


def _packed(content: bytes) -> Sequence[Mapping[str, Any]] | None:
    """The items of an answer in which each embedding is base64, as bytes; `None` for any other answer."""
    try:
        return [vars(item) for item in _Packed.model_validate_json(content).data]
    except ValidationError:
        return None


def _unpacked(row: object) -> NDArray[np.float32]:
    """A vector of bytes, or of their base64, as an array; an empty one for anything else. Raises ValueError."""
    if isinstance(row, str):
        row = binascii.a2b_base64(row, strict_mode=True)
    return np.frombuffer(row, dtype="<f4") if isinstance(row, bytes) else _NONE


def _lengths(vectors: Sequence[NDArray[np.float32]]) -> set[int]:
    return {vector.size for vector in vectors}
