"""What an edit costs: chunks to embed again after one random edit, against two text splitters, in one run.

    python -m benchmarks.locality [EDITS]

An edit inserts some words, deletes some characters, or does both, anywhere in the text; each starts from the same text.
Limit: 512 tokens of cl100k_base, no overlap. Ours has the title and the headings above a chunk in front of it.
"""

import random
import sys
from collections.abc import Callable

from benchmarks.texts import LIMIT, langchain_splitter, semantic_splitter, texts_to_edit
from worker.chunking import chunk
from worker.tokens import counter

EDITS = 200


def main(edits: int) -> None:
    print(f"chunks to embed again, mean and maximum of {edits} edits; in brackets all chunks")
    print(f"{'':<18}{'ours':>18}{'without headings':>20}{'langchain':>20}{'semantic':>20}")
    for name, text in texts_to_edit().items():
        markdown = name == "markdown"
        splitters = [
            ours(sections=True),
            ours(sections=False),
            langchain_splitter(markdown),
            semantic_splitter(markdown),
        ]
        print(
            f"{name:<18}" + "".join(f"{cost(text, split, edits):>20}" for split in splitters)[2:], flush=True
        )


def ours(*, sections: bool) -> Callable[[str], list[str]]:
    count = counter("cl100k_base")

    def split(text: str) -> list[str]:
        found = chunk(
            text, title="A title", chunk_tokens=LIMIT, token_limit=8191, count=count, sections=sections
        )
        return [f"{item.heading}\n{item.text}" for item in found]

    return split


def cost(text: str, split: Callable[[str], list[str]], edits: int) -> str:
    whole = split(text)
    known, new = set(whole), []
    for seed in range(edits):
        new.append(len(set(split(edited(text, seed))) - known))
    return f"{sum(new) / edits:.2f} {max(new):>3} ({len(whole)})"


def edited(text: str, seed: int) -> str:
    chosen = random.Random(seed)
    at = chosen.randrange(len(text))
    words = " ".join(chosen.choices(["some", "new", "words", "for", "this", "place"], k=chosen.randint(1, 6)))
    inserted, deleted = chosen.choice([(f" {words} ", 0), ("", chosen.randint(1, 60)), (f" {words} ", 30)])
    return text[:at] + inserted + text[at + deleted :]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else EDITS)
