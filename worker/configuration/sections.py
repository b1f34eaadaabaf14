"""Turns the sections of VECTOR_INDEX into checked backends, sources and indexes."""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from worker.configuration.backends import (
    ChatBackendSettings,
    EmbeddingBackendSettings,
    RerankBackendSettings,
)
from worker.configuration.messages import (
    KINDS,
    checked,
    entries,
    fields_by_key,
    keys,
    mapping,
    nearest,
    shown,
)
from worker.configuration.objects import HNSWSettings, IndexSettings, SourceSettings
from worker.errors import SettingsError

T = TypeVar("T")

EMBEDDING_CLASS = "worker.backends.llm.LLMEmbeddingBackend"
CHAT_CLASS = "worker.backends.llm.LLMChatBackend"
RERANK_CLASS = "worker.backends.rerank.HTTPRerankBackend"
CALLABLE_CLASS = "worker.sources.callable.CallableSource"
# classes that wagtail-vector-index and wagtail-ai ship for the same purpose
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
# options of a prompt: setting them as attributes of an `llm` model would have no effect
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
    """Return the backends, and the overlap in tokens that a backend's CHUNK_OVERLAP_CHARACTERS asks for."""
    backends, overlaps = {}, {}
    for name, owner, values, characters in _backends("EMBEDDING_BACKENDS", EmbeddingBackendSettings, section):
        backend = checked(EmbeddingBackendSettings, owner, **values)
        if (backend.token_limit or 0) > (backend.batch_token_limit or sys.maxsize):
            raise SettingsError(
                f"BATCH_TOKEN_LIMIT of {owner} is {backend.batch_token_limit}, below its TOKEN_LIMIT "
                f"({backend.token_limit}); raise it, so that a request can hold one input of full length"
            )
        if characters is not None:
            overlaps[name] = round(characters / CHARACTERS_PER_TOKEN)
            notices.append(
                f"CHUNK_OVERLAP_CHARACTERS of {owner} is {characters}, which is read as CHUNK_OVERLAP_TOKENS "
                f"{overlaps[name]}; set that on the index instead"
            )
        backends[name] = backend
    return backends, overlaps


def chat_backends(section: object, notices: list[str]) -> dict[str, ChatBackendSettings]:
    """Return the chat backends."""
    backends = {}
    for name, owner, values, characters in _backends("CHAT_BACKENDS", ChatBackendSettings, section):
        backends[name] = checked(ChatBackendSettings, owner, **values)
        if characters is not None:
            notices.append(f"CHUNK_OVERLAP_CHARACTERS of {owner} has no effect; remove it")
    for name in backends:
        _check_fallbacks(name, backends)
    return backends


def rerank_backends(section: object) -> dict[str, RerankBackendSettings]:
    """Return the rerank backends."""
    return {
        name: checked(RerankBackendSettings, owner, **values)
        for name, owner, values, _ in _backends("RERANK_BACKENDS", RerankBackendSettings, section)
    }


def _check_fallbacks(name: str, backends: Mapping[str, ChatBackendSettings]) -> None:
    """Follow the fallbacks of a chat backend. Raises SettingsError for one that is unknown, and for a circle."""
    path = [name]
    while (fallback := backends[path[-1]].fallback) is not None:
        said = f"FALLBACK of chat backend {path[-1]!r} is {shown(fallback)}"
        if fallback not in backends:
            raise SettingsError(f"{said}, which is not in CHAT_BACKENDS; {nearest(fallback, backends)}")
        if fallback == path[-1]:
            raise SettingsError(
                f"{said}, the backend itself; set it to another entry of CHAT_BACKENDS, or remove it"
            )
        if fallback in path:
            way = " to ".join(map(repr, [*path, fallback]))
            raise SettingsError(f"{said}, which leads in a circle: {way}; remove the last of these FALLBACK")
        if _provider(backends[fallback]) == _provider(backends[path[-1]]):
            raise SettingsError(
                f"{said}, which asks the same model with the same INIT_KWARGS, so both are away at once; set it to an "
                "entry with another provider or model"
            )
        path.append(fallback)


def _provider(backend: ChatBackendSettings) -> tuple[object, ...]:
    return backend.class_path, backend.model_id, backend.init_kwargs


