"""WordLlama: static word vectors, averaged. 256 dimensions, offline, thousands of texts a second.

Read from the two data files of the `wordllama` wheel (model l2_supercat, MIT), with the same vectors as the
package's own `embed(norm=True)`. The package is never imported: that would set up logging, its tokenizer pads
each batch to the longest text, and it turns a text without tokens into NaN.
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
    """Loads its files at the first text, once per process; safe in threads."""

    model_id = "wordllama"
    dimensions = 256
    batch_size = 512

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        """A unit vector per text. Raises ValueError for a text without tokens, which has no direction."""
        with _loading:
            tokenizer, table = _files()
        texts = list(cast(Iterable[str], items))
        ids = [encoding.ids for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        if not all(ids):
            raise ValueError("a text without tokens, such as an empty one, cannot be embedded")
        # text by text: the rows of a whole batch at once would be some hundred megabytes
        means = np.stack([table[rows].mean(axis=0) for rows in ids])
        return iter((means / np.linalg.norm(means, axis=1, keepdims=True)).tolist())


@cache
def _files() -> tuple[Tokenizer, NDArray[np.float32]]:
    """For all instances: `llm` makes a new one at each look-up, and the table has 33 MB."""
    tokenizer = Tokenizer.from_file(str(package_file("wordllama", TOKENIZER)))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    table = load_file(package_file("wordllama", WEIGHTS))["embedding.weight"]
    return tokenizer, table.astype(np.float32)
