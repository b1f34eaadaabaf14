"""The chat backend for every chat model of `llm`."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import llm
from llm.default_plugins.openai_models import Chat, Completion, Responses
from llm.models import Model, Prompt, Response

from worker.backends import failures, finish_imports
from worker.backends.limits import chat_limits
from worker.backends.llm import finish_reasons
from worker.backends.llm.deadline import iterate_with_timeout
from worker.backends.llm.dialect import Dialect, named
from worker.backends.llm.lookup import chat_model, name_for_limits, secrets
from worker.backends.llm.openai_client import OPENAI_CLASSES, speaking, with_persistent_client
from worker.backends.llm.options import PromptOptions, prompt_options
from worker.errors import ProviderUnavailable, Refused, SettingsError, VectorIndexError
from worker.observability.logs import log_fields
from worker.protocols import Reasoning, Reply
from worker.tokens import ESTIMATE, counter

# tokens reserved for the answer if PROMPT_KWARGS has no max_tokens; at most a quarter of the context window
DEFAULT_ANSWER_TOKENS = 1_024

# the events of llm that carry text
PIECES: Mapping[str, Callable[[str], str]] = {"text": str, "reasoning": Reasoning}

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
        self._dialect = Dialect()  # what the server has been found to take
        known = chat_limits(name_for_limits(model))
        self._tokenizer = (known and known.tokenizer) or ESTIMATE
        limit = token_limit or (known and known.token_limit)
        if not limit:
            raise SettingsError(
                f"TOKEN_LIMIT of chat backend {name!r} is missing, and the limit of {self.model_id!r} is not known: "
                "set it to the model's context window in tokens"
            )
        self.token_limit = limit
        self.prompt_tokens = self._prompt_tokens(limit, options)

    @property
    def count_tokens(self) -> Callable[[str], int]:
        """The function that counts tokens: exactly, or by an upper bound if the tokenizer is not known."""
        return counter(self._tokenizer)  # at the first answer: o200k_base takes 36 MB

    def reply(self, messages: Messages, on_token: Callable[[str], None] | None = None) -> Reply:
        """Answer messages {"role", "content"}, the last of them the user's. Calls `on_token` with each piece.

        An exception of `on_token` ends the request. Raises TooLarge, Refused, ProviderUnavailable or SettingsError, as
        `failures.classify` decides. Raises ProviderUnavailable also for a stream that breaks off, and a silence of
        TIMEOUT_SECONDS. An answer that max_tokens cuts off is returned, with a warning in the log.
        """
        pieces: list[str] = []
        sent: list[Response] = []
        finish_imports(self._model)
        with closing(iterate_with_timeout(self._timeout_seconds, self._pieces(messages, sent))) as arriving:
            try:
                for piece in arriving:
                    pieces.append(piece)
                    if on_token:
                        on_token(piece)
            except TimeoutError as error:
                # with a finish reason, the answer is whole, and only its usage is missing
                if not (sent and _finish_reason(self._model, sent[-1])):
                    raise ProviderUnavailable(
                        f"{self.model_id}: {error}; retry later, and raise TIMEOUT_SECONDS if the model thinks for "
                        "longer"
                    ) from None
        reply = self._reply(sent[-1], pieces, [message["content"] for message in messages])
        if reply.finish_reason == "length":
            logger.warning(
                "answer_cut_off",
                extra=log_fields(model=self.model_id, fix="raise max_tokens in PROMPT_KWARGS"),
            )
        return reply

    def _reply(self, response: Response, pieces: Sequence[str], texts: Sequence[str]) -> Reply:
        reason = _finish_reason(self._model, response)
        if reason is None:
            raise ProviderUnavailable(f"{self.model_id}: the stream of the answer broke off; retry later")
        input_tokens, output_tokens = _usage(self._model, response)
        return Reply(
            text="".join(piece for piece in pieces if not isinstance(piece, Reasoning)),
            reasoning="".join(piece for piece in pieces if isinstance(piece, Reasoning)),
            finish_reason=finish_reasons.finish_reason(reason),
            input_tokens=input_tokens or sum(map(self.count_tokens, texts)),
            output_tokens=output_tokens or self.count_tokens("".join(pieces)),
        )

    def _prompt(self, messages: Messages, dialect: Dialect) -> Response:
        """Make a turn as `llm chat` does. The request is sent when the response is read.

        Plugins read the conversation from different places, so all of it is in each of them. llm-anthropic and
        llm-mistral read `prompt.messages`. llm-gemini 0.35 does too, but takes the system message from
        `prompt.system`. llm-cohere, and most plugins older than `messages`, read `prompt.prompt`, `prompt.system` and
        `conversation.responses`.
        """
        system = "\n\n".join(
            [*self._options.system_fragments, *(m["content"] for m in messages if m["role"] == "system")]
        )
        *history, asked = _in_turns(messages, system if not dialect.system else "")
        system = system if dialect.system else ""
        question = "\n".join([*self._options.fragments, asked["content"]])
        model, stream = speaking(self._model, dialect), self._streams and dialect.stream
        if not _takes_roles(model, history):
            return model.prompt(
                _as_one_text(system, history, question), stream=stream, **self._options.others
            )
        conversation = model.conversation()
        conversation.responses.extend(_turns(model, history))
        roles = {"user": llm.user, "assistant": llm.assistant}
        return conversation.prompt(
            question,
            # one at most: llm sends only the last of several to the Responses API
            system=system,
            messages=[
                *([llm.system(system)] if system else []),
                *(roles[message["role"]](message["content"]) for message in history),
            ],
            stream=stream,
            **self._options.others,
        )

    def _pieces(self, messages: Messages, sent: list[Response]) -> Generator[str, None, None]:
        """Yield the pieces of an answer, and append to `sent` each request; the last one is answered.

        A server that refuses a part of the request which is not needed gets it without, now and in the next requests.
        """
        dialect: Dialect | None = self._dialect
        while dialect:
            spoken, begun = dialect, False
            sent.append(self._prompt(messages, dialect))
            failure: VectorIndexError | None = None
            try:
                for event in sent[-1].stream_events():  # type: ignore[no-untyped-call]
                    if event.chunk and event.type in PIECES:
                        begun = True
                        yield PIECES[event.type](event.chunk)
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything, and classify decides
                failure = self._classified(error, messages)
                refusal = failures.refusal(error)
                dialect = None if begun else spoken.after(refusal)
            # raised outside the handler, since the traceback of the plugin's exception may hold the request
            if failure and not dialect:
                raise self._about_settings(failure, refusal)
            if not failure:
                self._dialect = spoken
                return

    def _classified(self, error: Exception, messages: Messages) -> VectorIndexError:
        texts = [message["content"] for message in messages]
        hidden = secrets(self._model, self._init_kwargs)
        return failures.classify(error, model_id=self.model_id, texts=texts, secrets=hidden)

    def _about_settings(self, failure: VectorIndexError, refusal: str) -> VectorIndexError:
        """The failure, or a SettingsError if the server refuses an option of PROMPT_KWARGS."""
        if not isinstance(failure, Refused):
            return failure
        told = str(failure).partition(": the provider refuses")[0]
        owner = f"PROMPT_KWARGS of chat backend {self.name!r}"
        given = {*self._options.others, *self._options.others.get("options", {})}
        if option := named(refusal, given):
            return SettingsError(
                f"{told}: the server refuses {option!r} in {owner}; remove it, or change its value"
            )
        if isinstance(self._model, Responses) and named(
            refusal, {"store", "reasoning", "instructions", "include"}
        ):
            return SettingsError(
                f"{told}: the server lacks a part of the Responses API; set chat_completions in {owner}"
            )
        return failure

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


def _in_turns(messages: Messages, first: str) -> Sequence[Mapping[str, str]]:
    """The messages without those of the system; with `first`, as the start of the first one.

    Where a server takes no system message, it may want the roles in turns.
    """
    turns = [dict(message) for message in messages if message["role"] != "system"]
    if not first:
        return turns
    joined: list[dict[str, str]] = [{"role": "user", "content": first}]
    for turn in turns:
        if turn["role"] == joined[-1]["role"]:
            joined[-1]["content"] += f"\n\n{turn['content']}"
        else:
            joined.append(turn)
    return joined


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
    if isinstance(model, Chat):
        usage = (response.response_json or {}).get("usage") or {}
        return _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    return response.input_tokens, response.output_tokens


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _finish_reason(model: Model, response: Response) -> str | None:
    """The finish reason as the provider says it; "" if a plugin does not report one.

    `None`: the stream broke off, which llm 0.36 takes for a whole answer. The OpenAI classes always report a reason.
    """
    reason = finish_reasons.told(response.response_json or {})
    return reason or (None if isinstance(model, OPENAI_CLASSES) else "")
