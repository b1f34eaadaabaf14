"""Documents, and the chunks that are embedded."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from hashlib import blake2b
from math import ceil, isfinite, log10
from typing import Annotated, Any
from uuid import UUID

from worker.errors import InvalidDocument
from worker.inline_data import without_inline_data
from worker.reference import Meaning
from worker.words import visible

MAX_ID_CHARACTERS = 512
MAX_TITLE_CHARACTERS = 2_000
MAX_METADATA_BYTES = 1_000_000
MAX_CHARACTER_BYTES = 4  # of a character in UTF-8
MIN_VERSION, MAX_VERSION = -(2**63), 2**63 - 1
MAX_DIGITS = 640  # of an integer: Python can be set to read no longer ones, so every process can read these
MAX_BITS = 2126  # of an integer of that many digits

# Two keys that make Celery take a JSON object for a value of its own, wherever it reads one: in a message or a result.
CELERY_KEYS = {"__type__", "__value__"}
LONG_NUMBER = "vector_index.long_number"  # the `__type__` of a LongNumber

_as_json = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode

FIELDS = {"id", "text", "title", "metadata", "version"}


@dataclass(frozen=True)
class LongNumber:
    """Stands for an integer of more than MAX_DIGITS digits, which nothing else may contain."""

    digits: int

    def __repr__(self) -> str:
        return f"a number of {self.digits:,} digits"

    def __json__(self) -> dict[str, Any]:
        """Encode it for kombu: a task that is retried is sent again with its arguments."""
        return {"__type__": LONG_NUMBER, "__value__": self.digits}


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document as the application sent it, cleaned for Postgres and for every tokenizer.

    The metadata key "important", a string or a list of strings, is embedded with each chunk, as the title is. Passages
    leave it out. A change of it embeds the document again; a change of another key does not.
    """

    id: Annotated[
        str,
        Meaning(
            f"your key, at most {MAX_ID_CHARACTERS} characters; the same id replaces the document",
            type="string, integer or UUID",
        ),
    ]
    text: Annotated[
        str,
        Meaning(
            "the text to search, at most `MAX_DOCUMENT_BYTES` in UTF-8. Plain text, Markdown, reStructuredText and "
            "HTML are split along their structure. Inline images (`data:` addresses) are left out"
        ),
    ]
    title: Annotated[str, Meaning("embedded with every chunk, and returned with results")] = ""
    metadata: Annotated[
        Mapping[str, Any],
        Meaning(
            f"returned with results, and read by filters; at most {MAX_METADATA_BYTES:,} bytes. A string, or a list of "
            "strings, under the key `important` is embedded with every chunk"
        ),
    ] = field(default_factory=dict)
    version: Annotated[
        int | None,
        Meaning(
            "64 bits; raise it with every change, and workers skip late messages. Without it, the last message wins"
        ),
    ] = None

    @classmethod
    def from_json(cls, value: object, *, max_bytes: int) -> "Document":
        """Check one entry of `documents`. Raises InvalidDocument, which names the field, its value and the fix.

        Removes NUL characters from `text` and `title`, and inline data from `text`; replaces lone surrogates by U+FFFD.
        Offsets of passages count code points of this text. `max_bytes` is the limit of the text in UTF-8.

        Celery carries more than JSON does: a UUID, or a whole Decimal, can be an id. In metadata, dates, times, UUIDs
        and Decimals become strings (dates and times in ISO 8601), as those of a CallableSource do.
        """
        if not isinstance(value, Mapping):
            raise InvalidDocument(f"a document is an object with id and text, not {_type(value)}")
        unknown = sorted(str(name) for name in value.keys() - FIELDS)
        if unknown:
            raise InvalidDocument(
                f"unknown field {unknown[0]!r:.40}: a document has id, text, title, metadata and version; "
                "put other values into metadata"
            )
        text, _ = without_inline_data(_clean(value.get("text"), "text"))
        if MAX_CHARACTER_BYTES * len(text) > max_bytes:
            check_size(len(text.encode()), max_bytes)
        title = value.get("title")
        return cls(
            id=document_id(value.get("id")),
            text=text,
            title="" if title is None else _title(title),
            metadata=_metadata(value.get("metadata")),
            version=document_version(value.get("version")),
        )

    @property
    def important(self) -> tuple[str, ...]:
        """The strings of the metadata key "important"; values of other types are ignored."""
        value = self.metadata.get("important")
        values = value if isinstance(value, list) else [value]
        return tuple(item for item in values if isinstance(item, str))

    def content_hash(self) -> bytes:
        """Hash the text, title and metadata into 32 bytes."""
        parts = (self.text, self.title, _as_json(self.metadata))
        return digest("\x00".join(parts))


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A span of a document's text, with the hash of the string that is embedded for it."""

    start: int  # in code points of the stored text
    end: int
    heading: str  # embedded in front of the text; may be empty
    text: str
    tokens: int  # of the embedded string
    hash: bytes  # of the embedded string, 32 bytes


