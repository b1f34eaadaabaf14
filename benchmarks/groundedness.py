"""How well groundedness tells answers from their document apart from answers about something else, by its bound.

    python -m benchmarks.groundedness CORPUS_FOLDER

The answers of dialogues.jsonl are written by hand, in words of their own. Each is compared with the whole text of its
document, and with that of another dialogue. 36 of them have their answer in the document of the follow-up question.
"""

import argparse
import json
from pathlib import Path
from statistics import fmean

from benchmarks.corpus import documents
from benchmarks.follow_up import DIALOGUES
from worker.chat import groundedness

SHARES = (0.4, 0.5, 0.6, 0.7, 0.8)
ON_ONE_SUBJECT = 36  # the first dialogues of the file
SHIFT = 7  # dialogues to the other document


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.groundedness")
    parser.add_argument("corpus", type=Path)
    texts = {found["id"]: found["text"] for found in documents(parser.parse_args().corpus)}
    rows = [json.loads(line) for line in DIALOGUES.read_text().splitlines()][:ON_ONE_SUBJECT]
    answers = [row["answered"] for row in rows]
    own = [texts[row["documents"][0]] for row in rows]
    print(f"{len(rows)} answers   {'own document':>14}{'another one':>14}")
    for share in SHARES:
        groundedness.MIN_SHARE = share
        others = [*own[SHIFT:], *own[:SHIFT]]
        print(f"share {share:<8}{mean(answers, own):>14.3f}{mean(answers, others):>14.3f}")


def mean(answers: list[str], texts: list[str]) -> float:
    found = [groundedness.groundedness(answer, [text]) for answer, text in zip(answers, texts, strict=True)]
    return fmean(value for value in found if value is not None)


if __name__ == "__main__":
    main()
