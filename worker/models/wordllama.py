"""WordLlama: an offline embedding model that averages static word vectors. 256 dimensions, thousands of texts a second.

It reads two data files of the `wordllama` wheel (model l2_supercat, MIT), and returns the same vectors as the package's
own `embed(norm=True)`. It avoids importing the package, which configures logging on import, pads each batch to its
longest text, and turns a text without tokens into NaN.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from threading import Lock
from typing import cast

import numpy as np
from llm.models import EmbeddingModel
from numpy.typing import NDArray
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from worker.tokens import package_file

WEIGHTS = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"

_loading = Lock()


class WordLlama(EmbeddingModel):
    """The model `wordllama`. Loads its files at the first text, once per process; safe in threads."""

    model_id = "wordllama"
    dimensions = 256
    batch_size = 512

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """Return a unit vector for each text. Raises ValueError for a text without tokens, which has no direction."""
        with _loading:
            tokenizer, table = _files()
        texts = list(cast(Iterable[str], items))
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        if not all(ids):
            raise ValueError(
                "a text without tokens, such as an empty one, cannot be embedded: send texts with words"
            )
        # text by text, since the rows of a whole batch would take some hundred megabytes
        means = np.stack([table[rows].mean(axis=0) for rows in ids])
        return iter((means / np.linalg.norm(means, axis=1, keepdims=True)).tolist())


@cache
def _files() -> tuple[Tokenizer, NDArray[np.float32]]:
    """Load the files once for all instances: `llm` makes a new one at each look-up, and the table has 33 MB."""
    tokenizer = Tokenizer.from_file(str(package_file("wordllama", TOKENIZER)))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    table = load_file(package_file("wordllama", WEIGHTS))["embedding.weight"]
    return tokenizer, table.astype(np.float32)