def embedding_text(prefix: str, heading: str, text: str) -> str:
    """Build the string that is counted, hashed and sent for a chunk."""
    return visible(f"{prefix}{heading}\n{text}" if heading else f"{prefix}{text}")


def digest(text: str) -> bytes:
    """Hash a cleaned text into 32 bytes: BLAKE2b of its UTF-8."""
    return blake2b(text.encode(), digest_size=32).digest()


def check_size(size: int, max_bytes: int) -> None:
    """Raise InvalidDocument if a text has more than `max_bytes` bytes in UTF-8."""
    if size > max_bytes:
        raise InvalidDocument(
            f"text has {size:,} bytes, over MAX_DOCUMENT_BYTES ({max_bytes:,}): split the document or raise the setting"
        )


def document_id(value: object) -> str:
    """Return the id as a string; a whole number becomes its decimal string. Raises InvalidDocument."""
    value = _plain_id(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or value == "":
        raise InvalidDocument("id is missing: give every document a string or an integer as its id")
    if not isinstance(value, str):
        raise InvalidDocument(f"id must be a string or an integer, not {_type(value)}")
    if len(value) > MAX_ID_CHARACTERS:
        raise InvalidDocument(f"id has {len(value)} characters; at most {MAX_ID_CHARACTERS} are allowed")
    if clean(value) != value:
        raise InvalidDocument("id contains a NUL or a lone surrogate, which Postgres cannot store: remove it")
    return value


def document_label(document: object) -> str | None:
    """Return the id that names a document in its errors, also if it is too long; `None` if it has no usable one."""
    id = _plain_id(document.get("id")) if isinstance(document, Mapping) else None
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        return None
    return clean(str(id))[:MAX_ID_CHARACTERS]


def document_ids(values: object) -> list[str]:
    """Return a list of ids in order, without repeats. Raises InvalidDocument."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise InvalidDocument(f"ids must be a list of strings or integers, not {_type(values)}")
    return list(dict.fromkeys(document_id(value) for value in values))


def document_version(value: object) -> int | None:
    """Return the version, a 64-bit integer or `None`. Raises InvalidDocument."""
    if value is None:
        return None
    value = _whole(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidDocument(
            f"version must be an integer that the application increases, not {_type(value)}"
        )
    if not MIN_VERSION <= value <= MAX_VERSION:
        raise InvalidDocument(f"version {str(value)[:40]} does not fit into 64 bits: send a smaller one")
    return value


def read_json(text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """Read JSON with integers of any length: those over MAX_DIGITS become a LongNumber.

    Raises ValueError for text that is not JSON, and RecursionError for one that is nested too deep.
    """
    return json.loads(text, parse_int=_read_integer, object_hook=object_hook)


def _read_integer(text: str) -> int | LongNumber:
    digits = len(text.lstrip("-"))
    return int(text) if digits <= MAX_DIGITS else LongNumber(digits)


def check_tenant(sent: object, stored: Mapping[str, Any], field: str) -> None:
    """Raise InvalidDocument if cleaning changed the tenant: with a NUL, it would become another tenant's name.

    `field` is the dotted path of TENANT_FIELD in the metadata, as sent and as stored.
    """
    tenant = _at(sent, field)
    if clean_json(tenant, field) != _at(stored, field) or any(
        clean(text) != text for text in _strings(tenant)
    ):
        raise InvalidDocument(
            f"metadata.{field}, the tenant, contains a NUL or a lone surrogate, which Postgres cannot store: remove it"
        )


def _at(value: object, path: str) -> object:
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _strings(value: object) -> Iterator[str]:
    """Yield the strings of a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def clean(text: str) -> str:
    """Remove NUL characters and replace lone surrogates by U+FFFD, so that Postgres can store the text."""
    text = text.replace("\x00", "") if "\x00" in text else text
    try:
        text.encode()
    except UnicodeEncodeError:
        # surrogatepass joins pairs that JSON escapes left apart; single surrogates are not text
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def plain(value: object) -> object:
    """Return the string that stands for a date, a time, a UUID or a Decimal in JSON; other values unchanged."""
    value = value.isoformat() if isinstance(value, date | time) else value
    return str(value) if isinstance(value, UUID | Decimal) else value


def _plain_id(value: object) -> object:
    return str(value) if isinstance(value, UUID) else _whole(value)


def _whole(value: object) -> object:
    """Return a Decimal without a fraction as an integer; databases return whole numbers as Decimals."""
    if isinstance(value, Decimal) and value.is_finite():
        if value.adjusted() >= MAX_DIGITS:
            return LongNumber(value.adjusted() + 1)
        if value == value.to_integral_value():
            return int(value)
    return _bounded(value)


def _bounded(value: object) -> object:
    """Return a LongNumber for an integer that is too long."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return LongNumber(ceil(value.bit_length() * log10(2)))
    return value


def _clean(value: object, name: str) -> str:
    if not isinstance(value, str):
        found = "missing" if value is None else _type(value)
        raise InvalidDocument(f"{name} must be a string, not {found}")
    return clean(value)


def _title(value: object) -> str:
    title = _clean(value, "title")
    if len(title) > MAX_TITLE_CHARACTERS:
        raise InvalidDocument(
            f"title has {len(title):,} characters; at most {MAX_TITLE_CHARACTERS:,} are allowed: put the rest into text"
        )
    return title


def _metadata(value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidDocument(f"metadata must be an object, not {_type(value)}")
    cleaned = clean_json(value, "metadata")
    size = len(json.dumps(cleaned))
    if size > MAX_METADATA_BYTES:
        raise InvalidDocument(
            f"metadata has {size:,} bytes as JSON; at most {MAX_METADATA_BYTES:,} are allowed"
        )
    assert isinstance(cleaned, dict)
    return cleaned


def clean_json(value: object, path: str, depth: int = 0) -> Any:
    """Clean every string of a JSON value; `path` names the value in errors. Raises InvalidDocument."""
    if depth > 32:
        raise InvalidDocument(f"{path} is nested more than 32 levels deep")
    value = _bounded(value)
    if isinstance(value, LongNumber):
        raise InvalidDocument(f"{path} is {value!r}; at most {MAX_DIGITS} are allowed: send it as a string")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise InvalidDocument(f"{path} is {value}, which JSON lacks: send null or a finite number")
        return value
    value = plain(value)
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InvalidDocument(f"{path} has a key that is not a string")
        if value.keys() == CELERY_KEYS:
            raise InvalidDocument(
                f"{path} has the keys __type__ and __value__ alone, which Celery takes for a value of its own: "
                "rename one of them"
            )
        return {
            clean(key): clean_json(item, f"{path}.{clean(key)[:40]}", depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [clean_json(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(value)]
    raise InvalidDocument(f"{path} is {_type(value)}, which is not a JSON value")


def _type(value: object) -> str:
    if isinstance(value, LongNumber):
        return repr(value)
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), f"of type {type(value).__name__}")
