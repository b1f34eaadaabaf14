"""WordLlama: an offline embedding model that averages static word vectors. 256 dimensions, thousands of texts a second.

It reads the files of the `wordllama` wheel, and returns the same vectors as the package's
own `embed(norm=True)`. It avoids importing the package, which configures logging on import, pads each batch to its
longest text, and turns a text without tokens into NaN.
"""

from collections.abc import Iterable, Iterator
from threading import Lock
from typing import cast

import numpy as np
from llm.models import EmbeddingModel

from worker import model_files

_loading = Lock()


class WordLlama(EmbeddingModel):
    """The model `wordllama`. Loads its files at the first text, once per process; safe in threads."""

    model_id = "wordllama"
    dimensions = 256
    batch_size = 512

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """Return a unit vector for each text. Raises ValueError for a text without tokens, which has no direction."""
        with _loading:
            tokenizer, table = model_files.load()
        texts = list(cast(Iterable[str], items))
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        if not all(ids):
            raise ValueError(
                "a text without tokens, such as an empty one, cannot be embedded: send texts with words"
            )
        used = np.flatnonzero(np.bincount(np.concatenate(ids)))
        rows = np.empty(table.shape, np.float32)  # only those that are used take memory
        rows[used] = table[used]
        # text by text, since the rows of a whole batch would take some hundred megabytes
        means = np.stack([rows[numbers].mean(axis=0) for numbers in ids])
        return iter((means / np.linalg.norm(means, axis=1, keepdims=True)).tolist())
