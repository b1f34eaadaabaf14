"""Keep the reasoning of a model apart from its answer, in a text and in the pieces of a stream.

Models write their thoughts between tags. DeepSeek R1, Qwen and others write <think>, Magistral writes [THINK], Cohere,
Kimi and gpt-oss use marks of their own. A chat template may open the tag in the prompt, so that only </think> arrives.
A tag in code is text: an answer may be about these tags.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

# answer: text for the reader; reasoning: text beside it; again: what came so far was the other of both, and comes again
Kind = Literal["answer", "reasoning", "again"]
Piece = tuple[Kind, str]

NAMES = (
    *("think", "thinking", "thought", "thoughts", "reasoning", "reflection", "seed:think"),
    *("antthinking", "scratchpad"),
)
# each opening mark, as a pattern, with the pattern of its closing mark
MARKS = {
    rf"<({'|'.join(NAMES)})(?:\s[^<>]*)?>": rf"</(?:{'|'.join(NAMES)})\s*>",
    r"\[THINK\]": r"\[/THINK\]",
    r"◁think▷": r"◁/think▷",
    r"<\|START_THINKING\|>": r"<\|END_THINKING\|>",
    r"<\|begin_of_thought\|>": r"<\|end_of_thought\|>",
    r"<\|thinking\|>": r"<\|/thinking\|>",
    r"<\|channel\|>(?:analysis|commentary)<\|message\|>": (
        r"(?:<\|end\|>)?(?:<\|start\|>assistant)?<\|channel\|>final<\|message\|>"
    ),
}
# the beginnings of marks: a piece of a stream may end within one
BEGINNINGS = (
    *(f"<{slash}{name}" for name in NAMES for slash in ("", "/")),
    *(
        "[think]",
        "[/think]",
        "◁think▷",
        "◁/think▷",
        "<|start_thinking|>",
        "<|end_thinking|>",
        "<|channel|>analysis",
    ),
    *("<|begin_of_thought|>", "<|end_of_thought|>", "<|thinking|>", "<|/thinking|>"),
    *("<|channel|>commentary", "<|channel|>final<|message|>", "<|end|>", "<|start|>assistant"),
)
FIRST_CHARACTERS = "<[◁"
MAX_MARK_CHARACTERS = 100  # a longer one is text

_PAIRS = [(re.compile(opening, re.I), re.compile(closing, re.I)) for opening, closing in MARKS.items()]
_CLOSING = re.compile("|".join(MARKS.values()), re.I)
_MARK = re.compile("|".join([*MARKS, *MARKS.values()]), re.I)
_FENCE = re.compile(r"[\s>*+-]*(```+|~~~+)")
_BACKTICKS = re.compile(r"`+")


@dataclass(kw_only=True)
class Separator:
    """Takes the pieces of a model's text, and returns them as answer and as reasoning.

    `opened`: the text begins within reasoning, as the prompt has opened the tag. If no closing tag comes, it was the
    answer after all.
    """

    opened: bool = False
    answer: str = ""
    reasoning: str = ""
    closed_unopened: bool = False  # a closing tag came without an opening one: further answers begin opened
    _left: str = ""  # the end of the text, which may be the beginning of a mark
    _held: str = ""  # the opening mark in the middle of a line: reasoning only if it is closed
    _line: str = ""  # the current line of the answer
    _fence: str = ""  # the mark of the block of code around it
    _literal: bool = False  # whether the answer has an opening mark as text
    _trimming: bool = True  # blanks before the answer belong to it no more than those after reasoning

    def __post_init__(self) -> None:
        self._until = _CLOSING if self.opened else None  # the closing mark, within reasoning

    def feed(self, text: str, *, final: bool = False) -> Iterator[Piece]:
        """Yield what the text adds; with `final`, also what was held back."""
        self._left += text
        length = -1
        while length != len(self._left):
            length = len(self._left)
            yield from (
                self._within_reasoning(self._until, final) if self._until else self._within_answer(final)
            )
        if final and self._until is _CLOSING and self.reasoning.strip():
            text, self.reasoning, self._until = self.reasoning, "", None
            yield "again", ""
            yield from self._say(text)

    def _within_reasoning(self, until: re.Pattern[str], final: bool) -> Iterator[Piece]:
        opening = _MARK.match(self._left.lstrip())
        if until is _CLOSING and not self.reasoning and opening and (closing := _closing_of(opening[0])):
            self._left = self._left.lstrip()[opening.end() :]  # the tag comes in spite of the prompt
            self._until = closing
        elif found := until.search(self._left):
            text, self._left = self._left[: found.start()], self._left[found.end() :]
            self._until, self._held, self._trimming = None, "", True
            yield from self._think(text)
        elif not self._held:
            yield from self._think(self._cut(final))
        elif final:
            text, self._left = self._held + self._left, ""
            self._until = None
            yield from self._say(text)

    def _within_answer(self, final: bool) -> Iterator[Piece]:
        found = _MARK.search(self._left)
        if not found:
            yield from self._say(self._cut(final))
            return
        mark, text, self._left = found[0], self._left[: found.start()], self._left[found.end() :]
        yield from self._say(text)
        closing = _closing_of(mark)
        if self._is_code() or (not closing and self._literal):
            self._literal = self._literal or closing is not None
            yield from self._say(mark)
        elif closing:
            self._until, self._held = closing, mark if self._line.strip() else ""
        elif text := self.answer:
            self.answer, self._line, self._fence = "", "", ""
            self._trimming, self.closed_unopened = True, True
            self.reasoning += text
            yield "again", ""
            yield "reasoning", self.reasoning

    def _say(self, text: str) -> Iterator[Piece]:
        text = text.lstrip() if self._trimming else text
        if not text:
            return
        self._trimming = False
        self.answer += text
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            fence = _FENCE.match(line)
            if fence and (not self._fence or fence[1].startswith(self._fence)):
                self._fence = "" if self._fence else fence[1]
        yield "answer", text

    def _think(self, text: str) -> Iterator[Piece]:
        text = text if self.reasoning else text.lstrip()
        if text:
            self.reasoning += text
            yield "reasoning", text

    def _is_code(self) -> bool:
        """Whether the end of the answer is in a block of code, an indented line, or between backticks."""
        indented = not self._line.strip() and self._line.startswith(("    ", "\t"))
        return bool(self._fence) or indented or len(_BACKTICKS.findall(self._line)) % 2 == 1

    def _cut(self, final: bool) -> str:
        """Take the text up to a mark that may begin at its end."""
        end = len(self._left)
        tail = range(max(0, end - MAX_MARK_CHARACTERS), end)
        starts = (at for at in tail if self._left[at] in FIRST_CHARACTERS and _may_begin(self._left[at:]))
        at = end if final else next(starts, end)
        text, self._left = self._left[:at], self._left[at:]
        return text


def separate(text: str, *, opened: bool = False) -> Separator:
    """Separate a whole text."""
    separator = Separator(opened=opened)
    for _ in separator.feed(text, final=True):
        pass
    return separator


def _closing_of(mark: str) -> re.Pattern[str] | None:
    """The closing mark of an opening one."""
    return next((closing for opening, closing in _PAIRS if opening.fullmatch(mark)), None)


def _may_begin(text: str) -> bool:
    text = text.lower()
    return any(beginning.startswith(text) or text.startswith(beginning) for beginning in BEGINNINGS)
