"""Tell whether an answer declines: whether it says that the documents do not answer the question.

The prompt asks for the mark [0] in that case, which holds in every language. Models that leave it out are known by
their words, from declining.toml: an answer declines if it cites no passage and begins by speaking of the documents, and
of what they do not say. A sentence about something else is an answer, whatever follows.
"""

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files

MARK = "[0]"  # cites no passage
# an answer declines early, or not at all
MAX_CLAUSES, MAX_CHARACTERS = 8, 2_000

Words = Mapping[str, re.Pattern[str]]  # of a language, by the keys of declining.toml

_MARKED = re.compile(r"\s*(?:\*\*)?\[0\](?:\*\*)?[\s:.,;–—-]*")
_CLAUSE_END = re.compile(r"(?<![.\d])[.!?](?=\s|$)|[。！？；，、;:\n؟،]|,(?=\s)|\s[–—-]\s")
# what the document says is an answer
_REPORTED = re.compile(
    r"\b(states?|says?|mentions?|notes?|explains?|indicates?|specif(y|ies)|shows?|confirms?|describes?) "
    r"(that|how|the|a)\b"
)


def unmarked(answer: str) -> str:
    """The answer without the mark at its beginning."""
    return _MARKED.sub("", answer, count=1) if _MARKED.match(answer) else answer


def may_be_marked(start: str) -> bool:
    """Tell whether the mark, or what goes with it, may still come or continue."""
    return MARK.startswith(start.strip().strip("*")) or _MARKED.fullmatch(start) is not None


def declines(answer: str, *, cites: bool) -> bool:
    """Tell whether an answer declines the question. `cites`: whether it cites a passage."""
    if _MARKED.match(answer):
        return True
    if cites:
        return False
    plain = (
        unicodedata.normalize("NFKC", answer[:MAX_CHARACTERS]).casefold().replace("’", "'").replace("*", "")
    )
    return MARK in plain or any(_declines(list(_clauses(plain)), words) for words in _languages())


def _clauses(text: str) -> Iterator[str]:
    yield from (clause for piece in _CLAUSE_END.split(text) if piece and (clause := piece.strip()))


def _declines(clauses: Sequence[str], words: Words) -> bool:
    about_documents = False
    for clause in clauses[:MAX_CLAUSES]:
        source = words["source"].search(clause) is not None
        about_documents = about_documents or source
        if words["alone"].search(clause):
            return True
        no, reported = words["no"].search(clause), _REPORTED.search(clause)
        if reported and not (no and no.start() < reported.start()):
            return False
        if no and words["say"].search(clause) and about_documents:
            return True
        if no and words["weak"].search(clause) and source:
            return True
        if not source and not words["sorry"].search(clause):
            return False
    return False


@cache
def _languages() -> Sequence[Words]:
    tables = tomllib.loads(files("worker.chat").joinpath("declining.toml").read_text(encoding="utf-8"))
    return [{key: re.compile("|".join(parts)) for key, parts in table.items()} for table in tables.values()]
