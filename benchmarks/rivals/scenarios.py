"""The scenarios, and which contenders take part in them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rivals import corpus
from benchmarks.rivals.corpus import Document

LARGE_CHARACTERS = 20_000_000
PATIENCE_SECONDS = 15  # a contender that indexes one by one stops after so long


@dataclass(frozen=True, kw_only=True)
class Scenario:
    name: str
    what: str
    command: str  # see benchmarks/rivals/contender.py
    documents: Callable[[int], list[Document]]
    count: int  # documents, unless one asks for another number
    after: str | None = (
        None  # the scenario whose documents it changes; without one it begins with an empty database
    )
    contenders: frozenset[str] | None = None  # None: all
    usual: bool = True  # `--scenario` without a name runs it

    @property
    def is_latency(self) -> bool:
        """One call after the other, with pauses: a rate would say nothing."""
        return self.command in ("edits", "searches", "answers")

    def has(self, contender: str) -> bool:
        return self.contenders is None or contender in self.contenders


SCENARIOS = (
    Scenario(
        name="bulk",
        what="documents of 4.5 kB into an empty database",
        command="index",
        documents=corpus.documents,
        count=1_000,
    ),
    Scenario(
        name="unchanged",
        what="the same documents again",
        command="index",
        documents=corpus.documents,
        count=1_000,
        after="bulk",
    ),
    Scenario(
        name="changed",
        what="the same documents, 1% with a new sentence",
        command="index",
        documents=lambda count: corpus.changed(corpus.documents(count)),
        count=1_000,
        after="bulk",
    ),
    Scenario(
        name="small",
        what="documents of 300 bytes, in messages of 100 or as the contender batches them",
        command="index",
        documents=lambda count: corpus.documents(count, sizes=corpus.SMALL, seed=2),
        count=1_500,
    ),
    Scenario(
        name="single",
        what=f"documents of 300 bytes, each saved by itself, {PATIENCE_SECONDS} s at most",
        command="each",
        documents=lambda count: corpus.documents(count, sizes=corpus.SMALL, seed=3),
        count=1_000,
    ),
    Scenario(
        name="edit",
        what="a changed document, until it is searchable, on a system at rest",
        command="edits",
        documents=lambda count: [corpus.edited(found, 2) for found in corpus.documents(count)],
        count=20,
        after="bulk",
    ),
    Scenario(
        name="search",
        what="questions, one after the other",
        command="searches",
        documents=corpus.documents,
        count=50,
        after="bulk",
        contenders=frozenset({"ours", "script", "langchain", "llamaindex"}),
    ),
    Scenario(
        name="chat",
        what="answers, one after the other",
        command="answers",
        documents=lambda count: corpus.documents(count, seed=5),
        count=20,
        after="bulk",
        contenders=frozenset({"ours"}),
    ),
    Scenario(
        name="mixed",
        what="other documents of 4.5 kB, and questions meanwhile",
        command="mixed",
        documents=lambda count: corpus.documents(count, seed=4),
        count=1_000,
        after="bulk",
        contenders=frozenset({"ours"}),
    ),
    Scenario(
        name="large",
        what="one document of 20 MB; with ours, small documents meanwhile",
        command="large",
        documents=lambda count: [corpus.large(LARGE_CHARACTERS)],
        count=1,
        usual=False,
    ),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def chosen(names: Sequence[str]) -> list[Scenario]:
    """The scenarios of these names, in the order of SCENARIOS. Raises SystemExit for an unknown name."""
    if unknown := set(names) - BY_NAME.keys():
        raise SystemExit(f"unknown scenario {sorted(unknown)}; there are {', '.join(BY_NAME)}")
    return [scenario for scenario in SCENARIOS if scenario.name in names]


def written(scenario: Scenario, count: int | None, folder: Path) -> Path:
    """The file with the scenario's documents, made once."""
    number = count or scenario.count
    path = folder / f"{scenario.name}-{number}.jsonl"
    return path if path.exists() else corpus.write(path, scenario.documents(number))
