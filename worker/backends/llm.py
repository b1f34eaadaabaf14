"""Embeddings and answers from any model that `llm` and its plugins know."""

import copy
import difflib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import cached_property, partial
from typing import Any, TypeVar

import llm
import numpy as np
from llm.models import EmbeddingModel, Model, Response
from numpy.typing import NDArray
from pydantic import ValidationError

from worker.backends import Reply, warm_up
from worker.backends.failures import classify
from worker.errors import ProviderUnavailable, Refused, SettingsError, VectorIndexError
from worker.limits import chat_limits, embedding_limits
from worker.tokens import ESTIMATE, OPENAI_ENCODINGS, counter, tokenizer_file

DEFAULT_BATCH_SIZE = 100
DEFAULT_CHUNK_TOKENS = 512
# bytes, as an unknown tokenizer is bounded by them: about 512 tokens of English
DEFAULT_CHUNK_BYTES = 2_048
# tokens kept for the answer where PROMPT_KWARGS has no max_tokens; a quarter of a small window
DEFAULT_ANSWER_TOKENS = 1_024
# what models call the bound of an answer
ANSWER_LIMITS = ("max_tokens", "max_output_tokens", "num_predict")

AnyModel = TypeVar("AnyModel", EmbeddingModel, Model)


class LLMEmbeddingBackend:
    """One entry of EMBEDDING_BACKENDS, its limits decided: given, else known, else a safe default.

    Safe in threads. Raises SettingsError for a model, an attribute or a tokenizer that does not exist, and where
    TOKEN_LIMIT is neither given nor known.
    """

    model_id: str  # as llm resolves it, without an alias
    token_limit: int  # tokens of one input
    batch_token_limit: int  # tokens of one request, over all its inputs
    batch_size: int  # inputs of one request
    tokenizer: str  # a name of worker.tokens
    chunk_tokens: int  # default size of a chunk, as that tokenizer counts

    def __init__(
        self,
        *,
        name: str,
        model_id: str,
        init_kwargs: Mapping[str, Any] | None = None,
        token_limit: int | None = None,
        batch_token_limit: int | None = None,
        batch_size: int | None = None,
        dimensions: int | None = None,
        tokenizer: str | None = None,
        document_prefix: str = "",
        query_prefix: str = "",
        timeout_seconds: float = 60.0,
    ) -> None:
        self.name = name
        self._model = _model(name, model_id, init_kwargs or {})
        self._secrets = list(_strings(init_kwargs or {}))
        self.model_id = self._model.model_id
        self._known = known = embedding_limits(self.model_id)
        if token_limit is None and known is None:
            raise SettingsError(
                f"TOKEN_LIMIT of embedding backend {name!r} is missing, and {self.model_id!r} is no model whose "
                "limit is known: set it to the tokens that the model takes in one input"
            )
        limit = token_limit or (known.token_limit if known else 0)
        known_batch = known.batch_token_limit if known and token_limit is None else None
        self.batch_token_limit = batch_token_limit or known_batch or limit
        self.token_limit = min(limit, self.batch_token_limit)
        self.batch_size = (
            batch_size or (known and known.batch_size) or self._model.batch_size or DEFAULT_BATCH_SIZE
        )
        self.tokenizer = tokenizer or (known and known.tokenizer) or ESTIMATE
        if self.tokenizer not in (ESTIMATE, *OPENAI_ENCODINGS):
            tokenizer_file(self.tokenizer)
        default = DEFAULT_CHUNK_BYTES if self.tokenizer == ESTIMATE else DEFAULT_CHUNK_TOKENS
        self.chunk_tokens = min(self.token_limit, (known and known.chunk_tokens) or default)
        self.document_prefix = document_prefix
        self.query_prefix = query_prefix
        self.timeout_seconds = timeout_seconds
        self._given_dimensions = dimensions

    @property
    def count_tokens(self) -> Callable[[str], int]:
        """How this model's tokens are counted: exactly, or by a bound where the tokenizer is not known."""
        return counter(self.tokenizer)

    @cached_property
    def dimensions(self) -> int:
        """The length of a vector: given, set on the model, known, else that of a probe (one request)."""
        of_model = getattr(self._model, "dimensions", None)
        known = self._known.dimensions if self._known else None
        return self._given_dimensions or of_model or known or len(self._request(["dimensions"])[0])

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of shape (len(texts), dimensions), in order, from one request; all finite, none zero.

        Raises TooLarge, Refused, ProviderUnavailable or SettingsError, as `failures.classify` decides. A vector
        of zeros or with NaN counts as Refused, too few or ragged vectors as ProviderUnavailable.
        """
        if not texts:
            return np.empty((0, self.dimensions), dtype=np.float32)
        rows = self._request(texts)
        if any(len(row) != self.dimensions for row in rows):
            lengths = ", ".join(map(str, sorted({len(row) for row in rows})))
            raise SettingsError(
                f"{self.model_id} returns vectors of length {lengths}, where {self.dimensions} were expected: set "
                f"EMBEDDING_OUTPUT_DIMENSIONS of embedding backend {self.name!r} to what the model returns"
            )
        vectors = np.array(rows, dtype=np.float32)
        if not (np.isfinite(vectors).all() and vectors.any(axis=1).all()):
            raise Refused(f"{self.model_id} returned a vector of zeros or NaN, which has no direction")
        return vectors

    def _request(self, texts: Sequence[str]) -> list[list[float]]:
        failure: VectorIndexError | None = None
        try:
            rows = list(self._model.embed_multi(list(texts), batch_size=len(texts)))
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; classify names what it means
            failure = classify(error, model_id=self.model_id, texts=texts, secrets=self._known_secrets())
        # raised here, outside of the handler: the plugin's exception may hold the request in its traceback
        if failure:
            raise failure
        if len(rows) != len(texts):
            raise ProviderUnavailable(f"{self.model_id} returned {len(rows)} vectors for {len(texts)} texts")
        return rows

    def _known_secrets(self) -> list[str]:
        return [*self._secrets, *_key(self._model)]


class LLMChatBackend:
    """One entry of CHAT_BACKENDS. Safe in threads.

    Raises SettingsError for a model, an attribute, an option or a tokenizer that does not exist, and where
    TOKEN_LIMIT is neither given nor known.
    """

    model_id: str  # as llm resolves it, without an alias
    token_limit: int  # tokens of a prompt with its answer
    prompt_tokens: int  # tokens of a prompt, at most: room for the answer is kept
    system: str | None  # of PROMPT_KWARGS

    def __init__(
        self,
        *,
        name: str,
        model_id: str,
        init_kwargs: Mapping[str, Any] | None = None,
        prompt_kwargs: Mapping[str, Any] | None = None,
        token_limit: int | None = None,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.name = name
        self._model = _chat_model(name, model_id, init_kwargs or {}, timeout_seconds)
        self.model_id = self._model.model_id
        self._secrets = list(_strings(init_kwargs or {}))
        options = {key: value for key, value in (prompt_kwargs or {}).items() if value is not None}
        self.system = _system(name, options.pop("system", None))
        self._options = options
        _check_options(name, self._model, options)
        known = chat_limits(self.model_id)
        limit = token_limit or (known and known.token_limit)
        if not limit:
            raise SettingsError(
                f"TOKEN_LIMIT of chat backend {name!r} is missing, and {self.model_id!r} is no model whose limit is "
                "known: set it to the tokens of the model's context window"
            )
        self.token_limit = limit
        given = next((options[key] for key in ANSWER_LIMITS if key in options), None)
        answer_tokens = int(given) if given else min(DEFAULT_ANSWER_TOKENS, limit // 4)
        self.prompt_tokens = limit - answer_tokens
        if self.prompt_tokens <= 0:
            raise SettingsError(
                f"PROMPT_KWARGS of chat backend {name!r} keep {answer_tokens:,} tokens for an answer, and TOKEN_LIMIT "
                f"is {limit:,}: lower max_tokens, so that a prompt fits in front of it"
            )
        self.count_tokens = counter((known and known.tokenizer) or ESTIMATE)

    def reply(self, messages: Sequence[Mapping[str, str]], say: Callable[[str], None] | None = None) -> Reply:
        """The answer to messages {"role", "content"}; `say` is called with each piece as it comes.

        What `say` raises ends the request. Raises TooLarge, Refused, ProviderUnavailable or SettingsError, as
        `failures.classify` decides; an answer that is empty, or whose stream breaks off, is ProviderUnavailable.
        """
        stream = say is not None and bool(self._model.can_stream)
        roles = {"system": llm.system, "user": llm.user, "assistant": llm.assistant}
        # system= would be dropped beside messages= (llm 0.36)
        response = self._model.prompt(
            messages=[roles[message["role"]](message["content"]) for message in messages],
            stream=stream,
            **self._options,
        )
        texts = [message["content"] for message in messages]
        pieces: list[str] = []
        with closing(self._pieces(response, texts)) as coming:
            for piece in coming:
                pieces.append(piece)
                if say:
                    say(piece)
        text = "".join(pieces)
        if stream and not _finished(self._model, response):
            raise ProviderUnavailable(
                f"{self.model_id}: the stream of the answer broke off; to be tried again later"
            )
        if not text.strip():
            raise ProviderUnavailable(
                f"{self.model_id} returned an empty answer; to be tried again later, with a higher max_tokens where a "
                "model reasons before it answers"
            )
        usage = response.usage()
        return Reply(
            text=text,
            input_tokens=sum(map(self.count_tokens, texts)) if usage.input is None else usage.input,
            output_tokens=self.count_tokens(text) if usage.output is None else usage.output,
        )

    def _pieces(self, response: Response, texts: Sequence[str]) -> Generator[str, None, None]:
        failure: VectorIndexError | None = None
        try:
            yield from response
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; classify names what it means
            secrets = [*self._secrets, *_key(self._model)]
            failure = classify(error, model_id=self.model_id, texts=texts, secrets=secrets)
        # raised here, outside of the handler: the plugin's exception may hold the request in its traceback
        if failure:
            raise failure


def _model(name: str, model_id: str, init_kwargs: Mapping[str, Any]) -> EmbeddingModel:
    """A copy of the model with INIT_KWARGS set: plugins may hand out one object to all."""
    warm_up()
    owner = f"embedding backend {name!r}"
    try:
        model: EmbeddingModel = copy.copy(llm.get_embedding_model(model_id))  # type: ignore[no-untyped-call]
    except llm.UnknownModelError:
        raise _unknown(model_id, owner, llm.get_embedding_model_aliases(), "llm embed-models") from None
    return _with_attributes(model, owner, init_kwargs)


def _chat_model(name: str, model_id: str, init_kwargs: Mapping[str, Any], timeout_seconds: float) -> Model:
    """A copy of the model with INIT_KWARGS set; the OpenAI classes get a timeout, and leave retries to us."""
    warm_up()
    owner = f"chat backend {name!r}"
    try:
        model: Model = copy.copy(llm.get_model(model_id))
    except llm.UnknownModelError:
        raise _unknown(model_id, owner, llm.get_model_aliases(), "llm models") from None
    _with_attributes(model, owner, init_kwargs)
    # llm waits for 600 s and retries inside the call, by default
    if make := getattr(model, "get_client", None):
        # a model of extra-openai-models.yaml without api_key_name would be sent "DUMMY_KEY" (llm 0.36)
        model.needs_key = model.needs_key or (model.model_id if "key" in init_kwargs else None)
        model.get_client = partial(_client, make, timeout_seconds)  # type: ignore[attr-defined]
    return model


def _unknown(model_id: str, owner: str, known: Iterable[str], command: str) -> SettingsError:
    near = difflib.get_close_matches(model_id, known, n=1)
    hint = f" (the nearest is {near[0]!r})" if near else ""
    return SettingsError(
        f"MODEL_ID {model_id!r} of {owner} is unknown{hint}: take one that `{command}` lists, or install the plugin of "
        "llm that brings it"
    )


def _client(make: Callable[..., Any], timeout_seconds: float, *args: Any, **kwargs: Any) -> Any:
    return make(*args, **kwargs).with_options(timeout=timeout_seconds, max_retries=0)


def _system(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise SettingsError(
            f"PROMPT_KWARGS of chat backend {name!r} has a system of type {type(value).__name__}: give a string"
        )
    return value


def _check_options(name: str, model: Model, options: Mapping[str, Any]) -> None:
    allowed = sorted(model.Options.model_fields)
    try:
        model.Options(**options)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        option = ".".join(map(str, wrong["loc"]))
        raise SettingsError(
            f"PROMPT_KWARGS of chat backend {name!r} has {option!r}, which {model.model_id} does not take "
            f"({wrong['msg']}): it takes {', '.join(['system', *allowed])}"
        ) from None


def _finished(model: Model, response: Response) -> bool:
    """Whether the model said that its answer ends here; only the OpenAI classes tell.

    llm 0.36 takes a stream that was cut off for a whole answer; finish_reason (Chat) or all (Responses) is missing.
    """
    if not hasattr(model, "get_client"):
        return True
    said = response.response_json or {}
    return bool(said.get("finish_reason") or said.get("status"))


def _with_attributes(model: AnyModel, owner: str, init_kwargs: Mapping[str, Any]) -> AnyModel:
    for attribute, value in init_kwargs.items():
        if not hasattr(model, attribute):
            raise SettingsError(
                f"INIT_KWARGS of {owner} has {attribute!r}, which {model.model_id} does not have: it has "
                f"{', '.join(sorted(_attributes(model)))}"
            )
        setattr(model, attribute, value)
    return model


def _key(model: EmbeddingModel | Model) -> list[str]:
    """The key that the model would use, if any."""
    with suppress(llm.NeedsKeyException):
        key = model.get_key()
        return [key] if key else []
    return []


def _attributes(model: EmbeddingModel | Model) -> Iterator[str]:
    for name in dir(model):
        if not name.startswith("_") and not callable(getattr(model, name)):
            yield name


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, str) and len(value) >= 6:
        yield value
