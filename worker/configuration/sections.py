"""The sections of VECTOR_INDEX -> backends, sources and indexes."""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from worker.configuration.messages import checked, entries, fields_by_key, keys, mapping, nearest, shown
from worker.configuration.objects import (
    ChatBackendSettings,
    EmbeddingBackendSettings,
    IndexSettings,
    SourceSettings,
)
from worker.errors import SettingsError

T = TypeVar("T")

EMBEDDING_CLASS = "worker.backends.llm.LLMEmbeddingBackend"
CHAT_CLASS = "worker.backends.llm.LLMChatBackend"
CALLABLE_CLASS = "worker.sources.callable.CallableSource"
# classes that wagtail-vector-index and wagtail-ai ship for the same job
WAGTAIL_CLASSES = {
    "EMBEDDING_BACKENDS": {
        "wagtail_vector_index.ai_utils.backends.llm.LLMEmbeddingBackend",
        "wagtail_ai.ai.llm.LLMBackend",
    },
    "CHAT_BACKENDS": {
        "wagtail_vector_index.ai_utils.backends.llm.LLMChatBackend",
        "wagtail_ai.ai.llm.LLMBackend",
    },
}
# options of a prompt, which are no attributes of an `llm` model
PROMPT_OPTIONS = {
    "frequency_penalty",
    "json_object",
    "logit_bias",
    "max_output_tokens",
    "max_tokens",
    "num_ctx",
    "presence_penalty",
    "reasoning_effort",
    "seed",
    "stop",
    "system",
    "temperature",
    "top_k",
    "top_p",
}
CHARACTERS_PER_TOKEN = 4  # the usual estimate for English; only for CHUNK_OVERLAP_CHARACTERS


def embedding_backends(
    section: object, notices: list[str]
) -> tuple[dict[str, EmbeddingBackendSettings], dict[str, int]]:
    """The backends, and the overlap in tokens that a CHUNK_OVERLAP_CHARACTERS of a backend asks for."""
    backends, overlaps = {}, {}
    for name, where, values, characters in _backends("EMBEDDING_BACKENDS", EmbeddingBackendSettings, section):
        backend = checked(EmbeddingBackendSettings, where, **values)
        if (backend.token_limit or 0) > (backend.batch_token_limit or sys.maxsize):
            raise SettingsError(
                f"{where}: BATCH_TOKEN_LIMIT is {backend.batch_token_limit}, below TOKEN_LIMIT "
                f"({backend.token_limit}): raise it, so that a request takes one input of the full length"
            )
        if characters is not None:
            overlaps[name] = round(characters / CHARACTERS_PER_TOKEN)
            notices.append(
                f"CHUNK_OVERLAP_CHARACTERS {characters} of embedding backend {name!r} is read as "
                f"CHUNK_OVERLAP_TOKENS {overlaps[name]}: set that on the index"
            )
        backends[name] = backend
    return backends, overlaps


def chat_backends(section: object, notices: list[str]) -> dict[str, ChatBackendSettings]:
    backends = {}
    for name, where, values, characters in _backends("CHAT_BACKENDS", ChatBackendSettings, section):
        backends[name] = checked(ChatBackendSettings, where, **values)
        if characters is not None:
            notices.append(f"CHUNK_OVERLAP_CHARACTERS of chat backend {name!r} has no effect: remove it")
    return backends


def _backends(
    section: str, cls: type, value: object
) -> Iterator[tuple[str, str, dict[str, Any], int | None]]:
    """Name, place of its CONFIG for messages, fields, and CHUNK_OVERLAP_CHARACTERS, of every backend."""
    for name, where, entry in entries(section, value, ("CLASS", "CONFIG")):
        where_config = f'{where}["CONFIG"]'
        known = fields_by_key(cls)
        config = keys(where_config, entry.get("CONFIG", {}), known, foreign=("CHUNK_OVERLAP_CHARACTERS",))
        characters = config.pop("CHUNK_OVERLAP_CHARACTERS", None)
        if characters is not None and (
            isinstance(characters, bool) or not isinstance(characters, int) or characters < 0
        ):
            raise SettingsError(
                f'{where_config}["CHUNK_OVERLAP_CHARACTERS"] is {shown(characters)}: '
                "give a whole number of at least 0"
            )
        for key in {"INIT_KWARGS", "PROMPT_KWARGS"} & config.keys():
            config[key] = dict(mapping(f'{where_config}["{key}"]', config[key]))
        _no_prompt_options(section, where_config, config.get("INIT_KWARGS", {}))
        values = {known[key]: item for key, item in config.items()}
        yield (
            name,
            where_config,
            {"name": name, "class_path": _class(section, where, entry.get("CLASS")), **values},
            characters,
        )


