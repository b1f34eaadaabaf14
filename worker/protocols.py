"""Protocols for your own classes: an embedding backend, a chat backend, a rerank backend and a source.

Set `CLASS` in VECTOR_INDEX to the dotted path of your class. A base class is optional.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from worker.chat_results import FinishReason

__all__ = [
    "ChatBackend",
    "CheckedSource",
    "EmbeddingBackend",
    "IncrementalSource",
    "LeftOut",
    "Reasoning",
    "Reply",
    "RerankBackend",
    "Skipped",
    "Source",
]


class EmbeddingBackend(Protocol):
    """Turns texts into vectors.

    Each worker process makes one object for each entry of EMBEDDING_BACKENDS, and calls it from many threads.
    `__init__` gets the `name` of the entry and the keys of its CONFIG as keyword arguments, in lower case. Missing keys
    arrive as their default, which is `None` for the limits. EMBEDDING_OUTPUT_DIMENSIONS arrives as `dimensions`.
    CONCURRENCY and the limits per minute stay with the worker. Take `**_` for the arguments that you leave unused.
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
        """A function that counts the tokens of a text. It must count at least as many as the provider."""

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
    finish_reason: FinishReason = "stop"
    reasoning: str = ""  # what the model thought before it answered, if it is not part of `text`


class Reasoning(str):
    """A piece of the model's reasoning, for `on_token`: it is shown apart from the answer."""

    __slots__ = ()


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
        its exceptions pass: they end the request. It is passed by position. Wrap a piece of reasoning in `Reasoning`;
        reasoning between `<think>` and `</think>` is recognised in any piece.
        Raise the errors that `EmbeddingBackend.embed` raises. A ProviderUnavailable before the first token is retried.
        """


class RerankBackend(Protocol):
    """Scores how well passages answer a question.

    Each worker process makes one object for each entry of RERANK_BACKENDS, and calls it from many threads. Its
    arguments arrive in the same way as those of an EmbeddingBackend.
    """

    model_id: str
    token_limit: int  # tokens of the question and one passage together; longer passages arrive cut
    batch_size: int  # passages of one request
    count_tokens: Callable[[str], int]

    def rerank(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Send one request, and return one score for each text, in the same order: the higher, the better.

        Scores are finite, on any scale. Raise the errors that `EmbeddingBackend.embed` raises: after any of them, the
        search keeps its order and says why. Return within the time that a reader waits: nothing ends the call.
        """


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A document that a source cannot deliver. Yield it instead of the document; the run continues."""

    path: str  # shown to the operator: a file, a line as in `file.jsonl:7`, or a row
    reason: str
    # of the document, which stays as it is in the index; None: not known, so the run deletes no document
    id: str | None = None

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Characters that a source left out of a document, as no reader sees them. Yield it beside the document."""

    kind: str  # such as "hidden text"
    characters: int


class Source(Protocol):
    """Yields the documents of an index, so that `reindex` and SCHEDULE can read them.

    `__init__` gets the keys of the source's CONFIG as keyword arguments, in lower case. Raise SettingsError from it if
    the CONFIG cannot work. Do not connect in it: every worker makes the sources of all indexes when it starts.

    The optional class attribute `defaults_from_settings` fills keys that are missing in CONFIG from settings. With
    `{"dsn": "DATABASE_URL"}`, the URL of the worker's Postgres arrives as `dsn`. MAX_DOCUMENT_BYTES and
    SETTINGS_FOLDER, the folder of the settings file, work in the same way.
    """

    def documents(self) -> Iterator[Any]:
        """Yield every document, in the form that `tasks.index_documents` takes, or a Skipped for it.

        A LeftOut may stand between documents: a run adds up its characters in `left_out` of its result.

        After a complete run, the index deletes the documents that you left out. An exception ends the run as failed,
        without a deletion.
        """


@runtime_checkable
class CheckedSource(Source, Protocol):
    """A source that `vector-index doctor` can check."""

    def check(self) -> str:
        """Describe in one line what a run would read, without reading a document.

        Raise SettingsError or SourceFailed, with the fix, if a run would fail.
        """


@runtime_checkable
class IncrementalSource(Source, Protocol):
    """A source that can yield only the documents that changed since the last run."""

    def fingerprint(self) -> str:
        """Identify the data of a cursor, such as a server and a query. After a change, a run starts from the beginning.

        Return an empty string if this source has no cursor with its CONFIG: then `documents` is called.
        """

    def documents_since(self, cursor: str | None) -> Generator[Any, None, str | None]:
        """Yield the documents that changed since the cursor, or all for `None`. Return the cursor of the next run.

        A cursor is any text without NUL characters. Return `None` to keep the last cursor. An incremental run deletes
        nothing. A full run (`vector-index reindex --full`) passes `None` and deletes the documents that you left out.
        """
