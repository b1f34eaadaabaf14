"""The prompts that reach the provider never exceed TOKEN_LIMIT minus the tokens reserved for the answer."""

import random

import pytest

from tests.provider import Provider, prompt_tokens
from worker.backends.llm import LLMChatBackend
from worker.chat import prompting
from worker.chat.prompting import Window
from worker.passages import Passage

WORDS = [
    "owl",
    "night",
    "夜",
    "сова",
    "🦉\u200d🌙",
    "<passage>",
    "[3]",
    "<|endoftext|>",
    "hunts.\n\n",
    "http://a.b/c?d=e",
    "3.14159",
    "```code```",
]
ANSWER_TOKENS = 200
QUESTIONS = 200


@pytest.mark.slow
def test_a_prompt_with_long_history_and_large_passages_stays_within_the_limit(provider: Provider) -> None:
    """gpt-4 and the provider count in cl100k, so prompts are counted exactly and come close to the limit."""
    chance = random.Random(3)
    sizes = []
    # each takes 30 ms to make, since its client reads certificates
    backends = {limit: _backend(provider, limit) for limit in (600, 601, 800, 1_500, 2_801, 4_000)}
    shelf = [_passage(_text(chance, 500), _text(chance, 5)) for _ in range(200)]
    turns = [_text(chance, 200) for _ in range(200)]
    for number in range(QUESTIONS):
        limit = [*backends][number % len(backends)]
        said = chance.sample(turns, chance.randint(10, 40))
        history = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(said)]
        prompt = prompting.compose(
            _text(chance, 20),
            chance.sample(shelf, 20),
            history=history,
            window=Window(max_tokens=backends[limit].prompt_tokens, count=backends[limit].count_tokens),
        )
        backends[limit].reply(prompt.messages)
        sizes.append(prompt_tokens(provider.prompts[-1]) / (limit - ANSWER_TOKENS))
    assert len(provider.prompts) == QUESTIONS
    assert max(sizes) <= 1
    assert sum(sizes) / len(sizes) > 0.95
    print(
        f"{QUESTIONS} prompts: {min(sizes):.3f} to {max(sizes):.3f} of the room, mean {sum(sizes) / len(sizes):.3f}"
    )


def _backend(provider: Provider, limit: int) -> LLMChatBackend:
    return LLMChatBackend(
        name="default",
        model_id="gpt-4",
        init_kwargs={"key": "none", "api_base": provider.url},
        prompt_kwargs={"max_tokens": ANSWER_TOKENS},
        token_limit=limit,
    )


def _text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(max(1, words // 2), words)))


def _passage(text: str, title: str) -> Passage:
    span = {"start": 0, "end": len(text), "chunks": (0, 0)}
    return Passage(document_id="a", title=title, metadata={}, text=text, score=0.5, similarity=0.5, **span)
