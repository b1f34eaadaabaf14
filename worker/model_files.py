"""The files of the shipped model: two data files of the `wordllama` wheel (model l2_supercat, MIT)."""

from functools import cache
from typing import TYPE_CHECKING

from worker.tokens import load_tokenizer, package_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

WEIGHTS = "weights/l2_supercat_256.safetensors"
TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"


@cache
def load() -> "tuple[Tokenizer, NDArray[np.float32]]":
    """Load the tokenizer and the table of vectors, once per process: the table has 33 MB."""
    # here, since a process without this model needs neither
    import numpy as np
    from safetensors.numpy import load_file

    table = load_file(package_file("wordllama", WEIGHTS))["embedding.weight"]
    return load_tokenizer(package_file("wordllama", TOKENIZER)), table.astype(np.float32)