def _no_prompt_options(section: str, where: str, init_kwargs: Mapping[str, Any]) -> None:
    for option in sorted(PROMPT_OPTIONS & init_kwargs.keys()):
        mend = (
            "move it into PROMPT_KWARGS"
            if section == "CHAT_BACKENDS"
            else "remove it, an embedding model takes no such option"
        )
        raise SettingsError(f'{where}["INIT_KWARGS"] has {option!r}, an option of a prompt: {mend}')


def _class(section: str, where: str, value: object) -> str:
    ours, other = (
        (EMBEDDING_CLASS, CHAT_CLASS) if section == "EMBEDDING_BACKENDS" else (CHAT_CLASS, EMBEDDING_CLASS)
    )
    if value is None:
        return ours
    path = _dotted(where, value)
    if path in WAGTAIL_CLASSES[section]:
        return ours
    if path == other or path.startswith(("wagtail_vector_index.", "wagtail_ai.")):
        kind = "embed-models" if section == "EMBEDDING_BACKENDS" else "models"
        raise SettingsError(
            f'{where}["CLASS"] is {path!r}, which does not serve here: use {ours!r} with a MODEL_ID that '
            f"`llm {kind}` lists"
        )
    return path


def _dotted(where: str, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value):
        raise SettingsError(
            f'{where}["CLASS"] is {shown(value)}: '
            "give the dotted path of a class, as in 'myapp.search.Backend'"
        )
    return value


def sources(section: object) -> dict[str, SourceSettings]:
    found = {}
    for name, where, entry in entries("SOURCES", section, ("CLASS", "CONFIG")):
        path, config = entry.get("CLASS"), dict(mapping(f'{where}["CONFIG"]', entry.get("CONFIG", {})))
        if _is_callable(path):
            path, config = CALLABLE_CLASS, {"CALLABLE": path, **config}
        values = {"name": name, "class_path": _dotted(where, path), "config": config}
        found[name] = checked(SourceSettings, where, **values)
    return found


def _source(where: str, value: object, known: Mapping[str, SourceSettings]) -> SourceSettings:
    """An entry of SOURCES, or a callable that needs none."""
    if _is_callable(value) and value not in known:
        values = {"name": value, "class_path": CALLABLE_CLASS, "config": {"CALLABLE": value}}
        return checked(SourceSettings, where, **values)
    return _referred(where, "SOURCE", value, known)


def _is_callable(value: object) -> bool:
    """Whether it has the form of 'myapp.search:documents'."""
    return isinstance(value, str) and ":" in value


def indexes(
    section: object,
    *,
    embedding: Mapping[str, EmbeddingBackendSettings],
    chat: Mapping[str, ChatBackendSettings],
    sources: Mapping[str, SourceSettings],
    overlaps: Mapping[str, int],
    query_prompt: object,
) -> dict[str, IndexSettings]:
    """The indexes with what they refer to; `overlaps` and `query_prompt` serve where an entry has none."""
    known = fields_by_key(IndexSettings)
    found = {}
    for name, where, entry in entries("INDEXES", section, known):
        backend = _referred(where, "EMBEDDING_BACKEND", entry.pop("EMBEDDING_BACKEND", "default"), embedding)
        values = {
            "embedding_backend": backend,
            "chat_backend": _referred(where, "CHAT_BACKEND", entry.pop("CHAT_BACKEND", "default"), chat),
            "chunk_overlap_tokens": overlaps.get(backend.name, 0),
            "query_prompt": query_prompt,
        }
        if "SOURCE" in entry:
            values["source"] = _source(where, entry.pop("SOURCE"), sources)
        values |= {known[key]: value for key, value in entry.items()}
        index = checked(IndexSettings, where, name=name, **values)
        if index.chunk_tokens and index.chunk_overlap_tokens >= index.chunk_tokens:
            raise SettingsError(
                f'{where}["CHUNK_OVERLAP_TOKENS"] is {index.chunk_overlap_tokens}: give less than its '
                f"CHUNK_TOKENS ({index.chunk_tokens})"
            )
        if index.schedule is not None and index.source is None:
            raise SettingsError(
                f'{where}["SCHEDULE"] is {shown(index.schedule)}, and there is nothing to be read then: name an '
                'entry of VECTOR_INDEX["SOURCES"] as its SOURCE'
            )
        found[name] = index
    return found


def _referred(where: str, key: str, name: object, known: Mapping[str, T]) -> T:
    if not isinstance(name, str) or name not in known:
        raise SettingsError(
            f'{where}["{key}"] is {shown(name)}, which is no key of VECTOR_INDEX["{key}S"]: '
            f"{nearest(name, known)}"
        )
    return known[name]
