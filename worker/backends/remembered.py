"""The backend of a build whose model the settings no longer name: it serves that build until it is replaced."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.errors import SettingsError
from worker.protocols import EmbeddingBackend


class RememberedBackend:
    """An embedding backend that adds to each error of its settings what to keep in them, and until when."""

    def __init__(self, backend: EmbeddingBackend, advice: str, *, dimensions: int) -> None:
        self._backend, self._advice = backend, advice
        self.model_id = backend.model_id
        self.token_limit = backend.token_limit
        self.batch_token_limit = backend.batch_token_limit
        self.batch_size = backend.batch_size
        self.tokenizer = backend.tokenizer
        self.chunk_tokens = backend.chunk_tokens
        self.dimensions = dimensions
        self.document_prefix = backend.document_prefix
        self.query_prefix = backend.query_prefix
        self.count_tokens = backend.count_tokens

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts. Raises the errors of the backend; a SettingsError says what to keep in the settings."""
        try:
            return self._backend.embed(texts)
        except SettingsError as error:
            raise SettingsError(f"{error}; {self._advice}") from None
