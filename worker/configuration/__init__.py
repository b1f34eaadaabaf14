"""Settings as checked, frozen objects. A mistake becomes one sentence: the setting, its value and the fix.

`load` lets the environment win over the override file, and that over `settings.py`. It raises SettingsError. Messages
and reprs hide values of INIT_KWARGS and PROMPT_KWARGS, and passwords in addresses. Models, classes and text-search
configurations are looked up later, when they are first used.
"""

import difflib
import zoneinfo
from collections.abc import Mapping, MutableMapping
from functools import cache
from pathlib import Path

import platformdirs

from worker.configuration import layers, sections
from worker.configuration.addresses import broker_url, database_url
from worker.configuration.backends import (
    ChatBackendSettings,
    EmbeddingBackendSettings,
    RerankBackendSettings,
)
from worker.configuration.messages import checked, shown
from worker.configuration.objects import Configuration, HNSWSettings, IndexSettings, SourceSettings
from worker.configuration.sections import EMBEDDING_CLASS
from worker.errors import SettingsError

__all__ = [
    "EMBEDDING_CLASS",
    "ChatBackendSettings",
    "Configuration",
    "EmbeddingBackendSettings",
    "HNSWSettings",
    "IndexSettings",
    "RerankBackendSettings",
    "SourceSettings",
    "current",
    "environment",
    "load",
]


@cache
def current() -> Configuration:
    """Return the settings of this process, read once; raises SettingsError."""
    return load()


def environment() -> MutableMapping[str, str]:
    """Return the environment of this process, to read and to pass on to children."""
    variables: MutableMapping[str, str] = layers.shipped().environment()
    return variables


def load(environ: Mapping[str, str] | None = None) -> Configuration:
    """Read the settings under this environment (`None`: the process's own); raises SettingsError."""
    environ = environment() if environ is None else environ
    notices: list[str] = []
    values = layers.merged(environ, notices)
    embedding, overlaps = sections.embedding_backends(values["EMBEDDING_BACKENDS"], notices)
    chat = sections.chat_backends(values["CHAT_BACKENDS"], notices)
    rerank = sections.rerank_backends(values["RERANK_BACKENDS"])
    broker = broker_url("BROKER_URL", values["BROKER_URL"])
    return checked(
        Configuration,
        "",
        database_url=database_url(values["DATABASE_URL"], notices),
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
        rerank_backends=rerank,
        indexes=sections.indexes(
            values["INDEXES"],
            embedding=embedding,
            chat=chat,
            rerank=rerank,
            sources=sections.sources(values["SOURCES"]),
            overlaps=overlaps,
            query_prompt=values.get("WAGTAIL_VECTOR_INDEX_QUERY_PROMPT"),
        ),
        notices=tuple(notices),
    )


def _home(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise SettingsError(f"VECTOR_INDEX_HOME is {shown(value)}; set it to the path of a folder")
    if not str(value):
        return Path(platformdirs.user_data_dir("vector-index"))
    return Path(value).expanduser().absolute()


def _timezone(value: object) -> str:
    if not isinstance(value, str) or not _is_zone(value):
        zones = zoneinfo.available_timezones()
        close = difflib.get_close_matches(str(value), zones, n=1)
        fix = f"did you mean {close[0]!r}?" if close else "set it to an IANA name such as 'Europe/Berlin'"
        raise SettingsError(f"TIMEZONE is {shown(value)}, which is not a time zone; {fix}")
    return value


def _is_zone(name: str) -> bool:
    """Open one file: `available_timezones` opens all 600."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):  # OSError: a folder, such as "Europe"
        return False
    return True
