"""Extractive: an offline, deterministic chat model that answers with quotations.

It reads the passages and the question from the messages that `worker.chat.prompting` composes. It quotes the sentences
nearest to the question, each with the number of its passage, and only those. A quotation has the words of its source,
with "…" for what was left out: numbers of footnotes, which would look like citations, and the end of a long sentence.
With an ANSWER_PROMPT, the question is what follows "Question: " after the passages; without such a line, all the text
around the passages.

The score of a sentence is the cosine of its word vectors plus the share of the question's words in the sentence and in
its passage, weighted by their rarity among the passages. The model declines if both parts are weak. The bounds were
chosen on 42 questions to 338 documents, with ten passages of 140 tokens each. There the best cosine is 0.52 to 0.84 for
34 of 36 questions with an answer, and 0.31 to 0.40 for five of six without one. The other two questions with an answer
have 0.58 and 0.83 of their words in one passage, those without an answer at most 0.34.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from llm.models import Conversation, Model, Prompt, Response
from llm.parts import TextPart
from numpy.typing import NDArray

from worker.model_files import TOKENIZER
from worker.models.wordllama import WordLlama
from worker.tokens import counter

QUOTED = "Quoted from the documents:"
DECLINED = "This question cannot be answered from these documents."

MAX_QUOTES = 3
MAX_QUOTE_CHARACTERS = 500
MIN_SENTENCE_WORDS = 4
MIN_SHARE_OF_BEST = 0.7  # of the best score, for a further quotation
MIN_SIMILARITY, MIN_COVERAGE = 0.46, 0.5  # below both, the model declines

# without a number where the index has CITATIONS off
_PASSAGE = re.compile(r"^(?:\[(\d+)\]\n)?<passage>\n([^\n]*)\n(.*?)\n</passage>$", re.MULTILINE | re.DOTALL)
_QUESTION = re.compile(r"^Question: (.*)\Z", re.MULTILINE | re.DOTALL)
# how worker.chat.prompting writes a mark in a text
_MARK_IN_TEXT = re.compile(r"&lt;(?=\s*/?\s*passage)", re.IGNORECASE)
_WORD = re.compile(r"[^\W_]+(?:\.\d+)*")
# the end of a sentence, a blank line, or the line under a heading
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!\.\.)[\"'”’)*`]*\s+(?=[\"'“‘(*`]*[^\Wa-z_])|(?<=[。！？])|\n\s*\n|\n[-=~^*+#]{3,}\s*(?:\n|\Z)"
)
# the number of a footnote, which is not the number of a passage: at the end of a sentence, and within it
_LAST_REFERENCE = re.compile(r"\s*\[#?[\d\s,;–-]+\]_?[.!?]*\s*\Z")
_REFERENCE = re.compile(r"\s*\[#?[\d\s,;–-]+\]_?\s*")
_SUFFIXES = re.findall(r"\w+", "ations ation ings ing edly ers er ies ied ed es ly s e y")
_STOPWORDS = frozenset(
    re.findall(
        r"\w+",
        "a about after all also am an and any are as at be because been before being both but by can "
        "could did do does doing each for from had has have having he her here him his how i if in into "
        "is it its just make many may me more most much must my no nor not of off on one only or other "
        "our out over own per same she should so some such take tell than that the their them then there "
        "these they this those through to too under until up use used using very was way we were what "
        "when where which while who whom whose why will with within would you your ",
    )
)


@dataclass(frozen=True, kw_only=True)
class PromptPassage:
    """A numbered passage of the prompt."""

    number: int | None  # None: the prompt has no numbers
    title: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A sentence of a passage that may be quoted."""

    number: int | None  # of its passage
    place: int  # of its passage in the prompt
    text: str
    score: float  # compare it only with scores for the same question
    similarity: float  # cosine to the question


