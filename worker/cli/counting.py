"""The shipped embedding backend of a demo that counts its requests."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker import configuration
from worker.backends.llm import LLMEmbeddingBackend
from worker.cli.demo import REQUESTS


class CountingBackend(LLMEmbeddingBackend):
    """A class of one's own in the settings, as anybody may name one."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        with (configuration.current().home / REQUESTS).open("ab") as file:
            file.write(b".")
        return super().embed(texts)
