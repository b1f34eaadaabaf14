"""One entry of CHAT_BACKENDS: answers from any chat model of `llm`."""

import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

import llm
from llm.default_plugins.openai_models import Completion
from llm.models import Model, Prompt, Response

from worker.backends.failures import classify
from worker.backends.limits import chat_limits
from worker.backends.llm.deadline import each_within
from worker.backends.llm.lookup import chat_model, known_name, secrets
from worker.backends.llm.openai_client import OPENAI_CLASSES, with_lasting_client
from worker.backends.llm.options import PromptOptions, prompt_options
from worker.errors import ProviderUnavailable, SettingsError, VectorIndexError
from worker.observability.logs import log_fields
from worker.protocols import Reply
from worker.tokens import ESTIMATE, counter

# tokens kept for the answer where PROMPT_KWARGS has no max_tokens; a quarter of a small window
DEFAULT_ANSWER_TOKENS = 1_024
# how models say that the bound of an answer cut it off
TRUNCATED = ("length", "incomplete")

logger = logging.getLogger("vector_index.chat")

Messages = Sequence[Mapping[str, str]]


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
        self._init_kwargs = init_kwargs or {}
        found = chat_model(name, model_id, self._init_kwargs)
        model, options = prompt_options(name, found, prompt_kwargs or {})
        self._model = with_lasting_client(model, timeout_seconds)
        self._options = options
        self.model_id = self._model.model_id
        self.system = options.system
        # llm 0.36 does not read how a streamed completion ended
        self._streams = options.stream and bool(model.can_stream) and not isinstance(model, Completion)
        self._timeout_seconds = timeout_seconds
        known = chat_limits(known_name(model))
        self.count_tokens = counter((known and known.tokenizer) or ESTIMATE)
        limit = token_limit or (known and known.token_limit)
        if not limit:
            raise SettingsError(
                f"TOKEN_LIMIT of chat backend {name!r} is missing, and {self.model_id!r} is no model whose limit is "
                "known: set it to the tokens of the model's context window"
            )
        self.token_limit = limit
        self.prompt_tokens = self._prompt_tokens(limit, options)

    def reply(self, messages: Messages, say: Callable[[str], None] | None = None) -> Reply:
        """The answer to messages {"role", "content"}, the last of them the user's; `say` takes each piece as it comes.

        What `say` raises ends the request. Raises TooLarge, Refused, ProviderUnavailable or SettingsError, as
        `failures.classify` decides. An answer that is empty, or whose stream breaks off, is ProviderUnavailable, and
        so is a silence of TIMEOUT_SECONDS. One that max_tokens cuts off is an answer, and logged as cut.
        """
        texts = [message["content"] for message in messages]
        response = self._asked(messages)
        pieces: list[str] = []
        with closing(each_within(self._timeout_seconds, self._pieces(response, texts))) as coming:
            try:
                for piece in coming:
                    pieces.append(piece)
                    if say:
                        say(piece)
            except TimeoutError as error:
                raise ProviderUnavailable(
                    f"{self.model_id}: {error}; to be tried again later, with a higher TIMEOUT_SECONDS where the model "
                    "thinks for longer"
                ) from None
        text = "".join(pieces)
        ending = _ending(self._model, response)
        if self._streams and ending is None:
            raise ProviderUnavailable(
                f"{self.model_id}: the stream of the answer broke off; to be tried again later"
            )
        if not text.strip():
            raise ProviderUnavailable(
                f"{self.model_id} returned an empty answer; to be tried again later, with a higher max_tokens where a "
                "model reasons before it answers"
            )
        if ending in TRUNCATED:
            logger.warning(
                "answer_cut_off",
                extra=log_fields(model=self.model_id, mend="raise max_tokens in PROMPT_KWARGS"),
            )
        input_tokens, output_tokens = _usage(self._model, response)
        return Reply(
            text=text,
            input_tokens=input_tokens or sum(map(self.count_tokens, texts)),
            output_tokens=output_tokens or self.count_tokens(text),
        )

    def _asked(self, messages: Messages) -> Response:
        """A turn as `llm chat` makes it; nothing is sent before it is read.

        Plugins look in different places for what is said, so all of it stands in all of them. llm-anthropic and
        llm-mistral read `prompt.messages`; llm-gemini 0.35 does, but for the system message, which it takes from
        `prompt.system`; llm-cohere and most that are older than `messages` read `prompt.prompt`, `prompt.system`
        and `conversation.responses`.
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
            # one at most: of several, the Responses API is sent the last
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
        except Exception as error:  # noqa: BLE001 - a plugin may raise anything; classify names what it means
            hidden = secrets(self._model, self._init_kwargs)
            failure = classify(error, model_id=self.model_id, texts=texts, secrets=hidden)
        # raised here, outside of the handler: the plugin's exception may hold the request in its traceback
        if failure:
            raise failure

    def _prompt_tokens(self, limit: int, options: PromptOptions) -> int:
        answer_tokens = options.max_tokens or min(DEFAULT_ANSWER_TOKENS, limit // 4)
        fragments = [*options.fragments, *options.system_fragments]
        # two for what parts a fragment from the next
        left = limit - answer_tokens - sum(self.count_tokens(fragment) + 2 for fragment in fragments)
        if left <= 0:
            raise SettingsError(
                f"PROMPT_KWARGS of chat backend {self.name!r} keep {answer_tokens:,} tokens for an answer, and "
                f"TOKEN_LIMIT is {limit:,}: lower max_tokens or shorten fragments, so that a prompt fits beside them"
            )
        return left


def _takes_roles(model: Model, history: Messages) -> bool:
    """Whether a model tells the system, the user and its own earlier answers apart."""
    return (
        not isinstance(model, Completion)
        and getattr(model, "allows_system_prompt", True)
        and (not history or model.supports_conversation)
    )


def _as_one_text(system: str, history: Messages, question: str) -> str:
    """A transcript that ends where the model goes on. Its marks are no longer than those of a chat format."""
    turns = [f"{message['role'].capitalize()}: {message['content']}" for message in history]
    return "\n\n".join([*([system] if system else []), *turns, f"User: {question}", "Assistant:"])


def _turns(model: Model, history: Messages) -> list[Response]:
    """The answered turns of a history, as `llm` remembers them."""
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
    """Tokens of the prompt and of the answer, as the provider counts; None or 0 where it does not say."""
    if isinstance(model, Completion):  # llm 0.36 does not hand it on
        told = (response.response_json or {}).get("usage") or {}
        return told.get("prompt_tokens"), told.get("completion_tokens")
    usage = response.usage()
    return usage.input, usage.output


def _ending(model: Model, response: Response) -> str | None:
    """How the model says that its answer ended: "stop", "length", "completed", …; "" where its plugin does not tell.

    None: llm 0.36 takes a stream that was cut off for a whole answer; finish_reason (Chat) or all (Responses) is
    missing. Only the OpenAI classes tell.
    """
    if not isinstance(model, OPENAI_CLASSES):
        return ""
    said = response.response_json or {}
    (choice,) = (said.get("choices") or [{}])[:1]
    ending: str | None = said.get("finish_reason") or said.get("status") or choice.get("finish_reason")
    return ending
