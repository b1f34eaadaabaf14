"""Protocols for your own classes: an embedding backend, a chat backend and a source.

Set `CLASS` in VECTOR_INDEX to the dotted path of your class. It needs no base class: only these attributes and methods.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChatBackend", "EmbeddingBackend", "Reply", "Source"]


class EmbeddingBackend(Protocol):
    """Turns texts into vectors.

    Each worker process makes one object for each entry of EMBEDDING_BACKENDS, and calls it from many threads.
    `__init__` gets the `name` of the entry and the keys of its CONFIG as keyword arguments, in lower case. Missing keys
    arrive as their default or as None. EMBEDDING_OUTPUT_DIMENSIONS arrives as `dimensions`. CONCURRENCY and the limits
    per minute are for the worker and do not arrive. Take `**_` for the arguments that you do not use.
    """

    model_id: str
    token_limit: int  # tokens of one input
    batch_token_limit: int  # tokens of one request, over all its inputs
    batch_size: int  # inputs of one request
    tokenizer: str  # the name of the tokenizer; another name changes the chunks
    chunk_tokens: int  # the chunk size that suits the model, unless the index sets CHUNK_TOKENS
    document_prefix: str  # put in front of each chunk
    query_prefix: str  # put in front of each question

    @property
    def dimensions(self) -> int:
        """The length of a vector. May ask the provider once."""

    @property
    def count_tokens(self) -> Callable[[str], int]:
        """A function that counts the tokens of a text. It must never count fewer than the provider."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Send one request, and return one vector for each text, in the same order.

        The array has the shape (len(texts), dimensions). Its values are finite, and no row is zero.
        Raise only errors of worker.errors: TooLarge to get smaller requests, ProviderUnavailable to be called again
        later, Refused if one input is at fault, and SettingsError if every request would fail.
        Never raise Refused for the text "dimensions": workers send it to check whether the provider is up.
        """


@dataclass(frozen=True, kw_only=True)
class Reply:
    """The answer of a chat model."""

    text: str
    input_tokens: int  # of the prompt, as the provider counts; otherwise your own count
    output_tokens: int  # of the answer, as the provider counts; otherwise your own count


class ChatBackend(Protocol):
    """Answers a conversation.

    Each worker process makes one object for each entry of CHAT_BACKENDS, and calls it from many threads. Its arguments
    arrive in the same way as those of an EmbeddingBackend.
    """

    model_id: str
    token_limit: int  # the model's context window: tokens of a prompt and its answer together
    prompt_tokens: int  # the most tokens of a prompt: token_limit minus the room for the answer
    system: str | None  # the system message; None: the QUERY_PROMPT of the index
    count_tokens: Callable[[str], int]  # must never count fewer than the provider

    def reply(
        self, messages: Sequence[Mapping[str, str]], on_token: Callable[[str], None] | None = None
    ) -> Reply:
        """Answer the messages, each {"role": "system" | "user" | "assistant", "content": text}.

        The last message is the user's. With `on_token`, call it with each piece of the answer as it arrives, and let
        its exceptions pass: they end the request. It is passed by position.
        Raise the errors that `EmbeddingBackend.embed` raises. A ProviderUnavailable before the first token is retried.
        """


class Source(Protocol):
    """Yields the documents of an index, so that `reindex` and SCHEDULE can read them.

    Each run makes one object, with the keys of CONFIG as keyword arguments, in lower case.
    Raise SettingsError from `__init__` if the CONFIG cannot work.
    """

    def documents(self) -> Iterator[Any]:
        """Yield every document, in the form that `tasks.index_documents` takes.

        An exception ends the run as failed. In that case no document is deleted.
        """
