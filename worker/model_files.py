"""The files of the shipped model: two data files of the `wordllama` wheel (model l2_supercat, MIT)."""

import json
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
def load() -> "tuple[Tokenizer, NDArray[np.float16]]":
    """Load the tokenizer and map the table of vectors, once per process.

    The table has a row of 256 numbers for each of 32,000 tokens, 16 MB: of these, a process holds what it reads.
    """
    # here, since a process without this model needs no NumPy
    import numpy as np

    path = package_file("wordllama", WEIGHTS)
    # a file of safetensors: the length of a description in JSON, the description, the numbers
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        tensor = json.loads(file.read(length))["embedding.weight"]
    offset = 8 + length + tensor["data_offsets"][0]
    table = np.memmap(path, np.float16, mode="r", offset=offset, shape=tuple(tensor["shape"]))
    return load_tokenizer(package_file("wordllama", TOKENIZER)), np.asarray(table)
