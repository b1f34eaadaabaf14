"""The errors of this project, by what the caller can do about them.

VectorIndexError
├── TemporaryError               retry later: the request was valid
│   ├── ServiceUnreachable       Postgres or the broker did not answer
│   ├── BuildDropped             the index, or one of its builds, was dropped meanwhile
│   ├── ProviderUnavailable      the model's provider did not answer, or asked to wait
│   └── SourceFailed             the source of an index failed before its end
├── InputError                   correct the input: the same input fails again
│   ├── InvalidDocument          one document is invalid
│   ├── InvalidQuery             an argument of a search or of another task is invalid
│   ├── UnknownIndex             the settings have no index of that name
│   ├── TooLarge                 the provider says that a request or an input is over its limit
│   └── Refused                  the provider refuses this input permanently
└── SettingsError                correct the settings: every request fails until then

Bug                              an unexpected exception, reported without its message

A message is one sentence. It names the value that is wrong, and what to do.
It never contains the text of a document, a question or a key.

The error of a task reaches an application as one of these classes, if the application has imported a copy of this file
that is named `vector_index_errors.py`. It needs the standard library only. That name is stable, and so are the names
and the bases of the classes.

    import vector_index_errors

    try:
        rows = app.send_task("tasks.search", kwargs={"query": "books"}).get(timeout=10)
    except vector_index_errors.TemporaryError:
        ...  # try again later
    except vector_index_errors.InputError as error:
        ...  # the sentence says what to correct
"""

import sys

__all__ = [
    "Bug",
    "BuildDropped",
    "InputError",
    "InvalidDocument",
    "InvalidQuery",
    "ProviderUnavailable",
    "Refused",
    "ServiceUnreachable",
    "SettingsError",
    "SourceFailed",
    "TemporaryError",
    "TooLarge",
    "UnknownIndex",
    "VectorIndexError",
]


class VectorIndexError(Exception):
    """Base of all errors that this project raises on purpose.

    Do: read the sentence, which says what to do.
    """


class Bug(Exception):
    """Replaces an unexpected exception, whose message may quote a document or a row.

    Do: report it, with the traceback in the log of the worker.
    """

    @classmethod
    def of(cls, error: BaseException) -> "Bug":
        """Make one from the class names of an exception and its causes, with its traceback but without values."""
        kinds, cause = [type(error).__name__], error.__cause__ or error.__context__
        while cause is not None and len(kinds) < 5:
            kinds.append(type(cause).__name__)
            cause = cause.__cause__ or cause.__context__
        message = (
            f"internal error ({' from '.join(kinds)}); message hidden because it may contain document text: "
            "please report it"
        )
        return cls(message).with_traceback(error.__traceback__)


class TemporaryError(VectorIndexError):
    """A later retry can succeed.

    Do: try again later. Tasks that nobody waits for do so by themselves.
    """


class ServiceUnreachable(TemporaryError):
    """Postgres or the broker did not answer.

    Do: start the service, or wait until it is back. `vector-index doctor` checks each of them.
    """


class BuildDropped(TemporaryError):
    """The index, or one of its builds, was dropped while it was in use. The next attempt finds the current one.

    Do: send the task again.
    """


class ProviderUnavailable(TemporaryError):
    """The provider failed or asked to wait.

    `retry_after_seconds` is the wait that the provider asked for (Retry-After of HTTP 429 or 503); `None` without one.
    `rate_limited` is true for a 429. A wait for the rate limit is not counted as a failed attempt.

    Do: try again later. Documents wait, and a search with `mode="text"` needs no provider.
    """

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, rate_limited: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.rate_limited = rate_limited


class SourceFailed(TemporaryError):
    """The source of an index failed before its end. The pages before are indexed, and no document was deleted.

    Do: fix the source, and run `vector-index reindex` again.
    """


class InputError(VectorIndexError):
    """The same input fails again.

    Do: correct the input.
    """


class InvalidDocument(InputError):
    """One document is invalid. The other documents of its message are indexed.

    Do: fix the document, and send it again.
    """


class InvalidQuery(InputError):
    """An argument of a task is unknown, out of range or of the wrong type.

    Do: fix the call. The sentence names the argument and its value.
    """


class UnknownIndex(InputError):
    """The settings have no index of that name.

    Do: fix the name, or add the index to `INDEXES` and restart the workers.
    """


class TooLarge(InputError):
    """The provider says that the request, or its only input, is over its limit.

    Do: shorten the question. For documents, lower the limits that the sentence names.
    """


class Refused(InputError):
    """The provider refuses this input permanently, alone and in every batch.

    Do: change the question or the document. The sentence has the words of the provider.
    """


class SettingsError(VectorIndexError):
    """Every request of this backend or process fails until the settings are corrected.

    Do: correct the setting, and restart the workers. `vector-index doctor` checks all of them.
    """


def described(value: object) -> str:
    """Describe a wrong argument for an error: a plain value in at most 40 characters, any other by its type.

    A string is named by its length, as it may be the text of a document.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 100:
        return "a number of more than 30 digits"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)[:40]
    if isinstance(value, str):
        return f"a string of {len(value):,} characters"
    names = {"dict": "an object", "list": "a list"}
    return names.get(type(value).__name__, f"of type {type(value).__name__}")


# Celery stores the module of an error's class, and looks for the class there in the process that reads the result
_MODULE = "vector_index_errors"
sys.modules.setdefault(_MODULE, sys.modules[__name__])
for _name in __all__:
    globals()[_name].__module__ = _MODULE
del _name
