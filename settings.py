"""The settings, each with its unit and meaning, and the only place that reads the environment.

An environment variable of the same name wins over the override file, which wins over the value here.
`VECTOR_INDEX_SETTINGS` in the environment names the override: the path of a Python file, or a dotted module
such as a Django settings module, of which only the names below are read.
`worker.configuration` checks all of it once, at start.
"""

import os
from collections.abc import MutableMapping

# Addresses

DATABASE_URL = (
    ""  # postgresql://user:password@host:5432/name of a Postgres with pgvector; empty: the embedded one
)
BROKER_URL = (
    ""  # redis://:password@host:6379/0 of Redis or Valkey; empty: the embedded one; also CELERY_BROKER_URL
)
RESULT_BACKEND = ""  # Redis address for results of tasks and streamed answers; empty: BROKER_URL
VECTOR_INDEX_HOME = ""  # folder of the embedded services' data; empty: the user's data directory

# Models: shorthands for MODEL_ID of the two default backends; empty: as VECTOR_INDEX says.
# `vector-index models` lists what they may name.

EMBEDDING_MODEL = ""  # any embedding model of `llm`, or an alias of it
CHAT_MODEL = ""  # any chat model of `llm`, or an alias of it

# Bounds and monitoring

MAX_DOCUMENT_BYTES = 10_000_000  # bytes of a document's text in UTF-8; a larger document fails with a reason
TIMEZONE = "UTC"  # IANA name; the zone that crontab schedules are meant in
METRICS_PORT = None  # TCP port on which a worker process serves Prometheus metrics; None: not served
METRICS_ADDRESS = (
    "127.0.0.1"  # address that it listens on; in a container 0.0.0.0, which lets others of its network in
)
VECTOR_INDEX_LOG_FORMAT = "text"  # of the lines that workers and the beat log to stderr: text, or json
PRICE_PER_MILLION_TOKENS = None  # currency units per million embedded tokens, for `plan`; None: none shown

# Keys of an index that tell how it is searched: LANGUAGE, a text search configuration of Postgres (`english`; of the
# builds made from then on), HYBRID_WEIGHTS, how much the ranking by vector counts and that by words ([1, 1]; at least
# 0), TENANT_FIELD, the metadata field that every search must name. What it is filled from: SOURCE, a key of SOURCES,
# and SCHEDULE, when that is read by itself: a crontab, meant in TIMEZONE, or seconds.

# Backends, indexes and sources: a section that an override leaves out keeps what stands here.
# The shipped models need no key and no network: `wordllama` embeds, `extractive` answers by quoting.

VECTOR_INDEX = {
    "EMBEDDING_BACKENDS": {
        "default": {"CLASS": "worker.backends.llm.LLMEmbeddingBackend", "CONFIG": {"MODEL_ID": "wordllama"}}
    },
    "CHAT_BACKENDS": {
        "default": {"CLASS": "worker.backends.llm.LLMChatBackend", "CONFIG": {"MODEL_ID": "extractive"}}
    },
    "INDEXES": {"default": {"EMBEDDING_BACKEND": "default", "CHAT_BACKEND": "default"}},
    "SOURCES": {},
}


def environment() -> MutableMapping[str, str]:
    """The process environment, as it is now: read here, written for child processes."""
    return os.environ
