"""What `eval --answers` counts: answers from the right document, and questions that were declined."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from worker.cli.judging import JudgedQuestion
from worker.cli.output import counted


@dataclass(kw_only=True)
class AnswerScores:
    """The answers of a chat backend to judged questions."""

    # with an answer in the index: answered from a document that has it, from others alone, and not answered
    right: int = 0
    elsewhere: int = 0
    missed: int = 0
    # without an answer in the index
    declined: int = 0
    wrong: int = 0
    ungrounded: int = 0  # answers without a citation
    reasons: Counter[str] = field(default_factory=Counter)  # of all questions that were not answered
    groundedness: list[float] = field(default_factory=list)
    wrongly_answered: list[str] = field(default_factory=list)  # texts of questions

    def add(self, question: JudgedQuestion, result: Mapping[str, Any]) -> None:
        """Count the result of tasks.chat. Without citations, each source counts as cited."""
        if result["reason"] is not None:
            self.reasons[result["reason"]] += 1
        else:
            self.ungrounded += result["grounded"] is False
            self.groundedness += [result["groundedness"]] if result["groundedness"] is not None else []
        if question.grades:
            cited = {
                row["document_id"] for row in result["sources"] if row["cited"] or result["grounded"] is None
            }
            is_right = result["answered"] and bool(cited & question.grades.keys())
            self.right += is_right
            self.elsewhere += result["answered"] and not is_right
            self.missed += not result["answered"]
        else:
            self.declined += not result["answered"]
            self.wrong += result["answered"]
            self.wrongly_answered += [question.text] if result["answered"] else []

    def as_json(self) -> dict[str, Any]:
        return {
            "answerable": {"right": self.right, "elsewhere": self.elsewhere, "declined": self.missed},
            "unanswerable": {"declined": self.declined, "answered": self.wrong},
            "reasons": dict(self.reasons),
            "ungrounded": self.ungrounded,
            "groundedness": round(fmean(self.groundedness), 3) if self.groundedness else None,
            "wrongly_answered": self.wrongly_answered,
        }

    def lines(self) -> Iterator[str]:
        """Yield the figures as sentences."""
        answerable = self.right + self.elsewhere + self.missed
        unanswerable = self.declined + self.wrong
        yield (
            f"answers to {counted(answerable, 'question')} with an answer: {self.right:,} cite a right document, "
            f"{self.elsewhere:,} only others, {self.missed:,} not answered"
        )
        yield (
            f"answers to {counted(unanswerable, 'question')} without: {self.declined:,} declined, {self.wrong:,} "
            "answered wrongly"
        )
        if self.reasons:
            reasons = (f"{count:,} {reason}" for reason, count in self.reasons.most_common())
            yield f"reasons of those not answered: {', '.join(reasons)}"
        if self.groundedness:
            yield f"mean groundedness {fmean(self.groundedness):.3f}, {self.ungrounded:,} without a citation"
