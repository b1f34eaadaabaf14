"""The protocols for classes of your own: an embedding backend, a chat backend, a source.

Name your class as `CLASS` in the settings. It needs no base class: its attributes and methods are enough.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ChatBackend",
    "CheckedSource",
    "EmbeddingBackend",
    "IncrementalSource",
    "Reply",
    "Skipped",
    "Source",
]


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


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A document that a source cannot deliver; the others are indexed all the same."""

    path: str  # where it is, for the operator: a file, a line as in `file.jsonl:7`, a row
    reason: str
    id: str | None = (
        None  # of the document, whose served revision stays; None: unknown, so the run deletes nothing
    )

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class Source(Protocol):
    """Yields the documents of an index. It is made with the keys of its CONFIG, in lower case, as keyword arguments.

    Raise SettingsError from `__init__` for a CONFIG that you cannot use. Connect to nothing there: every worker makes
    the sources of all indexes when it starts.

    The optional class attribute `defaults_from_settings` fills keys that CONFIG leaves out from settings:
    `{"dsn": "DATABASE_URL"}` passes the address of the worker's Postgres as `dsn`. Other settings that it may name:
    MAX_DOCUMENT_BYTES, and SETTINGS_FOLDER for the folder of the settings file.
    """

    def documents(self) -> Iterator[Any]:
        """Yield all documents, as `tasks.index_documents` takes them, one at a time; Skipped for one that you cannot.

        After a complete run, documents of the index that were not yielded are deleted. Any exception ends the run, and
        nothing is deleted.
        """


@runtime_checkable
class CheckedSource(Source, Protocol):
    """A source that `vector-index doctor` can check."""

    def check(self) -> str:
        """Say in one line what a run would read; read no document. Raise SettingsError or SourceFailed with the fix."""


@runtime_checkable
class IncrementalSource(Source, Protocol):
    """A source that can yield only what changed since the run before."""

    def fingerprint(self) -> str:
        """Name what a cursor belongs to: the server, the query. Another one starts from the beginning.

        An empty text means that this source, as configured, has no cursor: then `documents` is called.
        """

    def documents_since(self, cursor: str | None) -> Generator[Any, None, str | None]:
        """Yield the documents changed since the cursor, or all of them for None; return the next run's cursor.

        A cursor is any text without NUL characters. Returning None keeps the one before. An incremental run deletes
        nothing; a full run, `vector-index reindex --full`, passes None and deletes documents that were not yielded.
        """
