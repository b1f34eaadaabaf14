"""The checked, frozen settings. A field's annotation has its rule and the words of the reference page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from worker.configuration.backends import (
    ChatBackendSettings,
    EmbeddingBackendSettings,
    RerankBackendSettings,
)
from worker.configuration.messages import nearest, shown
from worker.configuration.rules import (
    CHECKED,
    AnswerPrompt,
    Candidates,
    Context,
    Count,
    Language,
    Links,
    Name,
    Passages,
    Port,
    Price,
    Schedule,
    Switch,
    Weights,
    Whole,
)
from worker.errors import UnknownIndex
from worker.reference import Setting


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One entry of SOURCES; the class checks its own CONFIG."""

    name: Name
    class_path: Annotated[
        str,
        Setting(
            name="CLASS",
            type="dotted path of a class, or `module:name` of a callable",
            default="required",
            meaning="What reads the documents: one of the three classes below, "
            "[your own](../../examples/own_source.py) that follows the protocol `Source` of `worker.protocols`, or a "
            "callable without arguments, such as a generator function.",
            example='"worker.sources.sql.SQLSource"',
        ),
    ]
    config: Annotated[
        Mapping[str, Any],
        Setting(
            default="`{}`",
            meaning="Keyword arguments of the class, in capitals. The class checks them when a worker starts.",
            example='{"QUERY": "SELECT id, body AS text FROM page"}',
        ),
    ] = field(default_factory=dict, repr=False, hash=False)  # may hold the password of a database


@dataclass(frozen=True, kw_only=True)
class HNSWSettings:
    """The value of HNSW of an index: its vector index."""

    m: Annotated[Links, Setting(name="m", meaning="Links of a vector.", example="24")] = 16
    ef_construction: Annotated[
        Candidates,
        Setting(name="ef_construction", meaning="Candidates while a vector is added.", example="128"),
    ] = 64
    ef_search: Annotated[
        Candidates, Setting(name="ef_search", meaning="Candidates of a search.", example="200")
    ] = 100
    quantisation: Annotated[
        Literal["binary"] | None,
        Setting(name="quantisation", meaning="Index one bit a number.", example='"binary"'),
    ] = None


