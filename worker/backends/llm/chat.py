"""One entry of CHAT_BACKENDS: answers from any chat model of `llm`."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from functools import partial
from typing import Any

import llm
from llm.models import Model, Response
from pydantic import ValidationError

from worker.backends import Reply
from worker.backends.failures import classify
from worker.backends.llm.lookup import chat_model, secrets
from worker.errors import ProviderUnavailable, SettingsError, VectorIndexError
from worker.limits import chat_limits
from worker.tokens import ESTIMATE, counter

# tokens kept for the answer where PROMPT_KWARGS has no max_tokens; a quarter of a small window
DEFAULT_ANSWER_TOKENS = 1_024
# what models call the bound of an answer
ANSWER_LIMITS = ("max_tokens", "max_output_tokens", "num_predict")


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
        self._model = _without_retries(
            chat_model(name, model_id, init_kwargs or {}), init_kwargs or {}, timeout_seconds
        )
        self.model_id = self._model.model_id
        self._init_kwargs = init_kwargs or {}
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
            hidden = secrets(self._model, self._init_kwargs)
            failure = classify(error, model_id=self.model_id, texts=texts, secrets=hidden)
        # raised here, outside of the handler: the plugin's exception may hold the request in its traceback
        if failure:
            raise failure


def _without_retries(model: Model, init_kwargs: Mapping[str, Any], timeout_seconds: float) -> Model:
    """The OpenAI classes get a timeout, and leave retries to us: llm waits for 600 s and retries inside the call."""
    if make := getattr(model, "get_client", None):
        # a model of extra-openai-models.yaml without api_key_name would be sent "DUMMY_KEY" (llm 0.36)
        model.needs_key = model.needs_key or (model.model_id if "key" in init_kwargs else None)
        model.get_client = partial(_client, make, timeout_seconds)  # type: ignore[attr-defined]
    return model


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
