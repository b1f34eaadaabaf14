"""Judge a reply: which passages it cites, and whether it answers. Pure functions."""

from collections.abc import Sequence

from worker.chat import prompting
from worker.chat.citations import cited
from worker.chat.declining import declines, unmarked
from worker.passages import Passage, bounded_result
from worker.protocols import Reply
from worker.results import Answer

STOPPED = ("content_filter", "refusal")  # finish reasons of a text that is no whole answer

NOTHING_FOUND = f"This question {prompting.NO_ANSWER}."


def judged(reply: Reply, sources: Sequence[Passage], model_id: str) -> Answer:
    """Return the result of a reply to a prompt with these passages."""
    numbers = cited(reply.text, len(sources))
    rows = enumerate(bounded_result(sources), start=1)
    return {
        "answer": unmarked(reply.text),
        "answered": reply.finish_reason not in STOPPED and not declines(reply.text, cites=bool(numbers)),
        "finish_reason": reply.finish_reason,
        "reasoning": reply.reasoning,
        "sources": [{**row, "cited": number in numbers} for number, row in rows],
        "model": model_id,
        "usage": {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens},
    }


def without_passages(empty: str | None, model_id: str) -> Answer:
    """Return the result of a question without passages. `empty`: the sentence about an index that holds none."""
    return {
        "answer": empty or NOTHING_FOUND,
        "answered": False,
        "finish_reason": None,
        "reasoning": "",
        "sources": [],
        "model": model_id,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
