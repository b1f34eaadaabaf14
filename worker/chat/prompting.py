"""Compose the prompt: messages with a question and its passages that fit into the model's context window.

Strangers may have written the passages and their titles, so a prompt must withstand instructions in them. Each passage
is enclosed in <passage> and </passage>. Passages, titles and questions cannot contain these marks: their `<` becomes
`&lt;`. The title is the first line inside the marks (empty without a title), and the number is outside. So a passage
cannot close itself, give instructions from outside its marks, or claim another number. The rule about this comes
before the first passage.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from worker.chat.instructions import DEFAULT, SYSTEM, Instructions
from worker.chat.widening import rooms, widened
from worker.errors import InvalidQuery
from worker.passages import Passage
from worker.quoting import quoted

Messages = Sequence[Mapping[str, str]]  # {"role": "system" | "user" | "assistant", "content": text}

# the tokens that chat formats of OpenAI add (OpenAI cookbook, "How to count tokens"); other formats add fewer
TOKENS_PER_MESSAGE, TOKENS_PER_PROMPT = 4, 3

TITLE_CHARACTERS = (
    300  # the most of a title; it is not cut with its passage, so a long one would take all the room
)


@dataclass(frozen=True, kw_only=True)
class Window:
    """The room of a model for a prompt."""

    max_tokens: int
    count: Callable[[str], int]  # the tokens of a text

    def size(self, messages: Messages) -> int:
        """Count the tokens of messages, plus those of the chat format."""
        return sum(self.count(m["content"]) + TOKENS_PER_MESSAGE for m in messages) + TOKENS_PER_PROMPT


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A prompt that fits into the context window."""

    messages: Messages
    texts: Sequence[str]  # of the passages in it, as they are sent: the last one may be cut, others widened
    tokens: int  # of all messages, as `count` counts them, plus those of the chat format

    @property
    def passages(self) -> int:
        """The number of passages in it."""
        return len(self.texts)


