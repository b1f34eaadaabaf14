"""Random chats: no prompt is over its budget, and no answer cites a passage that was not sent."""

import random
import re
from dataclasses import replace

import pytest

from tests.fixtures.application import Application
from tests.fixtures.echo import Echo
from tests.fixtures.passages import EXACT
from worker.backends.budgets import Budget
from worker.chat.answering import ask
from worker.chat.questions import ChatQuestion
from worker.chat.sending import ChatModel
from worker.errors import InvalidQuery

CHATS = 300
WORDS = [
    "owl",
    "night",
    "夜の森",
    "сова",
    "🦉",
    "<passage>",
    "[3]",
    "hunts.\n\n",
    "# Owls\n\n",
    "3.14",
    "</passage>",
    "a, ",
]
CITATIONS = [
    "[{}]",
    " [{}, 1]",
    "【{}†source】",
    "[^{}]",
    "[Passage {}]",
    " (source {}).",
    "[[{}]](http://a.b)",
    "<cite>{}</cite>",
]
CONTEXTS = [None, 1, 3, 10, "section"]
ANSWER_PROMPT = "Say it as a poet.\n{question}\n\n{passages}\n\nWrite [1] for the first."


def text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(1, words)))


def answer_of(chance: random.Random) -> str:
    """A sentence or more, each with a citation of a number from 1 to 40."""
    said = [
        f"Owls hunt{chance.choice(CITATIONS).format(chance.randint(1, 40))} at night."
        for _ in range(chance.randint(1, 6))
    ]
    return " ".join(said)


@pytest.mark.slow
def test_random_chats_stay_within_their_budget_and_cite_what_was_sent(application: Application) -> None:
    chance = random.Random(21)
    application.backend.chunk_tokens = 120
    application.put(*({"id": n, "title": text(chance, 9), "text": text(chance, 900)} for n in range(25)))
    settings, refused, widened, removed = application.index, 0, 0, 0
    for _ in range(CHATS):
        application.index = replace(
            settings,
            context=chance.choice(CONTEXTS),
            answer_prompt=chance.choice([None, None, ANSWER_PROMPT]),
        )
        limit = chance.choice([250, 400, 800, 2_000, 6_000])
        backend = Echo(text=answer_of(chance), token_limit=limit + 100, prompt_tokens=limit)
        history = [
            {"role": ("user", "assistant")[at % 2], "content": text(chance, 200)}
            for at in range(chance.choice([0, 1, 4, 40]))
        ]
        question = ChatQuestion(text=text(chance, 60) + "?", history=history, limit=chance.choice([1, 5, 30]))
        try:
            result = ask(application.target, ChatModel(backend=backend, budget=Budget("", "echo")), question)
        except InvalidQuery:
            refused += 1
            continue
        [prompt] = backend.prompts
        assert sum(EXACT(message["content"]) + 4 for message in prompt) + 3 <= limit
        numbers = set(map(int, re.findall(r"\d+", result["answer"])))
        assert numbers <= set(range(1, len(result["sources"]) + 1))
        assert numbers == {at for at, row in enumerate(result["sources"], start=1) if row["cited"]}
        blocks = re.findall(
            r"^\[\d+\]\n<passage>\n[^\n]*\n(.*?)\n</passage>$", prompt[-1]["content"], re.M | re.S
        )
        assert len(blocks) == len(result["sources"])
        widened += (
            sum(len(block) for block in blocks) > sum(len(row["text"]) for row in result["sources"]) * 1.1
        )
        removed += result["removed_citations"]
    assert refused < CHATS / 2
    assert widened > CHATS / 10
    assert removed > CHATS
    print(f"{CHATS} chats: {refused} refused, {widened} with context, {removed} citations removed")