@dataclass(frozen=True, kw_only=True)
class IndexSettings:
    """One entry of INDEXES, with its backends and its source."""

    name: Name
    embedding_backend: Annotated[
        EmbeddingBackendSettings,
        CHECKED,
        Setting(
            type="key of `EMBEDDING_BACKENDS`",
            default='`"default"`',
            meaning="The backend that embeds the documents of this index and the questions to it.",
            example='"default"',
        ),
    ]
    chat_backend: Annotated[
        ChatBackendSettings,
        CHECKED,
        Setting(
            type="key of `CHAT_BACKENDS`",
            default='`"default"`',
            meaning="The backend that answers questions to this index. A task may name another one.",
            example='"default"',
        ),
    ]
    rerank_backend: Annotated[
        RerankBackendSettings | None,
        CHECKED,
        Setting(
            type="key of `RERANK_BACKENDS`",
            meaning="The backend that reranks the first passages of every search and chat of this index. A task may "
            "name another one, or none. `None`: only a task with `rerank` reranks.",
            example='"default"',
        ),
    ] = None
    rerank_passages: Annotated[
        Passages,
        Setting(
            unit="passages",
            meaning="How many of the first passages are reranked; those behind them keep their order.",
            example="50",
        ),
    ] = 20
    chunk_tokens: Annotated[
        Count | None,
        Setting(
            unit="tokens",
            default="the size that suits the model, else 512",
            meaning="The largest size of a chunk; never more than the backend's `TOKEN_LIMIT`. An index keeps the size "
            "of its first document.",
            example="300",
        ),
    ] = None
    chunk_overlap_tokens: Annotated[
        Whole,
        Setting(
            unit="tokens",
            meaning="How much of the end of a chunk is repeated at the start of the next; less than `CHUNK_TOKENS`. An "
            "index keeps the overlap of its first document. A backend's `CHUNK_OVERLAP_CHARACTERS`, as "
            "wagtail-vector-index has it, is read as a quarter of that in tokens.",
            example="30",
        ),
    ] = 0
    distance: Annotated[
        Literal["cosine", "l2", "inner_product"],
        Setting(
            meaning="How near two vectors are. An index keeps the distance of its first document.",
            example='"inner_product"',
        ),
    ] = "cosine"
    vector_type: Annotated[
        Literal["auto", "vector", "halfvec"],
        Setting(
            meaning="How a number of a vector is stored: in 4 bytes (`vector`), or in 2 bytes (`halfvec`), with three "
            "decimal digits. `auto` is `vector` up to 1,000 dimensions, and `halfvec` above, where it finds as many in "
            "half the space. `vector-index rebuild` applies a change, without a request to the model.",
            example='"halfvec"',
        ),
    ] = "auto"
    hnsw: Annotated[
        HNSWSettings | None,
        CHECKED,
        Setting(
            type="dictionary, or `False`",
            default='`{"m": 16, "ef_construction": 64, "ef_search": 100}`',
            meaning="The vector index that a large index gets: `m` links for each vector (2 to 100), `ef_construction` "
            "candidates while a vector is added (4 to 1,000, at least twice `m`), `ef_search` candidates of a search "
            "(4 to 1,000). More of each finds more of the nearest vectors, in more time. "
            '`"quantisation": "binary"` indexes one bit a number, and compares the best candidates exactly. `False`: '
            "searches always compare all vectors. A change of `ef_search` applies to the next search; after another, "
            "the workers build a new vector index beside the old one.",
            example='{"m": 24, "ef_search": 200}',
        ),
    ] = HNSWSettings()
    language: Annotated[
        Language | None,
        Setting(
            type="name of a text-search configuration of Postgres, or `None`",
            meaning="How search by words stems, and which words it leaves out. `simple` does neither. `None`: the "
            "index has no words, whatever `LANGUAGE_FIELD` names. Searches compare vectors alone, and indexing takes "
            "less time and disk. An index keeps the language of its first document until `vector-index rebuild`.",
            example='"german"',
        ),
    ] = "english"
    language_field: Annotated[
        Name | None,
        Setting(
            meaning="A metadata field that names the language of a document: a code such as `de` or `pt-BR`, or a "
            "text-search configuration such as `german`. A code without a configuration, such as `ja`, has no stems. A "
            "document without the field, or with an unknown value, has the `LANGUAGE` of the index. "
            "`vector-index rebuild` applies a change, without a request to the model.",
            example='"language"',
        ),
    ] = None
    hybrid_weights: Annotated[
        Weights,
        Setting(
            type="two numbers of 0 to 1,000,000, one of them above 0",
            default="`[1, 1]`",
            meaning="How much the similarity of the vectors and the relevance by words count in hybrid search, in this "
            "order: the score of a chunk is their weighted mean.",
            example="[1, 0.5]",
        ),
    ] = (1.0, 1.0)
    tenant_field: Annotated[
        Name | None,
        Setting(
            meaning="A metadata field that every search, chat and deletion by filter must name in its `filter`. One "
            "that does not is an error, so no tenant sees the documents of another.",
            example='"customer"',
        ),
    ] = None
    source: Annotated[
        SourceSettings | None,
        CHECKED,
        Setting(
            type="key of `SOURCES`, or `module:name` of a callable",
            meaning="What `vector-index reindex` reads. Documents that the source does not return are deleted.",
            example='"shop.search:documents"',
        ),
    ] = None
    schedule: Annotated[
        Schedule,
        Setting(
            type="crontab of five fields, or seconds above 0",
            meaning="When the source is read without being asked. A crontab is minute, hour, day of the month, month "
            "and weekday (0 is Sunday), in `TIMEZONE`. Needs a `SOURCE`, and a running `vector-index beat`.",
            example='"30 3 * * mon-fri"',
        ),
    ] = None
    query_prompt: Annotated[
        str | None,
        Setting(
            default="the shipped prompt",
            meaning="The system message of a chat: what the model is told before the passages and the question. "
            "`system` in the chat backend's `PROMPT_KWARGS` wins over it.",
            example='"You answer questions of customers, briefly and politely."',
        ),
    ] = None
    answer_prompt: Annotated[
        AnswerPrompt,
        Setting(
            type="text with `{passages}` and `{question}`",
            default="the shipped rules",
            meaning="The user's message of a chat: what is around the passages and the question. It replaces the rules "
            "on answering, citing and declining. A sentence that passages are quoted text goes with `{passages}` in "
            "any case. Ask for citations such as `[1]` in it, or set `CITATIONS` to `False`. Other braces stay as they "
            "are, unless they hold a single word.",
            example='"Answer from these passages, and cite them as [1].\\n\\n{passages}\\n\\nQuestion: {question}"',
        ),
    ] = None
    citations: Annotated[
        Switch,
        Setting(
            meaning="Whether answers cite their passages by number. `False`: the model is not asked to, numbers that "
            "it writes are removed, and the result lists the sources as before.",
            example="False",
        ),
    ] = True
    context: Annotated[
        Context,
        Setting(
            type='`{"neighbours": n}` with n from 1 to 10, or `"section"`',
            default="`None`: the match alone",
            meaning="What a chat sends around each match: so many chunks before and after it, or the section of the "
            "document that it is in. It is widened only as far as the prompt has room. The sources still point at the "
            "match.",
            example='{"neighbours": 2}',
        ),
    ] = None

    @property
    def ef_search(self) -> int:
        """Candidates of a search of the vector index."""
        return (self.hnsw or HNSWSettings()).ef_search


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """All settings of a process."""

    database_url: Annotated[
        str,
        Setting(
            type="`postgresql://` address",
            meaning="Postgres 15 or later with pgvector 0.8 or later. Empty: the embedded Postgres that "
            "`vector-index up` starts.",
            example='"postgresql://user:password@host:5432/name"',
        ),
    ] = field(repr=False)
    broker_url: Annotated[
        str,
        Setting(
            type="`redis://`, `rediss://` or `redis+socket://` address",
            meaning="Redis 6.2 or later, or Valkey; it carries tasks, leases and budgets. Empty: the embedded Valkey "
            "that `vector-index up` starts. `CELERY_BROKER_URL` is read as this setting if it is the address of a "
            "Redis.",
            example='"redis://:password@host:6379/0"',
        ),
    ] = field(repr=False)
    result_backend: Annotated[
        str,
        Setting(
            type="`redis://`, `rediss://` or `redis+socket://` address",
            meaning="Redis or Valkey for results of tasks and for streamed answers. Empty: `BROKER_URL`. "
            "`CELERY_RESULT_BACKEND` is read as this setting if it is the address of a Redis.",
            example='"redis://:password@host:6379/1"',
        ),
    ] = field(repr=False)
    home: Annotated[
        Path,
        Setting(
            name="VECTOR_INDEX_HOME",
            type="path of a folder",
            meaning="Data, ports and passwords of the embedded services. Empty: the user's data folder, "
            "`~/.local/share/vector-index` on Linux.",
            example='"/var/lib/vector-index"',
        ),
    ]
    folder: Path  # where the application's own modules are looked for
    max_document_bytes: Annotated[
        Count,
        Setting(
            unit="bytes",
            meaning="The longest text of a document, in UTF-8. A longer document fails with a reason; the others of "
            "its message are indexed.",
            example="2_000_000",
        ),
    ]
    timezone: Annotated[
        str,
        Setting(
            type="IANA name of a time zone",
            meaning="The time zone of every `SCHEDULE` that is a crontab.",
            example='"Europe/Berlin"',
        ),
    ]
    metrics_port: Annotated[
        Port | None,
        Setting(
            meaning="The TCP port on which each worker process serves Prometheus metrics. `None`: not served. "
            "`vector-index up` takes this port and the two after it.",
            example="9100",
        ),
    ]
    metrics_address: Annotated[
        Name,
        Setting(
            type="address of a network interface",
            meaning="Where the metrics listen. They have no password and show names of indexes and backends. In a "
            "container, set `0.0.0.0` to let a Prometheus of the same network read them.",
            example='"0.0.0.0"',
        ),
    ]
    vector_index_log_format: Annotated[
        Literal["text", "json"],
        Setting(
            meaning="The form of the lines that workers and the beat log to stderr.",
            example='"json"',
        ),
    ]
    price_per_million_tokens: Annotated[
        Price | None,
        Setting(
            unit="currency units per million embedded tokens",
            meaning="The price that `vector-index plan` multiplies with. `None`: it shows no price.",
            example="0.02",
        ),
    ]
    embedding_backends: Annotated[Mapping[str, EmbeddingBackendSettings], CHECKED]
    chat_backends: Annotated[Mapping[str, ChatBackendSettings], CHECKED]
    rerank_backends: Annotated[Mapping[str, RerankBackendSettings], CHECKED]
    indexes: Annotated[Mapping[str, IndexSettings], CHECKED]
    notices: tuple[str, ...]  # sentences that an operator should see once, at start

    def index(self, name: object) -> IndexSettings:
        """Return the index of that name; raises UnknownIndex, which names the nearest."""
        if not isinstance(name, str) or name not in self.indexes:
            raise UnknownIndex(f"there is no index {shown(name)}: {nearest(name, self.indexes)}")
        return self.indexes[name]
