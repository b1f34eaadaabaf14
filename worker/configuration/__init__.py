"""Settings -> checked, frozen objects; every mistake is one sentence: the setting, the value and the mend.

`load` merges the environment over the override file over the shipped `settings.py` and raises SettingsError.
Values of INIT_KWARGS and PROMPT_KWARGS, and passwords in addresses, are in no message and no repr.
Whether a model, a class or a text-search configuration exists is checked by whoever uses it first.
"""

import difflib
import zoneinfo
from collections.abc import Mapping, MutableMapping
from functools import cache
from pathlib import Path

import platformdirs

from worker.configuration import layers, sections
from worker.configuration.addresses import broker_url, database_url
from worker.configuration.messages import checked, shown
from worker.configuration.objects import (
    ChatBackendSettings,
    Configuration,
    EmbeddingBackendSettings,
    IndexSettings,
    SourceSettings,
)
from worker.errors import SettingsError

__all__ = [
    "ChatBackendSettings",
    "Configuration",
    "EmbeddingBackendSettings",
    "IndexSettings",
    "SourceSettings",
    "current",
    "environment",
    "load",
]


@cache
def current() -> Configuration:
    """The settings of this process, read once; raises SettingsError."""
    return load()


def environment() -> MutableMapping[str, str]:
    """The environment of this process, for its children."""
    variables: MutableMapping[str, str] = layers.shipped().environment()
    return variables


def load(environ: Mapping[str, str] | None = None) -> Configuration:
    """The settings under this environment (None: the process's own); raises SettingsError."""
    environ = environment() if environ is None else environ
    values = layers.merged(environ)
    notices: list[str] = []
    embedding, overlaps = sections.embedding_backends(values["EMBEDDING_BACKENDS"], notices)
    chat = sections.chat_backends(values["CHAT_BACKENDS"], notices)
    broker = broker_url("BROKER_URL", values["BROKER_URL"])
    return checked(
        Configuration,
        "",
        database_url=database_url(values["DATABASE_URL"]),
        broker_url=broker,
        result_backend=broker_url("RESULT_BACKEND", values["RESULT_BACKEND"]) or broker,
        home=_home(values["VECTOR_INDEX_HOME"]),
        folder=layers.own_folder(environ.get("VECTOR_INDEX_SETTINGS", "")),
        max_document_bytes=values["MAX_DOCUMENT_BYTES"],
        timezone=_timezone(values["TIMEZONE"]),
        metrics_port=values["METRICS_PORT"],
        metrics_address=values["METRICS_ADDRESS"],
        vector_index_log_format=values["VECTOR_INDEX_LOG_FORMAT"],
        price_per_million_tokens=values["PRICE_PER_MILLION_TOKENS"],
        embedding_backends=embedding,
        chat_backends=chat,
        indexes=sections.indexes(
            values["INDEXES"],
            embedding=embedding,
            chat=chat,
            sources=sections.sources(values["SOURCES"]),
            overlaps=overlaps,
            query_prompt=values.get("WAGTAIL_VECTOR_INDEX_QUERY_PROMPT"),
        ),
        notices=tuple(notices),
    )


def _home(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise SettingsError(f"VECTOR_INDEX_HOME is {shown(value)}: give the path of a folder")
    if not str(value):
        return Path(platformdirs.user_data_dir("vector-index"))
    return Path(value).expanduser().absolute()


def _timezone(value: object) -> str:
    zones = zoneinfo.available_timezones()
    if not isinstance(value, str) or value not in zones:
        close = difflib.get_close_matches(str(value), zones, n=1)
        mend = f"did you mean {close[0]!r}?" if close else "give an IANA name such as 'Europe/Berlin'"
        raise SettingsError(f"TIMEZONE is {shown(value)}, which is no time zone: {mend}")
    return value