def compose(
    question: str,
    passages: Sequence[Passage],
    *,
    window: Window,
    history: Messages = (),
    instructions: Instructions = DEFAULT,
) -> Prompt:
    """Compose messages that fit: system, the newest of the history, and the passages with the question.

    Drops the oldest messages first, then the last passages. The history gets half of the room, and the room that the
    passages leave. The first passage that does not fit is cut. If all fit, they are widened by their contexts, the best
    first, as far as there is room.
    Raises InvalidQuery if the question leaves no room for the start of one passage.
    """
    draft = _Draft(question=question, passages=passages, window=window, instructions=instructions)
    least = draft.prompt(draft.cut(1, 1)).tokens
    if least > window.max_tokens:
        raise InvalidQuery(
            f"the question and the instructions take {least:,} tokens, and TOKEN_LIMIT leaves {window.max_tokens:,} "
            "for a prompt: shorten the question, or raise TOKEN_LIMIT or lower max_tokens of the chat backend"
        )
    whole = draft.prompt(draft.cut(len(passages))).tokens
    room = window.max_tokens - least
    past = _newest(history, max(room // 2, window.max_tokens - whole), window.count)
    # counts of strings do not add up exactly, so count the whole prompt
    while past and draft.prompt(draft.cut(1, 1), past).tokens > window.max_tokens:
        past = past[1:]
    number = _largest(len(passages), lambda n: draft.fits(draft.cut(n), past))
    if number < len(passages):
        return draft.prompt(_with_cut_passage(draft, number, past), past)
    return draft.prompt(_widened(draft, past), past)


def compose_plain(
    question: str, *, window: Window, history: Messages = (), system: str | None = None
) -> Prompt:
    """Compose messages without passages and rules: the system message, the newest of the history, and the question.

    Raises InvalidQuery if the question does not fit.
    """
    first = [] if system is None else [{"role": "system", "content": system}]
    asked = [{"role": "user", "content": question}]
    least = window.size([*first, *asked])
    if least > window.max_tokens:
        raise InvalidQuery(
            f"the question and the system message take {least:,} tokens, and TOKEN_LIMIT leaves "
            f"{window.max_tokens:,} for a prompt: shorten the question, or raise TOKEN_LIMIT or lower max_tokens of "
            "the chat backend"
        )
    past = _newest(history, window.max_tokens - least, window.count)
    messages = [*first, *past, *asked]
    return Prompt(messages=messages, texts=(), tokens=window.size(messages))


@dataclass(frozen=True, kw_only=True)
class _Draft:
    """What every version of a prompt has in common."""

    question: str
    passages: Sequence[Passage]
    window: Window
    instructions: Instructions

    def cut(self, number: int, last_characters: int | None = None) -> list[str]:
        """The texts of the first `number` passages, the last of them cut."""
        texts = [passage.text for passage in self.passages[:number]]
        return [*texts[:-1], *(text[:last_characters] for text in texts[-1:])]

    def prompt(self, texts: Sequence[str], past: Messages = ()) -> Prompt:
        """The prompt with these texts of the first passages."""
        system = self.instructions.system
        messages = [
            {"role": "system", "content": SYSTEM if system is None else system},
            *past,
            {"role": "user", "content": self._asked(texts)},
        ]
        return Prompt(messages=messages, texts=texts, tokens=self.window.size(messages))

    def fits(self, texts: Sequence[str], past: Messages) -> bool:
        return self.prompt(texts, past).tokens <= self.window.max_tokens

    def _asked(self, texts: Sequence[str]) -> str:
        blocks = []
        for number, (passage, text) in enumerate(zip(self.passages, texts, strict=False), start=1):
            title = " ".join(passage.title[:TITLE_CHARACTERS].split())
            inside = quoted(f"{title}\n{text}")
            block = f"<passage>\n{inside}\n</passage>"
            blocks.append(f"[{number}]\n{block}" if self.instructions.numbered else block)
        return self.instructions.message("\n\n".join(blocks), quoted(self.question))


def _with_cut_passage(draft: _Draft, number: int, past: Messages) -> Sequence[str]:
    """The first `number` texts, and as much of the next one as fits."""
    text = draft.passages[number].text
    characters = _largest(len(text), lambda n: draft.fits(draft.cut(number + 1, n), past))
    if cut := _word_end(text, characters):
        shortened = draft.cut(number + 1, cut)
        if draft.fits(shortened, past):
            return shortened
    return draft.cut(number)


def _widened(draft: _Draft, past: Messages) -> Sequence[str]:
    """The texts of all passages with their contexts: of the first ones all, of the next one as much as fits."""
    passages, free = draft.passages, rooms(draft.passages)
    if not any(room.most for room in free):
        return draft.cut(len(passages))

    def texts(number: int, reach: int = 0) -> list[str]:
        """The texts with `number` of them widened, and the next one by `reach`."""
        reaches = [*(room.most for room in free[:number]), reach]
        wide = [widened(*each) for each in zip(passages, free, reaches, strict=False)]
        return [*wide, *(passage.text for passage in passages[len(wide) :])]

    number = _largest(len(passages), lambda n: draft.fits(texts(n), past))
    if number < len(passages):
        reach = _largest(free[number].most, lambda n: draft.fits(texts(number, n), past))
        return texts(number, reach) if draft.fits(texts(number, reach), past) else texts(number)
    return texts(number)


def _newest(history: Messages, room: int, count: Callable[[str], int]) -> Messages:
    """The last messages that fit. After a cut, the first one is the user's, since some models require that."""
    kept = len(history)
    while kept and (room := room - count(history[kept - 1]["content"]) - TOKENS_PER_MESSAGE) >= 0:
        kept -= 1
    while 0 < kept < len(history) and history[kept]["role"] != "user":
        kept += 1
    return history[kept:]


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """Find the largest number up to `most` that fits, by bisection; 0 is assumed to fit."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _word_end(text: str, characters: int) -> int:
    """Move a cut to the end of a word, except within the first word."""
    if characters >= len(text):
        return characters
    return max(
        (match.end() for match in re.finditer(r"\S(?=\s)", text[: characters + 1])), default=characters
    )
