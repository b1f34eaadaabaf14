"""Every error of ours, split by what the caller can do about it.

VectorIndexError
├── TemporaryError               try again: nothing was wrong with what was asked
│   ├── ServiceUnreachable       Postgres or the broker did not answer
│   ├── BuildDropped             the index, or a build of it, was dropped meanwhile
│   ├── ProviderUnavailable      the model's provider did not answer, or asked to wait
│   └── SourceFailed             the source of an index could not be read to its end
├── InputError                   mend the input: the same again fails the same way
│   ├── InvalidDocument          one document cannot be taken
│   ├── InvalidQuery             a search, a filter or another argument of a task
│   ├── UnknownIndex             no index of that name in the settings
│   ├── TooLarge                 the provider says that a request or an input is over its limit
│   └── Refused                  the provider refuses this input for good
└── SettingsError                mend the settings: no request can succeed until then

Bug                              what nobody expected: its kind and its place, not its words

A message is one sentence that names the value and the mend.
It never carries a document's text, a question or a key.
"""


class VectorIndexError(Exception):
    """Base of all errors that this project raises on purpose."""


class Bug(Exception):
    """Stands for an exception that nobody expected, whose words may be those of a document or of a row."""

    @classmethod
    def of(cls, error: BaseException) -> "Bug":
        """Its class and those of its causes, with its traceback: lines of code, and no values."""
        kinds, cause = [type(error).__name__], error.__cause__ or error.__context__
        while cause is not None and len(kinds) < 5:
            kinds.append(type(cause).__name__)
            cause = cause.__cause__ or cause.__context__
        said = f"a bug ({' from '.join(kinds)}; its words are left out, as they may quote a text): please report it"
        return cls(said).with_traceback(error.__traceback__)


class TemporaryError(VectorIndexError):
    """Trying again later can succeed."""


class ServiceUnreachable(TemporaryError):
    """Postgres or the broker did not answer."""


class BuildDropped(TemporaryError):
    """The index, or a build of it, was dropped while it was being used: the next try finds what is there now."""


class ProviderUnavailable(TemporaryError):
    """The provider failed or asked to wait.

    `retry_after_seconds` is set when the provider named a time (HTTP 429 or 503 with Retry-After);
    `rate_limited` is true for a 429: waiting for it is no failed attempt.
    """

    def __init__(
        self, message: str, *, retry_after_seconds: float | None = None, rate_limited: bool = False
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.rate_limited = rate_limited


class SourceFailed(TemporaryError):
    """The source of an index could not be read to its end; pages before that are indexed, nothing was deleted."""


class InputError(VectorIndexError):
    """The same input fails the same way again."""


class InvalidDocument(InputError):
    """One document cannot be taken; others of its message are."""


class InvalidQuery(InputError):
    """An argument of a task is of the wrong type, out of range or unknown."""


class UnknownIndex(InputError):
    """The settings have no index of that name."""


class TooLarge(InputError):
    """The provider says that the request, or its only input, is over the limit."""


class Refused(InputError):
    """The provider refuses this input for good, whatever it is sent with."""


class SettingsError(VectorIndexError):
    """No request of this backend or process can succeed before the settings are mended."""