def _no_fallback(owner: str, config: object) -> None:
    """Refuse a fallback for embeddings. Raises SettingsError, with the reason."""
    if isinstance(config, Mapping) and config.get("FALLBACK") is not None:
        raise SettingsError(
            f"CONFIG of {owner} has FALLBACK: remove it, since vectors of two models cannot be compared; documents "
            "wait until the provider is back, and only chat backends have a FALLBACK"
        )


def _backends(
    section: str, cls: type, value: object
) -> Iterator[tuple[str, str, dict[str, Any], int | None]]:
    """Yield each backend: its name, how messages call it, its fields, and CHUNK_OVERLAP_CHARACTERS."""
    known = fields_by_key(cls)
    # the class decides which keys there are, so its sentence comes first
    for name, entry in mapping(f'VECTOR_INDEX["{section}"]', value).items():
        if isinstance(entry, Mapping):
            _class(section, f"{KINDS[section]} {shown(name)}", entry.get("CLASS"))
    for name, owner, entry in entries(section, value, ("CLASS", "CONFIG")):
        if section == "EMBEDDING_BACKENDS":
            _no_fallback(owner, entry.get("CONFIG"))
        config = keys(
            f"CONFIG of {owner}", entry.get("CONFIG", {}), known, foreign=("CHUNK_OVERLAP_CHARACTERS",)
        )
        characters = config.pop("CHUNK_OVERLAP_CHARACTERS", None)
        if characters is not None and (
            isinstance(characters, bool) or not isinstance(characters, int) or characters < 0
        ):
            raise SettingsError(
                f"CHUNK_OVERLAP_CHARACTERS of {owner} is {shown(characters)}; set it to a whole number of at least 0"
            )
        for key in {"INIT_KWARGS", "PROMPT_KWARGS"} & config.keys():
            config[key] = dict(mapping(f"{key} of {owner}", config[key]))
        _no_prompt_options(section, owner, config.get("INIT_KWARGS", {}))
        values = {known[key]: item for key, item in config.items()}
        yield (
            name,
            owner,
            {"name": name, "class_path": _class(section, owner, entry.get("CLASS")), **values},
            characters,
        )


def _no_prompt_options(section: str, owner: str, init_kwargs: Mapping[str, Any]) -> None:
    for option in sorted(PROMPT_OPTIONS & init_kwargs.keys()):
        fix = (
            "remove it: embedding has no prompt"
            if section == "EMBEDDING_BACKENDS"
            else "move it to PROMPT_KWARGS"
        )
        raise SettingsError(f"INIT_KWARGS of {owner} has {option!r}, which is an option of a prompt; {fix}")


def _class(section: str, owner: str, value: object) -> str:
    if section == "RERANK_BACKENDS":
        return RERANK_CLASS if value is None else _dotted(owner, value)
    ours, other = (
        (EMBEDDING_CLASS, CHAT_CLASS) if section == "EMBEDDING_BACKENDS" else (CHAT_CLASS, EMBEDDING_CLASS)
    )
    if value is None:
        return ours
    path = _dotted(owner, value)
    if path in WAGTAIL_CLASSES[section]:
        return ours
    if path == other or path.startswith(("wagtail_vector_index.", "wagtail_ai.")):
        kind = "embed-models" if section == "EMBEDDING_BACKENDS" else "models"
        raise SettingsError(
            f"CLASS of {owner} is {path!r}, which this worker cannot use; set it to {ours!r}, with a MODEL_ID that "
            f"`llm {kind}` lists{_keys_of_litellm(section) if 'litellm' in path.lower() else ''}"
        )
    return path


def _keys_of_litellm(section: str) -> str:
    """Say where the keys of the LiteLLM classes of wagtail-vector-index belong."""
    parameters = "PROMPT_KWARGS" if section == "CHAT_BACKENDS" else "INIT_KWARGS"
    return f", and move DEFAULT_PARAMETERS to {parameters}; a LiteLLM proxy is an api_base in INIT_KWARGS"


def _dotted(owner: str, value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)+", value):
        raise SettingsError(
            f"CLASS of {owner} is {shown(value)}; set it to the dotted path of a class, as in 'myapp.search.Backend'"
        )
    return value