class Extractive(Model):
    """The model `extractive`. Safe in threads; loads the files of wordllama at the first question with passages."""

    model_id = "extractive"
    can_stream = True

    def __init__(self, embedding_model: WordLlama) -> None:
        self._embedding_model = embedding_model

    def execute(
        self, prompt: Prompt, stream: bool, response: Response, conversation: Conversation | None
    ) -> Iterator[str]:
        texts = [
            "".join(part.text for part in message.parts if isinstance(part, TextPart))
            for message in prompt.messages
        ]
        answer = self.answer(texts[-1] if texts else "")
        count = counter(f"wordllama:{TOKENIZER}")
        response.set_usage(input=sum(map(count, texts)), output=count(answer))
        response.response_json = {"finish_reason": "stop"}
        return iter(re.findall(r"\S+\s*", answer) if stream else [answer])

    def answer(self, text: str) -> str:
        """Answer the last message with numbered quotations, or decline."""
        passages = [
            PromptPassage(
                number=int(number) if number else None, title=title, text=_MARK_IN_TEXT.sub("<", body)
            )
            for number, title, body in _PASSAGE.findall(text)
        ]
        question = _question(text)
        if not (passages and _terms(question)):
            return DECLINED
        weights = _weights(_terms(question), [_terms(f"{p.title} {p.text}") for p in passages])
        sentences = self._scored(question, passages, weights)
        coverage = max(_coverage(f"{p.title} {p.text}", weights) for p in passages)
        similar = max((sentence.similarity for sentence in sentences), default=0.0)
        if not sentences or (similar < MIN_SIMILARITY and coverage < MIN_COVERAGE):
            return DECLINED
        quotes = [
            f"“{_shortened(sentence.text)}”" + (f" [{sentence.number}]" if sentence.number else "")
            for sentence in sentences[:MAX_QUOTES]
            if sentence.score >= MIN_SHARE_OF_BEST * sentences[0].score
        ]
        return f"{QUOTED} {' '.join(quotes)}"

    def _scored(
        self, question: str, passages: Sequence[PromptPassage], weights: Mapping[str, float]
    ) -> list[Sentence]:
        """All sentences that are long enough, each text once, best first."""
        found = {
            sentence: (place, passage)
            for place, passage in reversed(
                [*enumerate(passages)]
            )  # the first passage keeps a sentence that several have
            for sentence in _sentences(passage.text)
        }
        if not found:
            return []
        inputs = [question, *(f"{passage.title} {text}" for text, (_, passage) in found.items())]
        vectors: NDArray[np.float64] = np.array(list(self._embedding_model.embed_batch(inputs)))
        similarities = vectors[1:] @ vectors[0]
        scored = [
            Sentence(
                number=passage.number,
                place=place,
                text=text,
                similarity=float(similarity),
                score=float(similarity)
                + _coverage(text, weights)
                + 0.5 * _coverage(f"{passage.title} {passage.text}", weights),
            )
            for (text, (place, passage)), similarity in zip(found.items(), similarities, strict=True)
        ]
        return sorted(scored, key=lambda sentence: (-sentence.score, sentence.place, sentence.text))


def _question(text: str) -> str:
    """The question of a message: a passage may have such a line too, so the passages come out first."""
    around = _PASSAGE.sub("", text)
    found = _QUESTION.search(around)
    return found[1] if found else around


def _sentences(text: str) -> Iterator[str]:
    for piece in _SENTENCE_END.split(text):
        sentence = " ".join(_REFERENCE.sub(" … ", _LAST_REFERENCE.sub("", piece)).split())
        if len(_WORD.findall(sentence)) >= MIN_SENTENCE_WORDS:
            yield sentence


def _terms(text: str) -> set[str]:
    return {_stem(word) for word in _WORD.findall(text.casefold()) if word not in _STOPWORDS}


def _stem(word: str) -> str:
    """Remove one common English ending from a word, if at least three letters are left."""
    if len(word) < 5:
        return word.removesuffix("s") if len(word) == 4 and not word.endswith("ss") else word
    return next(
        (word.removesuffix(s) for s in _SUFFIXES if word.endswith(s) and len(word) - len(s) >= 3), word
    )


def _weights(terms: set[str], passages: Sequence[set[str]]) -> dict[str, float]:
    """Weights of the question's terms, which sum up to 1: a rarer term among the passages has a higher weight."""
    rarity = {
        term: math.log(1 + (len(passages) + 1) / (sum(term in passage for passage in passages) + 0.5))
        for term in sorted(terms)
    }
    total = sum(rarity.values())
    return {term: value / total for term, value in rarity.items()}


def _coverage(text: str, weights: Mapping[str, float]) -> float:
    present = _terms(text)
    return sum(weight for term, weight in weights.items() if term in present)


def _shortened(text: str) -> str:
    if len(text) <= MAX_QUOTE_CHARACTERS:
        return text
    return text[:MAX_QUOTE_CHARACTERS].rpartition(" ")[0] + " …"
