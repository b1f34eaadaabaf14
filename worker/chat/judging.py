"""Judge a reply: which passages it cites, whether it answers, and how far its passages hold it. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker.chat.citations import cited, without_unsent
from worker.chat.declining import declines, unmarked
from worker.chat.groundedness import groundedness
from worker.chat.instructions import ANSWERED_FIELD, NO_ANSWER, Instructions
from worker.chat.schemas import read_data, strings
from worker.chat_results import Answer, Reason
from worker.passages import Passage, bounded_result
from worker.protocols import Reply

STOPPED = ("content_filter", "refusal")  # finish reasons of a text that is no whole answer

NOTHING_FOUND = f"This question {NO_ANSWER}."


@dataclass(frozen=True, kw_only=True)
class Sent:
    """What the model was given."""

    sources: Sequence[Passage]
    texts: Sequence[str]  # of the passages, as they were sent
    instructions: Instructions


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """What a reply says."""

    answer: str
    prose: str  # what people read of it
    cited: set[int]  # numbers of passages
    declines: bool
    removed: int = 0  # numbers of passages that were not sent
    data: Any = None
    is_invalid: bool = False  # no JSON of the schema


def judged(reply: Reply, sent: Sent, model_id: str) -> Answer:
    """Return the result of a reply."""
    read = _read_data(reply, sent) if sent.instructions.schema else _read_text(reply, sent)
    reason = _reason(reply, read)
    numbered = sent.instructions.numbered
    rows = enumerate(bounded_result(sent.sources), start=1)
    held = [text for at, text in enumerate(sent.texts, start=1) if at in read.cited or not numbered]
    result: Answer = {
        "answer": read.answer,
        "answered": reason is None,
        "reason": reason,
        "finish_reason": reply.finish_reason,
        "reasoning": reply.reasoning,
        "sources": [{**row, "cited": number in read.cited} for number, row in rows],
        "grounded": bool(read.cited) if numbered else None,
        "groundedness": groundedness(read.prose, held) if reason is None else None,
        "removed_citations": read.removed,
        "searched": None,
        "model": model_id,
        "usage": {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens},
    }
    if sent.instructions.schema:
        result["data"] = read.data
    return result


def judged_plain(reply: Reply, schema: Mapping[str, Any] | None, model_id: str) -> Answer:
    """Return the result of a reply to a question that was asked without passages."""
    result = without_passages(reply.text, model_id)
    reason: Reason | None = "declined" if declines(unmarked(reply.text), cites=False) else None
    if reply.finish_reason in STOPPED:
        reason = "stopped"
    if schema:
        try:
            result["data"] = read_data(reply.text, schema)
        except ValueError:
            result["data"], reason = None, reason or "invalid_data"
    result["answered"], result["reason"] = reason is None, reason
    result["finish_reason"], result["reasoning"] = reply.finish_reason, reply.reasoning
    result["usage"] = {"input_tokens": reply.input_tokens, "output_tokens": reply.output_tokens}
    return result


def without_passages(empty: str | None, model_id: str) -> Answer:
    """Return the result of a question without passages. `empty`: the sentence about an index that holds none."""
    return {
        "answer": empty or NOTHING_FOUND,
        "answered": False,
        "reason": "empty_index" if empty else "nothing_found",
        "finish_reason": None,
        "reasoning": "",
        "sources": [],
        "grounded": None,
        "groundedness": None,
        "removed_citations": 0,
        "searched": None,
        "model": model_id,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


def _reason(reply: Reply, read: _Reading) -> Reason | None:
    if reply.finish_reason in STOPPED:
        return "stopped"
    if read.is_invalid:
        return "invalid_data"
    return "declined" if read.declines else None


def _read_text(reply: Reply, sent: Sent) -> _Reading:
    numbers = cited(reply.text, len(sent.sources))
    shown = len(sent.sources) if sent.instructions.citations else 0
    answer, removed = without_unsent(unmarked(reply.text), shown)
    if removed or not shown:
        answer = answer.strip()
    return _Reading(
        answer=answer,
        prose=answer,
        cited=numbers,
        declines=declines(reply.text, cites=bool(numbers)),
        removed=removed if shown else 0,
    )


def _read_data(reply: Reply, sent: Sent) -> _Reading:
    instructions = sent.instructions
    assert instructions.schema is not None
    try:
        data = read_data(reply.text, instructions.schema)
    except ValueError:
        return _Reading(answer=reply.text, prose="", cited=set(), declines=False, is_invalid=True)
    field = instructions.citing_field if instructions.numbered else None
    given = data.get(field) or [] if field else []
    numbers = {int(number) for number in given}
    sources = set(range(1, len(sent.sources) + 1))
    if field and numbers - sources:
        data = {**data, field: [number for number in given if number in sources]}
    prose = "\n".join(strings(data))
    says_so = instructions.answered_field and ANSWERED_FIELD in data
    return _Reading(
        answer=reply.text,
        prose=prose,
        cited=numbers & sources,
        declines=not data[ANSWERED_FIELD] if says_so else declines(prose, cites=bool(numbers & sources)),
        removed=len(numbers - sources),
        data=data,
    )
