"""The embedding backend for every embedding model of `llm`."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.backends import finish_imports
from worker.backends.failures import classify
from worker.backends.limits import embedding_limits
from worker.backends.llm.deadline import call_with_timeout
from worker.backends.llm.lookup import embedding_model, name_for_limits, secrets
from worker.errors import ProviderUnavailable, Refused, SettingsError, VectorIndexError
from worker.tokens import ESTIMATE, OPENAI_ENCODINGS, counter, tokenizer_file

DEFAULT_BATCH_SIZE = 100
DEFAULT_CHUNK_TOKENS = 512


class LLMEmbeddingBackend:
    """One entry of EMBEDDING_BACKENDS, with the limits of its settings, else of limits.toml, else safe defaults.

    Safe in threads. Raises SettingsError for a model, an attribute or a tokenizer that does not exist, and for a model
    without a known limit if TOKEN_LIMIT is not set.
    """

    model_id: str  # as llm resolves it, without an alias
    token_limit: int  # tokens of one input
    batch_token_limit: int  # tokens of one request, over all its inputs
    batch_size: int  # inputs of one request
    tokenizer: str  # a name of worker.tokens
    chunk_tokens: int  # default size of a chunk, counted by the tokenizer or, if it is not known, estimated

    def __init__(
        self,
        *,
        name: str,
        model_id: str,
        init_kwargs: Mapping[str, Any] | None = None,
        token_limit: int | None = None,
        batch_token_limit: int | None = None,
        batch_size: int | None = None,
        dimensions: int | None = None,
        tokenizer: str | None = None,
        document_prefix: str = "",
        query_prefix: str = "",
        timeout_seconds: float = 60.0,
    ) -> None:
        self.name = name
        self._init_kwargs = init_kwargs or {}
        self._model = embedding_model(name, model_id, self._init_kwargs)
        if hasattr(self._model, "timeout_seconds") and "timeout_seconds" not in self._init_kwargs:
            self._model.timeout_seconds = timeout_seconds
        # only for models that can shorten their vectors: others refuse a request with this parameter
        if getattr(self._model, "can_shorten", False) and self._model.dimensions is None:  # type: ignore[attr-defined]
            self._model.dimensions = dimensions  # type: ignore[attr-defined]
        self.model_id = self._model.model_id
        self._known = known = embedding_limits(name_for_limits(self._model))
        if token_limit is None and known is None:
            raise SettingsError(
                f"TOKEN_LIMIT of embedding backend {name!r} is missing, and the limit of {self.model_id!r} is not "
                "known: set it to the most tokens that the model takes in one input"
            )
        limit = token_limit or (known.token_limit if known else 0)
        known_batch = known.batch_token_limit if known and token_limit is None else None
        self.batch_token_limit = batch_token_limit or known_batch or limit
        self.token_limit = min(limit, self.batch_token_limit)
        self.batch_size = (
            batch_size or (known and known.batch_size) or self._model.batch_size or DEFAULT_BATCH_SIZE
        )
        self.tokenizer = tokenizer or (known and known.tokenizer) or ESTIMATE
        if self.tokenizer not in (ESTIMATE, *OPENAI_ENCODINGS):
            tokenizer_file(self.tokenizer)
        self.chunk_tokens = min(self.token_limit, (known and known.chunk_tokens) or DEFAULT_CHUNK_TOKENS)
        self.document_prefix = document_prefix
        self.query_prefix = query_prefix
        self.timeout_seconds = timeout_seconds
        self._given_dimensions = dimensions
        self._has_fitted = False  # whether a vector had the expected length

    @property
    def count_tokens(self) -> Callable[[str], int]:
        """The function that counts tokens: exactly, or by an upper bound if the tokenizer is not known."""
        return counter(self.tokenizer)

    @property
    def stated_dimensions(self) -> int | None:
        """The length of a vector by the settings, the model or limits.toml; `None` if only the provider knows it."""
        of_model: int | None = getattr(self._model, "dimensions", None)
        known = self._known.dimensions if self._known else None
        return self._given_dimensions or of_model or known

    @cached_property
    def dimensions(self) -> int:
        """The length of a vector: as stated, else from a request with one word."""
        return self.stated_dimensions or self._length_of_an_answer()

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Send one request, and return vectors of shape (len(texts), dimensions): in order, finite and non-zero.

        Raises TooLarge, Refused, ProviderUnavailable or SettingsError, as `failures.classify` decides. Raises
        SettingsError if all vectors of a request have the same other length, and Refused if some vectors have another
        length, are missing, or have no direction (zeros, NaN): these inputs are at fault, or the number of inputs.
        """
        if not texts:
            return np.empty((0, self.dimensions), dtype=np.float32)
        expected = self.dimensions
        rows = self._request(texts)
        if (wrong := [row.size for row in rows if row.size != expected]) or len(rows) != len(texts):
            raise self._unusable(texts, rows, wrong)
        self._has_fitted = True
        vectors = np.stack(rows)
        if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
            raise Refused(f"{self.model_id} returned a vector of zeros or NaN, which has no direction")
        return vectors

    def _unusable(
        self, texts: Sequence[str], rows: Sequence[NDArray[np.float32]], wrong: Sequence[int]
    ) -> VectorIndexError:
        """Class an answer by what differs: all vectors alike is a matter of settings, some vectors of their inputs."""
        if not rows:
            return ProviderUnavailable(
                f"{self.model_id} returned no vectors for {len(texts)} texts; retry later"
            )
        if len(rows) != len(texts):
            return Refused(f"{self.model_id} returned {len(rows)} vectors for {len(texts)} texts")
        if 0 in wrong:
            return Refused(f"{self.model_id} returned no vector for {wrong.count(0)} of {len(texts)} texts")
        lengths = ", ".join(map(str, sorted(set(wrong))))
        if len(wrong) == len(rows) and len(set(wrong)) == 1 and not (self._has_fitted and len(rows) == 1):
            return SettingsError(
                f"{self.model_id} returns vectors of length {lengths} instead of {self.dimensions}: set "
                f"EMBEDDING_OUTPUT_DIMENSIONS of embedding backend {self.name!r} to the length that the model returns"
            )
        # one vector says nothing about the others, which had the right length: a probe does
        some = f" for {len(wrong)} of {len(texts)} texts" if len(texts) > 1 else ""
        return Refused(
            f"{self.model_id} returned a vector of length {lengths} instead of {self.dimensions}{some}"
        )

    def _length_of_an_answer(self) -> int:
        """Ask for the vector of one word. Raises Refused for an empty one."""
        rows = self._request(["dimensions"])
        if not rows or not rows[0].size:
            raise Refused(f"{self.model_id} returned an empty vector")
        return rows[0].size

    def _request(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """Send a request. Returns the vectors as they come: unchecked, an empty one for what is no vector."""
        failure: VectorIndexError | None = None
        try:
            finish_imports(self._model)
            rows = call_with_timeout(self.timeout_seconds, partial(self._vectors, texts))
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and classify decides
            failure = classify(
                error, model_id=self.model_id, texts=texts, secrets=secrets(self._model, self._init_kwargs)
            )
        # raised outside the handler, since the traceback of the plugin's exception may hold the request
        if failure:
            raise failure
        return rows

    def _vectors(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        with np.errstate(over="ignore"):  # `embed` checks for infinite values
            found = self._model.embed_multi(list(texts), batch_size=len(texts))
            return [_vector(row) for row in found]


def _vector(row: object) -> NDArray[np.float32]:
    """A vector of a plugin as an array; an empty one for what is no list of numbers."""
    try:
        vector = np.asarray(row, dtype=np.float32)
    except (TypeError, ValueError):
        return np.empty(0, dtype=np.float32)
    return vector if vector.ndim == 1 else np.empty(0, dtype=np.float32)
