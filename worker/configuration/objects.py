"""The checked, frozen objects; a field's annotation carries its rule."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from worker.configuration.messages import nearest, shown
from worker.errors import UnknownIndex
from worker.sources.scheduling import Crontab


def _no_boolean(value: object) -> object:
    # bool is an int to Python, and `True` would pass as 1
    if isinstance(value, bool):
        raise ValueError("give a number, not a boolean")
    return value


def _some_weight(weights: tuple[float, float]) -> tuple[float, float]:
    if not any(weights):
        raise ValueError("give at least one of them above 0")
    return weights


def _schedule(value: object) -> str | float | None:
    mend = "give seconds above 0, or a crontab of five fields such as '30 3 * * 1-5'"
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e9):
        return value
    if not isinstance(value, str):
        raise ValueError(mend)
    try:
        Crontab.parse(value)
    except ValueError as error:
        raise ValueError(f"{error}; {mend}") from None
    return value


Count = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1)]
Port = Annotated[int, BeforeValidator(_no_boolean), Field(ge=1, le=65535)]
Amount = Annotated[float, BeforeValidator(_no_boolean), Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, le=1_000_000)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True, kw_only=True)
class EmbeddingBackendSettings:
    """One entry of EMBEDDING_BACKENDS; None means: by model, see the backend."""

    name: Name
    class_path: str  # dotted path of the class
    model_id: Name = "ada-002"
    # keys of providers travel here: never in a repr
    init_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    token_limit: Count | None = None  # tokens of one input
    batch_token_limit: Count | None = None  # tokens of one request, over all its inputs
    batch_size: Count | None = None  # inputs of one request
    dimensions: Count | None = None  # length of a vector; EMBEDDING_OUTPUT_DIMENSIONS
    tokenizer: Name | None = None
    document_prefix: str = ""
    query_prefix: str = ""
    concurrency: Count = 8  # requests in flight per embedding worker process
    requests_per_minute: Count | None = None  # over all worker processes
    tokens_per_minute: Count | None = None  # over all worker processes
    timeout_seconds: Amount = 60.0  # one request


@dataclass(frozen=True, kw_only=True)
class ChatBackendSettings:
    """One entry of CHAT_BACKENDS; None means: by model, see the backend."""

    name: Name
    class_path: str  # dotted path of the class
    model_id: Name = "gpt-3.5-turbo"
    init_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    prompt_kwargs: Mapping[str, Any] = field(
        default_factory=dict, repr=False, hash=False
    )  # passed to `model.prompt`
    token_limit: Count | None = None  # the context window
    timeout_seconds: Amount = 60.0  # one request
    requests_per_minute: Count | None = None  # over all worker processes
    tokens_per_minute: Count | None = None  # over all worker processes


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One entry of SOURCES; the class checks its own CONFIG."""

    name: Name
    class_path: str
    config: Mapping[str, Any] = field(
        default_factory=dict, repr=False, hash=False
    )  # may hold the password of a database


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """One entry of INDEXES, with what it refers to."""

    name: Name
    embedding_backend: EmbeddingBackendSettings
    chat_backend: ChatBackendSettings
    chunk_tokens: Count | None = None  # None: by model; never over the backend's token_limit
    chunk_overlap_tokens: Annotated[int, BeforeValidator(_no_boolean), Field(ge=0)] = 0
    distance: Literal["cosine", "l2", "inner_product"] = "cosine"
    # a text-search configuration of Postgres, which alone knows which exist
    language: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{2,}$")] = "english"
    # of hybrid search: how much the ranking by vector counts, and the ranking by words
    hybrid_weights: Annotated[tuple[Weight, Weight], AfterValidator(_some_weight)] = (1.0, 1.0)
    tenant_field: Name | None = None  # metadata field that every search must name
    source: SourceSettings | None = None
    schedule: Annotated[str | float | None, PlainValidator(_schedule)] = (
        None  # crontab (minute hour day month weekday) or seconds
    )
    query_prompt: str | None = None  # None: the shipped one


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """All settings of a process."""

    database_url: str = field(repr=False)  # "": the embedded Postgres
    broker_url: str = field(repr=False)  # "": the embedded Valkey
    result_backend: str = field(repr=False)  # as broker_url where RESULT_BACKEND is empty
    home: Path  # of the embedded services
    folder: Path  # where the application's own modules are looked for
    max_document_bytes: Count
    timezone: str
    metrics_port: Port | None
    metrics_address: Name
    vector_index_log_format: Literal["text", "json"]
    price_per_million_tokens: (
        Annotated[float, BeforeValidator(_no_boolean), Field(ge=0, allow_inf_nan=False)] | None
    )
    embedding_backends: Mapping[str, EmbeddingBackendSettings]
    chat_backends: Mapping[str, ChatBackendSettings]
    indexes: Mapping[str, IndexSettings]
    notices: tuple[str, ...]  # sentences that an operator should see once, at start

    def index(self, name: object) -> IndexSettings:
        """The index of that name; raises UnknownIndex, which names the nearest."""
        if not isinstance(name, str) or name not in self.indexes:
            raise UnknownIndex(f"there is no index {shown(name)}: {nearest(name, self.indexes)}")
        return self.indexes[name]
