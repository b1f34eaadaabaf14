"""Texts for the benchmarks, and the splitters that ours is compared with.

Real prose that is on every machine: Python's own language reference.
"""

import random
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pydoc_data.topics import topics

from worker.tokens import counter

LIMIT = 512  # tokens of a chunk
NO_RIVALS = (
    "the splitters to compare with are not installed: run make bench, or install vector-index-worker[bench]"
)


def documents(count: int, *, edition: int = 0) -> list[dict[str, str]]:
    """Documents of 3 to 6 kB, no two with a chunk in common; every `edition` has other words."""
    return [
        {"id": str(number), "title": f"Document {number}", "text": text}
        for number, text in enumerate(islice(_texts(edition), count))
    ]


def _texts(edition: int) -> Iterator[str]:
    lap = 0
    while True:
        for name in sorted(topics):
            text = topics[name]
            for at in range(0, len(text) - 3_000, 6_000):
                # a word of its own in each paragraph: nothing is shared, so nothing is saved by sharing
                mark = f"({name} {at} {lap} {edition})\n\n"
                yield text[at : at + 6_000].replace("\n\n", mark)
        lap += 1


def long_text(kind: str, size: int) -> str:
    """Prose or Markdown of so many characters; no two megabytes are the same."""
    parts, length, edition = [], 0, 0
    while length < size:
        edition += 1
        part = _markdown(*_sentences(edition)) if kind == "markdown" else "".join(_texts_of(edition))
        parts.append(part)
        length += len(part)
    return "".join(parts)[:size]


def _texts_of(edition: int) -> Iterator[str]:
    names = sorted(topics)
    random.Random(edition).shuffle(names)
    return (f"{name} {edition}\n\n{topics[name]}\n\n" for name in names)


def _sentences(seed: int) -> tuple[random.Random, list[str]]:
    chosen = random.Random(seed)
    prose = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    found = re.findall(r"[A-Z][^.:`*|\n]{30,160}\.(?=\s)", prose)
    chosen.shuffle(found)
    return chosen, found


def texts_to_edit() -> dict[str, str]:
    """Five kinds of text, 60 to 120 kB each, the same in every run."""
    chosen, sentences = _sentences(11)
    return {
        "markdown": _markdown(chosen, sentences),
        "one long line": " ".join(sentences)[:100_000],
        "equal paragraphs": "\n\n".join(
            f"Entry {number}. {' '.join(sentences[:4])}" for number in range(250)
        ),
        "log": "\n".join(
            f"2026-11-23 03:{number // 60 % 60:02}:{number % 60:02} INFO worker.indexing.draining.drainer request "
            f"{chosen.randrange(10**6)} took {chosen.randrange(900)} ms"
            for number in range(1_500)
        ),
        "japanese": _japanese(chosen),
    }


def _markdown(chosen: random.Random, sentences: list[str]) -> str:
    """Sections of three levels with paragraphs, lists, tables and code, as a handbook has them."""
    parts, size, at = ["# Handbook\n\n"], 0, 0

    def take(number: int) -> list[str]:
        nonlocal at
        at += number
        return [sentences[place % len(sentences)] for place in range(at - number, at)]

    while size < 100_000:
        kind = chosen.random()
        if kind < 0.10:
            parts.append(f"## {' '.join(take(1)[0].split()[:4])}\n\n")
        elif kind < 0.22:
            parts.append(f"### {' '.join(take(1)[0].split()[:5])}\n\n")
        elif kind < 0.34:
            parts.append("".join(f"- {line}\n" for line in take(chosen.randint(2, 8))) + "\n")
        elif kind < 0.44:
            code = [f"    {word}({chosen.randrange(100)})  # {word}" for word in take(1)[0].split()[:8]]
            parts.append(f"```{chosen.choice(['', 'python'])}\ndef run():\n" + "\n".join(code) + "\n```\n\n")
        elif kind < 0.48:
            rows = "".join(f"| {line[:20]} | {line[20:60]} |\n" for line in take(6))
            parts.append(f"| name | meaning |\n|---|---|\n{rows}\n")
        else:
            parts.append(" ".join(take(chosen.randint(1, 7))) + "\n\n")
        size += len(parts[-1])
    return "".join(parts)


def _japanese(chosen: random.Random) -> str:
    words = [
        "文書",
        "索引",
        "検索",
        "段落",
        "意味",
        "番号",
        "結果",
        "言葉",
        "機械",
        "学習",
        "時間",
        "場所",
        "問題",
        "方法",
        "利用",
        "情報",
        "仕事",
        "部分",
        "全体",
        "変更",
    ]
    endings = ["です。", "ます。", "ました。", "でしょう。", "でした。"]

    def sentence() -> str:
        return "".join(
            chosen.choice(words) + chosen.choice("はがをにのとで") for _ in range(chosen.randint(3, 9))
        )

    return "\n\n".join(
        "".join(sentence() + chosen.choice(endings) for _ in range(chosen.randint(2, 9))) for _ in range(250)
    )


def langchain_splitter(markdown: bool) -> Callable[[str], list[str]]:
    """RecursiveCharacterTextSplitter of langchain-text-splitters, with our counts."""
    try:
        from langchain_text_splitters import Language, RecursiveCharacterTextSplitter
    except ImportError:
        raise SystemExit(NO_RIVALS) from None
    count = counter("cl100k_base")
    sizes = {"chunk_size": LIMIT, "chunk_overlap": 0, "length_function": count}
    if markdown:
        return RecursiveCharacterTextSplitter.from_language(Language.MARKDOWN, **sizes).split_text
    return RecursiveCharacterTextSplitter(**sizes).split_text


def semantic_splitter(markdown: bool) -> Callable[[str], list[str]]:
    """MarkdownSplitter or TextSplitter of semantic-text-splitter, with its own counts of the same encoding."""
    try:
        from semantic_text_splitter import MarkdownSplitter, TextSplitter
    except ImportError:
        raise SystemExit(NO_RIVALS) from None
    return (MarkdownSplitter if markdown else TextSplitter).from_tiktoken_model("gpt-4", LIMIT).chunks
