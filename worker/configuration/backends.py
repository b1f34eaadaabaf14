"""The entries of EMBEDDING_BACKENDS, CHAT_BACKENDS and RERANK_BACKENDS; `None`: the backend decides by model."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

from worker.configuration.rules import Amount, Count, Name
from worker.reference import Setting


@dataclass(frozen=True, kw_only=True)
class EmbeddingBackendSettings:
    """One entry of EMBEDDING_BACKENDS."""

    name: Name
    class_path: Annotated[
        str,
        Setting(
            name="CLASS",
            type="dotted path of a class",
            default='`"worker.backends.llm.LLMEmbeddingBackend"`',
            meaning="The class that makes vectors. The shipped one serves every embedding model of `llm`; "
            "[your own](../../examples/own_backend.py) follows the protocol `EmbeddingBackend` of `worker.protocols`. "
            "The classes of wagtail-vector-index and wagtail-ai for `llm` are read as the shipped one.",
            example='"myapp.search.Backend"',
        ),
    ]
    model_id: Annotated[
        Name,
        Setting(
            default='`"ada-002"`, as in wagtail-vector-index, for a backend that you write without it; `"wordllama"` '
            "while you leave the whole section to the shipped settings",
            meaning="The embedding model, by its id or alias in `llm`. `vector-index models` lists the installed ones. "
            "An index keeps the model of its first document until `vector-index rebuild`.",
            example='"3-small"',
        ),
    ] = "ada-002"
    # keys of providers travel here: never in a repr
    init_kwargs: Annotated[
        Mapping[str, Any],
        Setting(
            default="`{}`",
            meaning="Attributes that are set on the model object of `llm`: `key` for a key of its own, `api_base` for "
            "the address of its server, `headers` for more HTTP headers, and whatever else the model has. An unknown "
            "attribute is an error that lists the known ones. Values appear in no log, error or result.",
            example='{"api_base": "http://litellm:4000/v1", "key": "sk-..."}',
        ),
    ] = field(default_factory=dict, repr=False, hash=False)
    token_limit: Annotated[
        Count | None,
        Setting(
            unit="tokens",
            default="the known limit of the model, as `vector-index models` shows it; required for other models",
            meaning="The longest input that the model takes. No chunk is longer than this. If you lower it, new "
            "documents and queued chunks follow. If you raise it, an index keeps the limit of its first document.",
            example="8191",
        ),
    ] = None
    batch_token_limit: Annotated[
        Count | None,
        Setting(
            unit="tokens",
            default="the known limit of the model, else `TOKEN_LIMIT`; `TOKEN_LIMIT` too where that is set",
            meaning="The most that one request may hold, over all its inputs; at least `TOKEN_LIMIT`.",
            example="300_000",
        ),
    ] = None
    batch_size: Annotated[
        Count | None,
        Setting(
            unit="inputs",
            default="the known limit of the model, else that of its `llm` plugin, else 100",
            meaning="The most inputs in one request. Lower it for a server that takes fewer: 32 for TEI.",
            example="32",
        ),
    ] = None
    dimensions: Annotated[
        Count | None,
        Setting(
            name="EMBEDDING_OUTPUT_DIMENSIONS",
            unit="dimensions",
            default="the known length, else that of one small request",
            meaning="The length of a vector. A model that can shorten its vectors, such as `3-small`, is asked for "
            "this length. For other models, set it to the length that they return. An index keeps the length of its "
            "first document.",
            example="512",
        ),
    ] = None
    tokenizer: Annotated[
        Name | None,
        Setting(
            default="the tokenizer of a known model, else `estimate`",
            meaning="How tokens are counted before anything is sent: `cl100k_base` or `o200k_base` of OpenAI; "
            "`package:path/in/package.json` for a tokenizer file inside an installed package; the path of such a file; "
            "or `estimate`, which needs no file and never counts too few. An index keeps the tokenizer of its first "
            "document.",
            example='"cl100k_base"',
        ),
    ] = None
    document_prefix: Annotated[
        str,
        Setting(
            meaning="Text that the model wants in front of every chunk, with the space at its end. An index keeps the "
            "prefix of its first document.",
            example='"passage: "',
        ),
    ] = ""
    query_prefix: Annotated[
        str,
        Setting(
            meaning="Text that the model wants in front of every question, with the space at its end. An index keeps "
            "the prefix of its first document.",
            example='"query: "',
        ),
    ] = ""
    concurrency: Annotated[
        Count,
        Setting(
            unit="requests",
            meaning="How many requests each embedding worker process sends at once.",
            example="16",
        ),
    ] = 8
    requests_per_minute: Annotated[
        Count | None,
        Setting(
            unit="requests per minute",
            default="no limit",
            meaning="The provider's rate limit. It holds over all processes that share a broker, and no window of 60 "
            "seconds exceeds it.",
            example="3_000",
        ),
    ] = None
    tokens_per_minute: Annotated[
        Count | None,
        Setting(
            unit="tokens per minute",
            default="no limit",
            meaning="The provider's rate limit. It holds over all processes that share a broker, and no window of 60 "
            "seconds exceeds it.",
            example="1_000_000",
        ),
    ] = None
    timeout_seconds: Annotated[
        Amount,
        Setting(
            unit="seconds",
            meaning="The time limit of one request. A request that takes longer is retried later.",
            example="30",
        ),
    ] = 60.0

    def without_keys(self) -> dict[str, Any]:
        """Return the values as JSON without INIT_KWARGS, which hold keys."""
        return {key: value for key, value in asdict(self).items() if key != "init_kwargs"}


@dataclass(frozen=True, kw_only=True)
class ChatBackendSettings:
    """One entry of CHAT_BACKENDS."""

    name: Name
    class_path: Annotated[
        str,
        Setting(
            name="CLASS",
            type="dotted path of a class",
            default='`"worker.backends.llm.LLMChatBackend"`',
            meaning="The class that answers. The shipped one serves every chat model of `llm`; "
            "[your own](../../examples/own_backend.py) follows the protocol `ChatBackend` of `worker.protocols`. "
            "The classes of wagtail-vector-index and wagtail-ai for `llm` are read as the shipped one.",
            example='"myapp.search.Chat"',
        ),
    ]
    model_id: Annotated[
        Name,
        Setting(
            default='`"gpt-3.5-turbo"`, as in wagtail-vector-index, for a backend that you write without it; '
            '`"extractive"` while you leave the whole section to the shipped settings',
            meaning="The chat model, by its id or alias in `llm`. `vector-index models` lists the installed ones.",
            example='"gpt-4o-mini"',
        ),
    ] = "gpt-3.5-turbo"
    init_kwargs: Annotated[
        Mapping[str, Any],
        Setting(
            default="`{}`",
            meaning="Attributes that are set on the model object of `llm`: `key` for a key of its own, `api_base` for "
            "the address of its server, `headers` for more HTTP headers, and whatever else the model has. An unknown "
            "attribute is an error that lists the known ones. Options of a prompt, such as `temperature`, belong in "
            "`PROMPT_KWARGS`. Values appear in no log, error or result.",
            example='{"api_base": "http://vllm:8000/v1", "key": "sk-..."}',
        ),
    ] = field(default_factory=dict, repr=False, hash=False)
    prompt_kwargs: Annotated[
        Mapping[str, Any],
        Setting(
            default="`{}`",
            meaning="What every prompt is sent with: the options of the model, as `llm models --options` lists them, "
            "and these keys. `max_tokens` (of some models `max_output_tokens` or `num_predict`) bounds the answer and "
            "keeps that much of `TOKEN_LIMIT` free; without it 1,024 tokens, or a quarter of a small window, are kept "
            "free. `system` replaces the `QUERY_PROMPT` of every index. `system_fragments` and `fragments` are "
            "lists of texts in front of the system message and of the question. `stream: False` asks for answers in "
            "one piece. An option that the model does not take is an error that lists the ones it takes. Values appear "
            "in no log, error or result.",
            example='{"temperature": 0, "max_tokens": 800, "system": "Answer in German, in two sentences."}',
        ),
    ] = field(default_factory=dict, repr=False, hash=False)
    token_limit: Annotated[
        Count | None,
        Setting(
            unit="tokens",
            default="the known limit of the model, as `vector-index models` shows it; required for other models, and "
            "for all models of Ollama",
            meaning="The context window of the model: prompt and answer together.",
            example="128_000",
        ),
    ] = None
    follow_up: Annotated[
        Literal["fuse", "rewrite"],
        Setting(
            meaning="How a question with `history` is searched. `fuse`: together with the last turns, without a "
            "further request to the chat model. `rewrite`: the model first writes a question that stands alone, in one "
            "short request. If that fails, the search is as with `fuse`.",
            example='"rewrite"',
        ),
    ] = "fuse"
    fallback: Annotated[
        Name | None,
        Setting(
            type="key of `CHAT_BACKENDS`",
            meaning="Who answers while the provider of this backend is away or over its limit: another entry, with its "
            "own model, limits and prompt. It is asked once the attempts at this backend have failed, or at once if "
            "this one must wait for more than 5 seconds, and only until the first word of an answer was streamed. "
            "`model` in the result says who answered.",
            example='"second"',
        ),
    ] = None
    timeout_seconds: Annotated[
        Amount,
        Setting(
            unit="seconds",
            meaning="How long a request may be silent: until the first piece of the answer, and between two pieces. "
            "Raise it for a model that thinks for longer.",
            example="120",
        ),
    ] = 60.0
    requests_per_minute: Annotated[
        Count | None,
        Setting(
            unit="requests per minute",
            default="no limit",
            meaning="The provider's rate limit. It holds over all processes that share a broker, and no window of 60 "
            "seconds exceeds it. A chat that would have to wait for more than 5 seconds fails and says so.",
            example="500",
        ),
    ] = None
    tokens_per_minute: Annotated[
        Count | None,
        Setting(
            unit="tokens per minute",
            default="no limit",
            meaning="The provider's rate limit. It holds over all processes that share a broker, and no window of 60 "
            "seconds exceeds it. A chat that would have to wait for more than 5 seconds fails and says so.",
            example="200_000",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RerankBackendSettings:
    """One entry of RERANK_BACKENDS."""

    name: Name
    class_path: Annotated[
        str,
        Setting(
            name="CLASS",
            type="dotted path of a class",
            default='`"worker.backends.rerank.HTTPRerankBackend"`',
            meaning="The class that scores passages. The default sends them to a server with the API that Cohere, "
            "Jina, Voyage, TEI, vLLM, Infinity and LiteLLM have. `worker.backends.llm.LLMRerankBackend` asks a chat "
            "model of `llm`. [Your own](../how-to/search.md#rerank) follows the protocol `RerankBackend` of "
            "`worker.protocols`.",
            example='"worker.backends.llm.LLMRerankBackend"',
        ),
    ]
    model_id: Annotated[
        str,
        Setting(
            default="required, except for TEI, which serves one model",
            meaning="The reranker, as its server calls it; for `LLMRerankBackend` the chat model, by its id or alias "
            "in `llm`.",
            example='"rerank-v3.5"',
        ),
    ] = ""
    init_kwargs: Annotated[
        Mapping[str, Any],
        Setting(
            default="`{}`",
            meaning="For the default class: `api_base`, the address of the server without `/rerank`; `key`; `headers` "
            'for more HTTP headers; `form`, which is `"cohere"` (of Jina, vLLM, Infinity and LiteLLM, too), `"voyage"` '
            'or `"tei"`. For `LLMRerankBackend`: attributes of the model object of `llm`, as those of a chat backend. '
            "Values appear in no log, error or result.",
            example='{"api_base": "https://api.jina.ai/v1", "key": "jina_..."}',
        ),
    ] = field(default_factory=dict, repr=False, hash=False)
    prompt_kwargs: Annotated[
        Mapping[str, Any],
        Setting(
            default="`{}`",
            meaning="Options of every prompt, for `LLMRerankBackend` alone: as those of a chat backend.",
            example='{"temperature": 0}',
        ),
    ] = field(default_factory=dict, repr=False, hash=False)
    token_limit: Annotated[
        Count | None,
        Setting(
            unit="tokens",
            default="512; for `LLMRerankBackend` the known limit of the model",
            meaning="The most that the model reads of a question and one passage together. Longer passages are cut for "
            "the model, and returned whole. For `LLMRerankBackend`: its context window.",
            example="8_192",
        ),
    ] = None
    batch_size: Annotated[
        Count | None,
        Setting(
            unit="passages",
            default='32 with `form` `"tei"`, as its servers have it, else 100',
            meaning="The most passages in one request; more are sent in several.",
            example="64",
        ),
    ] = None
    tokenizer: Annotated[
        Name | None,
        Setting(
            default="`estimate`",
            meaning="How tokens are counted before anything is sent: as that of an embedding backend.",
            example='"cl100k_base"',
        ),
    ] = None
    requests_per_minute: Annotated[
        Count | None,
        Setting(
            unit="requests per minute",
            default="no limit",
            meaning="The provider's rate limit. It holds over all processes that share a broker. A search that would "
            "have to wait for more than a second keeps its order and says so.",
            example="500",
        ),
    ] = None
    tokens_per_minute: Annotated[
        Count | None,
        Setting(
            unit="tokens per minute",
            default="no limit",
            meaning="The provider's rate limit, as `REQUESTS_PER_MINUTE`. A question counts once for each passage.",
            example="200_000",
        ),
    ] = None
    timeout_seconds: Annotated[
        Amount,
        Setting(
            unit="seconds",
            meaning="The time limit of a request. A search whose reranker takes longer keeps its order and says so.",
            example="2",
        ),
    ] = 5.0
