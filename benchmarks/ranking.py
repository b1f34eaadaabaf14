"""Hit@1, Hit@5, MRR and nDCG@10 of the three modes on public collections, each half of the questions apart.

    python -m benchmarks.ranking FOLDER [VECTOR,WORDS ...]

FOLDER has Cranfield (cran.all.1400, cran.qry, cranqrel), CoSQA (cosqa-dev.json, cosqa-test.json, code.txt) and
collections in SQuAD's format (xquad.en.json, jsquad.ja.json); a missing one is left out. Up to 300 questions of each.
Odd questions are to tune on, even ones to check. Other weights than 1,1 are those of hybrid mode alone.
"""

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.scripts import LANGUAGES, load, read
from worker import services
from worker.cli.judging import JudgedQuestion, Scores
from worker.index import Index
from worker.search.queries import MODES, SearchQuery
from worker.search.retrieval import retrieve
from worker.store import schema

QUESTIONS = 300
LIMIT = 10


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A collection with questions whose documents are known."""

    name: str
    language: str
    documents: Sequence[Mapping[str, str]]
    questions: Sequence[JudgedQuestion]


def main(folder: Path, weights: Sequence[tuple[float, float]]) -> None:
    with (
        tempfile.TemporaryDirectory() as home,
        services.running(Path(home), valkey=False, durable=False) as own,
    ):
        schema.install(own.addresses.database_url)
        print(f"{'collection':16} {'mode':14} {'half':5} hit@1  hit@5  mrr@10 ndcg@10")
        for judged in collections(folder):
            index = load(
                own.addresses.database_url, judged.documents, name=judged.name, language=judged.language
            )
            for mode in MODES:
                report(index, judged, mode, mode)
            for pair in weights:
                settings = replace(index.settings, hybrid_weights=pair)
                report(replace(index, settings=settings), judged, "hybrid", f"{pair[0]:g}, {pair[1]:g}")


def report(index: Index, judged: Judged, mode: str, label: str) -> None:
    halves = {"odd": Scores(limit=LIMIT), "even": Scores(limit=LIMIT)}
    for at, question in enumerate(judged.questions):
        rows = retrieve(index, SearchQuery(text=question.text, mode=mode, limit=LIMIT, per_document=1))
        found = [{"document_id": row.document_id, "similarity": None} for row in rows]
        halves["even" if at % 2 else "odd"].add(question, found, 0.0)
    for half, scores in halves.items():
        figures = scores.quality()
        shown = "  ".join(f"{figures[name]:.3f}" for name in ("hit@1", "hit@5", "mrr@10", "ndcg@10"))
        print(f"{judged.name:16} {label:14} {half:5} {shown}", flush=True)


def collections(folder: Path) -> Iterator[Judged]:
    """Read what the folder has."""
    if (folder / "cran.all.1400").exists():
        yield cranfield(folder)
    if (folder / "cosqa-dev.json").exists():
        yield cosqa(folder)
    for file in sorted(folder.glob("*quad.*.json")):
        documents, questions = read(file, QUESTIONS)
        language = LANGUAGES.get(file.stem.rpartition(".")[2], "simple")
        asked = [JudgedQuestion(text=text, grades={id: 1.0}) for text, id in questions]
        yield Judged(name=file.stem, language=language, documents=documents, questions=asked)


def cranfield(folder: Path) -> Judged:
    """1,400 abstracts of aerodynamics. Questions are numbered by their place, whatever their own number is."""
    entries = re.split(r"^\.I (\d+)\n", (folder / "cran.all.1400").read_text(), flags=re.MULTILINE)[1:]
    documents = []
    for id, entry in zip(entries[::2], entries[1::2], strict=True):
        title, text = (
            re.search(rf"^\.{mark}\n(.*?)(?=^\.[A-Z]\n|\Z)", entry, re.MULTILINE | re.DOTALL) for mark in "TW"
        )
        assert title
        assert text
        if text[1].strip():
            documents.append({"id": id, "title": " ".join(title[1].split()), "text": text[1]})
    grades: dict[int, dict[str, float]] = {}
    for line in filter(str.strip, (folder / "cranqrel").read_text().splitlines()):
        question, id, grade = line.split()[:3]
        if 0 < int(grade) < 5:  # 1 is the best, 5 is not relevant
            grades.setdefault(int(question), {})[id] = 5.0 - int(grade)
    texts = re.split(r"^\.I \d+\n\.W\n", (folder / "cran.qry").read_text(), flags=re.MULTILINE)[1:]
    questions = [
        JudgedQuestion(text=" ".join(text.split()), grades=grades[at])
        for at, text in enumerate(texts, start=1)
        if at in grades
    ]
    return Judged(name="cranfield", language="english", documents=documents, questions=questions)


def cosqa(folder: Path) -> Judged:
    """Questions of programmers to 6,267 functions of Python."""
    numbers: dict[str, int] = json.loads((folder / "code.txt").read_text())
    documents = [{"id": str(number), "text": code} for code, number in numbers.items()]
    entries = [
        entry for part in ("dev", "test") for entry in json.loads((folder / f"cosqa-{part}.json").read_text())
    ]
    questions = [
        JudgedQuestion(text=entry["doc"], grades={str(numbers[entry["code"]]): 1.0})
        for entry in entries
        if entry.get("label", 1) and entry["code"] in numbers
    ]
    return Judged(name="cosqa", language="english", documents=documents, questions=questions[:QUESTIONS])


if __name__ == "__main__":
    pairs = [tuple(map(float, argument.split(","))) for argument in sys.argv[2:]]
    main(Path(sys.argv[1]), pairs)  # type: ignore[arg-type]
