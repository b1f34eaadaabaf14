"""The protocols for classes of your own: an embedding backend, a chat backend, a source.

Name your class as `CLASS` in the settings. It needs no base class: its attributes and methods are enough.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChatBackend", "EmbeddingBackend", "Reply", "Source"]


class EmbeddingBackend(Protocol):
    """Turns texts into vectors. Each process makes one object and calls it from many threads."""

    model_id: str
    token_limit: int  # tokens of one input
    batch_token_limit: int  # tokens of one request
    batch_size: int  # inputs of one request
    tokenizer: str  # its name; a change of it changes the chunks
    chunk_tokens: int  # the chunk size that suits the model
    document_prefix: str
    query_prefix: str

    @property
    def dimensions(self) -> int:
        """Length of a vector; may ask the provider once."""

    @property
    def count_tokens(self) -> Callable[[str], int]:
        """Count the tokens of a text, never under the provider's own count."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Send one request: an array (len(texts), dimensions) in the order of the texts, of finite non-zero rows.

        Raises TooLarge, ProviderUnavailable, Refused or SettingsError, and nothing else. Never raises Refused for the
        word "dimensions", which workers send to check the provider.
        """


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a chat model answered."""

    text: str
    input_tokens: int  # as the provider counted, else our own count
    output_tokens: int


class ChatBackend(Protocol):
    """Answers messages. Each process makes one object and calls it from many threads."""

    model_id: str
    token_limit: int  # tokens of a prompt with its answer
    prompt_tokens: int  # tokens of a prompt, at most; room for the answer is already subtracted
    system: str | None  # wins over the index's QUERY_PROMPT
    count_tokens: Callable[[str], int]  # never under the provider's own count

    def reply(self, messages: Sequence[Mapping[str, str]], say: Callable[[str], None] | None = None) -> Reply:
        """Answer messages {"role", "content"}; `say` takes each piece as it comes, and may raise."""


class Source(Protocol):
    """Yields the documents of an index. It is made with the keys of its CONFIG, in lower case, as keyword arguments.

    Raise SettingsError from `__init__` for a CONFIG that you cannot use.
    """

    def documents(self) -> Iterator[Any]:
        """Yield all documents, as `tasks.index_documents` takes them, one at a time.

        Any exception ends the run; nothing is deleted then.
        """
