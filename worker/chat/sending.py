"""Send messages to a chat model within its rate limits."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker.backends.budgets import Budget
from worker.chat import replies
from worker.chat.prompting import Messages, Window
from worker.chat.replies import Listener
from worker.observability import events
from worker.observability.metrics import Purpose
from worker.protocols import ChatBackend, Reply


@dataclass(frozen=True, kw_only=True)
class ChatModel:
    """An entry of CHAT_BACKENDS, ready to answer."""

    backend: ChatBackend
    budget: Budget  # the rate limits of the backend
    rewrites: bool = False  # FOLLOW_UP: whether the model rewrites a question that follows others
    schema: Mapping[str, Any] | None = None  # JSON Schema of its answers, from PROMPT_KWARGS
    fallback: "ChatModel | None" = None  # answers while the provider of this one is away

    @property
    def window(self) -> Window:
        """The room for a prompt."""
        return Window(max_tokens=self.backend.prompt_tokens, count=self.backend.count_tokens)


def send(
    model: ChatModel, messages: Messages, listener: Listener | None = None, *, purpose: Purpose = "answer"
) -> Reply:
    """Send one request within the budget, and return to it the tokens that the answer left unused.

    Raises the errors of the backend and of `Budget.reserve`, and Refused or SettingsError for a reply without an
    answer.
    """
    backend, budget = model.backend, model.budget
    answer_tokens = backend.token_limit - backend.prompt_tokens
    tokens = answer_tokens + sum(backend.count_tokens(message["content"]) for message in messages)
    with budget.reserve(tokens), events.ProviderRequest(budget.name, purpose) as request:
        sent = time.monotonic()
        reply = backend.reply(messages, listener)
        request.tokens, request.answer_tokens = reply.input_tokens, reply.output_tokens
    used = reply.input_tokens + reply.output_tokens
    budget.refund(tokens=tokens - used, held_seconds=time.monotonic() - sent)
    if listener:
        listener.finish()
    return replies.read(reply, backend.model_id)
