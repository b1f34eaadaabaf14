"""The arguments of a chat, checked when they are made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker.documents import clean
from worker.errors import InvalidQuery, described
from worker.search.queries import SearchQuery

ROLES = ("user", "assistant")


@dataclass(frozen=True, kw_only=True)
class ChatQuestion:
    """The arguments of a chat. Raises InvalidQuery, which names the argument and the fix."""

    text: str
    history: Sequence[Mapping[str, str]] | None = None  # {"role", "content"}, oldest first
    limit: int = 5  # passages
    filter: Mapping[str, Any] | None = None
    similarity_threshold: float = 0.0  # 0: off
    retrieve: bool = True  # False: the model answers without passages
    query: SearchQuery = field(init=False)  # finds the passages

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise InvalidQuery("question must be a string with at least one word")
        if not isinstance(self.retrieve, bool):
            raise InvalidQuery(f"retrieve must be true or false, not {described(self.retrieve)}")
        text = clean(self.text)
        query = SearchQuery(
            text=text,
            limit=self.limit,
            filter=self.filter,
            similarity_threshold=self.similarity_threshold,
        )
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "history", _checked_history(self.history))
        object.__setattr__(self, "query", query)


def _checked_history(history: object) -> Sequence[Mapping[str, str]]:
    if history is None:
        return []
    if not isinstance(history, Sequence) or isinstance(history, str):
        raise InvalidQuery(f'history must be a list of {{"role", "content"}}, not {type(history).__name__}')
    for at, message in enumerate(history):
        if not isinstance(message, Mapping) or message.keys() != {"role", "content"}:
            raise InvalidQuery(f'history[{at}] must be an object with "role" and "content" and no other key')
        if message["role"] not in ROLES:
            raise InvalidQuery(
                f"history[{at}] has the role {message['role']!r:.40}: use {' or '.join(ROLES)}"
            )
        if not isinstance(message["content"], str):
            raise InvalidQuery(
                f"history[{at}] has a content of type {type(message['content']).__name__}: use a string"
            )
    return [{"role": message["role"], "content": clean(message["content"])} for message in history]
