"""The chat backend for every chat model of `llm`."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import llm
from llm.default_plugins.openai_models import Completion
from llm.models import Model, Prompt, Response

from worker.backends.failures import classify
from worker.backends.limits import chat_limits
from worker.backends.llm.deadline import iterate_with_timeout
from worker.backends.llm.lookup import chat_model, name_for_limits, secrets
from worker.backends.llm.openai_client import OPENAI_CLASSES, with_persistent_client
from worker.backends.llm.options import PromptOptions, prompt_options
from worker.errors import ProviderUnavailable, SettingsError, VectorIndexError
from worker.observability.logs import log_fields
from worker.protocols import Reply
from worker.tokens import ESTIMATE, counter

# tokens reserved for the answer if PROMPT_KWARGS has no max_tokens; at most a quarter of the context window
DEFAULT_ANSWER_TOKENS = 1_024
# the finish reasons of answers that max_tokens has cut off
TRUNCATED = ("length", "incomplete")

logger = logging.getLogger("vector_index.chat")

Messages = Sequence[Mapping[str, str]]


class LLMChatBackend:
    """One entry of CHAT_BACKENDS. Safe in threads.

    Raises SettingsError for a model, an attribute, an option or a tokenizer that does not exist, and for a model
    without a known limit if TOKEN_LIMIT is not set.
    """

    model_id: str  # as llm resolves it, without an alias
    token_limit: int  # tokens of a prompt and its answer together
    prompt_tokens: int  # the most tokens of a prompt: token_limit minus the room for the answer
    system: str | None  # from PROMPT_KWARGS

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
        self._init_kwargs = init_kwargs or {}
        found = chat_model(name, model_id, self._init_kwargs)
        model, options = prompt_options(name, found, prompt_kwargs or {})
        self._model = with_persistent_client(model, timeout_seconds)
        self._options = options
        self.model_id = self._model.model_id
        self.system = options.system
        # llm 0.36 does not read the finish reason of a streamed completion
        self._streams = options.stream and bool(model.can_stream) and not isinstance(model, Completion)
        self._timeout_seconds = timeout_seconds
        known = chat_limits(name_for_limits(model))
        self.count_tokens = counter((known and known.tokenizer) or ESTIMATE)
        limit = token_limit or (known and known.token_limit)
        if not limit:
            raise SettingsError(
                f"TOKEN_LIMIT of chat backend {name!r} is missing, and the limit of {self.model_id!r} is not known: "
                "set it to the model's context window in tokens"
            )
        self.token_limit = limit
        self.prompt_tokens = self._prompt_tokens(limit, options)

    def reply(self, messages: Messages, on_token: Callable[[str], None] | None = None) -> Reply:
        """Answer messages {"role", "content"}, the last of them the user's. Calls `on_token` with each piece.

        An exception of `on_token` ends the request. Raises TooLarge, Refused, ProviderUnavailable or SettingsError, as
        `failures.classify` decides. Raises ProviderUnavailable also for an empty answer, a stream that breaks off, and
        a silence of TIMEOUT_SECONDS. An answer that max_tokens cuts off is returned, with a warning in the log.
        """
        texts = [message["content"] for message in messages]
        response = self._prompt(messages)
        pieces: list[str] = []
        with closing(iterate_with_timeout(self._timeout_seconds, self._pieces(response, texts))) as arriving:
            try:
                for piece in arriving:
                    pieces.append(piece)
                    if on_token:
                        on_token(piece)
            except TimeoutError as error:
                raise ProviderUnavailable(
                    f"{self.model_id}: {error}; retry later, and raise TIMEOUT_SECONDS if the model thinks for longer"
                ) from None
        text = "".join(pieces)
        reason = _finish_reason(self._model, response)
        if self._streams and reason is None:
            raise ProviderUnavailable(f"{self.model_id}: the stream of the answer broke off; retry later")
        if not text.strip():
            raise ProviderUnavailable(
                f"{self.model_id} returned an empty answer; retry later, and raise max_tokens if the model "
                "reasons before it answers"
            )
        if reason in TRUNCATED:
            logger.warning(
                "answer_cut_off",
                extra=log_fields(model=self.model_id, fix="raise max_tokens in PROMPT_KWARGS"),
            )
        input_tokens, output_tokens = _usage(self._model, response)
        return Reply(
            text=text,
            input_tokens=input_tokens or sum(map(self.count_tokens, texts)),
            output_tokens=output_tokens or self.count_tokens(text),
        )

    def _prompt(self, messages: Messages) -> Response:
        """Make a turn as `llm chat` does. The request is sent when the response is read.

        Plugins read the conversation from different places, so all of it is in each of them. llm-anthropic and
        llm-mistral read `prompt.messages`. llm-gemini 0.35 does too, but takes the system message from
        `prompt.system`. llm-cohere, and most plugins older than `messages`, read `prompt.prompt`, `prompt.system` and
        `conversation.responses`.
        """
        system = "\n\n".join(
            [*self._options.system_fragments, *(m["content"] for m in messages if m["role"] == "system")]
        )
        *history, asked = (message for message in messages if message["role"] != "system")
        question = "\n".join([*self._options.fragments, asked["content"]])
        if not _takes_roles(self._model, history):
            return self._model.prompt(
                _as_one_text(system, history, question), stream=self._streams, **self._options.others
            )
        conversation = self._model.conversation()
        conversation.responses.extend(_turns(self._model, history))
        roles = {"user": llm.user, "assistant": llm.assistant}
        return conversation.prompt(
            question,
            # one at most: llm sends only the last of several to the Responses API
            system=system,
            messages=[
                *([llm.system(system)] if system else []),
                *(roles[message["role"]](message["content"]) for message in history),
            ],
            stream=self._streams,
            **self._options.others,
        )

    def _pieces(self, response: Response, texts: Sequence[str]) -> Generator[str, None, None]:
        failure: VectorIndexError | None = None
        try:
            yield from response
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and classify decides
            hidden = secrets(self._model, self._init_kwargs)
            failure = classify(error, model_id=self.model_id, texts=texts, secrets=hidden)
        # raised outside the handler, since the traceback of the plugin's exception may hold the request
        if failure:
            raise failure

    def _prompt_tokens(self, limit: int, options: PromptOptions) -> int:
        answer_tokens = options.max_tokens or min(DEFAULT_ANSWER_TOKENS, limit // 4)
        fragments = [*options.fragments, *options.system_fragments]
        # two tokens for the separator of two fragments
        left = limit - answer_tokens - sum(self.count_tokens(fragment) + 2 for fragment in fragments)
        if left <= 0:
            raise SettingsError(
                f"PROMPT_KWARGS of chat backend {self.name!r} reserve {answer_tokens:,} tokens for the answer, and "
                f"TOKEN_LIMIT is {limit:,}, which leaves no room for a prompt: lower max_tokens or shorten fragments"
            )
        return left


def _takes_roles(model: Model, history: Messages) -> bool:
    """Tell whether a model takes separate messages of the system, the user and itself."""
    return (
        not isinstance(model, Completion)
        and getattr(model, "allows_system_prompt", True)
        and (not history or model.supports_conversation)
    )


def _as_one_text(system: str, history: Messages, question: str) -> str:
    """A transcript for the model to continue. Its marks have at most as many tokens as those of a chat format."""
    turns = [f"{message['role'].capitalize()}: {message['content']}" for message in history]
    return "\n\n".join([*([system] if system else []), *turns, f"User: {question}", "Assistant:"])


def _turns(model: Model, history: Messages) -> list[Response]:
    """The answered turns of a history, in the form of `llm`."""
    turns: list[Response] = []
    said: list[str] = []
    for message in history:
        if message["role"] == "user":
            said.append(message["content"])
            continue
        answer = llm.assistant(message["content"]).to_dict()
        turn = Response.from_dict(
            {"model": model.model_id, "prompt": {"messages": []}, "messages": [answer]}, model=model
        )
        turn.prompt = Prompt("\n\n".join(said), model=model)  # type: ignore[no-untyped-call]
        turns.append(turn)
        said = []
    return turns


def _usage(model: Model, response: Response) -> tuple[int | None, int | None]:
    """Tokens of the prompt and of the answer, as the provider counts them; `None` or 0 if it does not."""
    if isinstance(model, Completion):  # llm 0.36 does not pass it on
        told = (response.response_json or {}).get("usage") or {}
        return told.get("prompt_tokens"), told.get("completion_tokens")
    usage = response.usage()
    return usage.input, usage.output


def _finish_reason(model: Model, response: Response) -> str | None:
    """The finish reason of an answer: "stop", "length", "completed", …; "" if the plugin does not report one.

    `None`: the stream broke off, which llm 0.36 takes for a whole answer. In that case finish_reason (Chat) or
    everything (Responses) is missing. Only the OpenAI classes report a reason.
    """
    if not isinstance(model, OPENAI_CLASSES):
        return ""
    said = response.response_json or {}
    (choice,) = (said.get("choices") or [{}])[:1]
    reason: str | None = said.get("finish_reason") or said.get("status") or choice.get("finish_reason")
    return reason