def sources(section: object) -> dict[str, SourceSettings]:
    """Return the sources; a callable as CLASS becomes a CallableSource."""
    found = {}
    for name, owner, entry in entries("SOURCES", section, ("CLASS", "CONFIG")):
        path, config = entry.get("CLASS"), dict(mapping(f"CONFIG of {owner}", entry.get("CONFIG", {})))
        if _is_callable(path):
            path, config = CALLABLE_CLASS, {"CALLABLE": path, **config}
        values = {"name": name, "class_path": _dotted(owner, path), "config": config}
        found[name] = checked(SourceSettings, owner, **values)
    return found


def _hnsw(owner: str, value: object) -> HNSWSettings | None:
    """Return the settings of a vector index; `None` for False."""
    if value is False:
        return None
    if not isinstance(value, Mapping):
        raise SettingsError(
            f"{owner} is {shown(value)}; set it to a dictionary, or to False for no vector index"
        )
    known = fields_by_key(HNSWSettings)
    hnsw = checked(HNSWSettings, owner, **keys(owner, value, known))
    if hnsw.ef_construction < 2 * hnsw.m:
        raise SettingsError(
            f"ef_construction of {owner} is {hnsw.ef_construction}; set it to at least twice its m ({hnsw.m})"
        )
    return hnsw


def _source(owner: str, value: object, known: Mapping[str, SourceSettings]) -> SourceSettings:
    """Return an entry of SOURCES, or the source that a callable makes without one."""
    if _is_callable(value) and value not in known:
        values = {"name": value, "class_path": CALLABLE_CLASS, "config": {"CALLABLE": value}}
        return checked(SourceSettings, owner, **values)
    return _referred(owner, "SOURCE", value, known)


def _is_callable(value: object) -> bool:
    """Whether it has the form of 'myapp.search:documents'."""
    return isinstance(value, str) and ":" in value


def indexes(
    section: object,
    *,
    embedding: Mapping[str, EmbeddingBackendSettings],
    chat: Mapping[str, ChatBackendSettings],
    rerank: Mapping[str, RerankBackendSettings],
    sources: Mapping[str, SourceSettings],
    overlaps: Mapping[str, int],
    query_prompt: object,
) -> dict[str, IndexSettings]:
    """Return the indexes with their backends and sources; `overlaps` and `query_prompt` are defaults of entries."""
    known = fields_by_key(IndexSettings)
    found = {}
    for name, owner, entry in entries("INDEXES", section, known):
        backend = _referred(owner, "EMBEDDING_BACKEND", entry.pop("EMBEDDING_BACKEND", "default"), embedding)
        values = {
            "embedding_backend": backend,
            "chat_backend": _referred(owner, "CHAT_BACKEND", entry.pop("CHAT_BACKEND", "default"), chat),
            "chunk_overlap_tokens": overlaps.get(backend.name, 0),
            "query_prompt": query_prompt,
            "hnsw": _hnsw(f"HNSW of {owner}", entry.pop("HNSW", {})),
        }
        if "RERANK_BACKEND" in entry:
            values["rerank_backend"] = _referred(owner, "RERANK_BACKEND", entry.pop("RERANK_BACKEND"), rerank)
        if "SOURCE" in entry:
            values["source"] = _source(owner, entry.pop("SOURCE"), sources)
        values |= {known[key]: value for key, value in entry.items()}
        index = checked(IndexSettings, owner, name=name, **values)
        if index.chunk_tokens and index.chunk_overlap_tokens >= index.chunk_tokens:
            raise SettingsError(
                f"CHUNK_OVERLAP_TOKENS of {owner} is {index.chunk_overlap_tokens}; set it to less than its "
                f"CHUNK_TOKENS ({index.chunk_tokens})"
            )
        if index.schedule is not None and index.source is None:
            raise SettingsError(
                f"SCHEDULE of {owner} is {shown(index.schedule)}, but it has no source to read; set its SOURCE to an "
                'entry of VECTOR_INDEX["SOURCES"]'
            )
        found[name] = index
    return found


def _referred(owner: str, key: str, name: object, known: Mapping[str, T]) -> T:
    if not isinstance(name, str) or name not in known:
        raise SettingsError(
            f'{key} of {owner} is {shown(name)}, which VECTOR_INDEX["{key}S"] does not have; {nearest(name, known)}'
        )
    return known[name]
