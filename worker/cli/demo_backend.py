"""The embedding backend of `demo`: the default one, with a counter of its requests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker import configuration
from worker.backends.llm import LLMEmbeddingBackend
from worker.cli.demo import REQUESTS


class CountingBackend(LLMEmbeddingBackend):
    """Appends a byte to a file for each request. Named in the settings, as any backend class of a user is."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with (configuration.current().home / REQUESTS).open("ab") as file:
            file.write(b".")
        return super().embed(texts)
