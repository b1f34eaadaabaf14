"""Chunks are exact spans that cover the text, keep every limit, and change only near an edit."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.chunking import chunk, embedding_title
from worker.documents import Chunk, digest, embedding_text
from worker.errors import SettingsError
from worker.tokens import counter, estimate

ROOT = Path(__file__).parents[2]
CL100K = "cl100k_base"
WORDLLAMA = "wordllama:tokenizers/l2_supercat_tokenizer_config.json"

RANDOM = random.Random(7)
WORDS = ["the", "of", "index", "a", "vector", "search", "worker", "queue", "and", "document", "limit", "to"]


def sentence(words: int = 12) -> str:
    return " ".join(RANDOM.choices(WORDS, k=words)).capitalize() + f" {RANDOM.randrange(10**6)}. "


HOSTILE = {
    "one letter": "a" * 50_000,
    "base64": "".join(RANDOM.choices("ABCDEFghijkl0123456789+/", k=50_000)),
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 2_000,
    "rare ideographs": "".join(chr(0x20000 + RANDOM.randrange(40_000)) for _ in range(5_000)),
    "japanese": "これは日本語の文章です。段落もあります、長いものも。" * 500,
    "controls": "\x01\x02\x1f\x7f" * 3_000,
    "windows lines": "".join(sentence() + "\r\n" for _ in range(300)),
    "special tokens": "<|endoftext|></s>" * 1_000,
    "short lines": "x\n" * 20_000,
    "white space runs": "".join("a" + " " * i for i in range(300)),
    "wide gaps": ("a" + " " * 20_000) * 10,
    "one long line": "".join(sentence() for _ in range(1_000)),
    "no sentence": " ".join(RANDOM.choices(WORDS, k=8_000)),
    "marks": "e" + "\u0301" * 20_000,
}

# each of these would take minutes, or all memory, if a step read the rest of the text twice
LARGE = {
    "a megabyte without a space": "a" * 1_000_000,
    "a megabyte of base64": "".join(RANDOM.choices("ABCDEFghijkl0123456789+/", k=1_000_000)),
    "joined emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 10_000,
    "rare ideographs": "".join(chr(0x20000 + RANDOM.randrange(40_000)) for _ in range(50_000)),
    "arabic": "يقارن البحث الدلالي معاني الجمل لا كلماتها. " * 3_000,
    "hindi without a stop": "अर्थ पर आधारित खोज शब्दों की नहीं " * 3_000,
    "control characters": "\x01\x02\x1f\x7f\x1c" * 20_000,
    "windows lines": "A line of words.\r\n" * 20_000,
    "many lines of a character": "x\n" * 100_000,
    "deeply nested lists": "".join("  " * (number % 200) + "- item\n" for number in range(5_000)),
    "special tokens": "<|endoftext|></s>" * 10_000,
    "ten thousand headings": "".join(f"# Heading {number}\n" for number in range(10_000)),
    "an unclosed fence": "```\n" + "a line of code\n\n" * 20_000,
    "a megabyte of HTML in a line": "<p>some words here <b>bold</b></p>" * 30_000,
    "deeply nested HTML": "<div>" * 30_000 + "x" + "</div>" * 30_000,
    "headings that never end": "<h1>" * 50_000,
    "fences in a line": "```" * 50_000,
    "lines of fences": "```\n" * 50_000,
    "lines of colons": "::\n" * 50_000,
    "rules": "---\n" * 50_000,
    "pre after pre": "<pre>" * 50_000,
    "white space": "a" + " " * 100_000 + "\n" * 100_000 + "b",
    "marks of headings": "# " * 100_000,
    "ends of sentences": "!)]\"'" * 50_000,
}


def check(
    text: str,
    chunks: list[Chunk],
    count: Callable[[str], int],
    *,
    chunk_tokens: int,
    token_limit: int,
    title: str = "",
    prefix: str = "",
    size: Callable[[str], int] | None = None,
    sections: bool = False,
) -> None:
    """All guarantees of `chunk` without overlap."""
    end = 0
    for item in chunks:
        assert item.heading.startswith(title) if sections else item.heading == title
        sent = embedding_text(prefix, item.heading, item.text)
        assert item.text == text[item.start : item.end]
        assert item.text == item.text.strip() != ""
        assert text[end : item.start].strip() == "", (
            "something other than white space was left out, or repeated"
        )
        assert item.tokens == count(sent) <= token_limit
        assert (size or count)(item.text) <= chunk_tokens
        assert item.hash == digest(sent)
        end = item.end
    assert text[end:].strip() == ""


@pytest.mark.parametrize("tokenizer", [CL100K, WORDLLAMA, "estimate"])
@pytest.mark.parametrize("name", HOSTILE)
def test_sample_texts_stay_within_every_limit(name: str, tokenizer: str) -> None:
    count, text = counter(tokenizer), HOSTILE[name]
    title = embedding_title("Über den Index 👩‍👩‍👧‍👦", token_limit=200, count=count)
    sizes = {"chunk_tokens": 140, "token_limit": 200, "title": title, "prefix": "passage: "}
    check(text, chunk(text, **sizes, count=count), count, **sizes)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_texts_are_chunked_within_seconds(name: str) -> None:
    """Takes a few seconds at most; a quadratic step would take minutes."""
    count, text = counter(CL100K), LARGE[name]
    sizes = {"chunk_tokens": 512, "token_limit": 1_000, "title": "A title", "sections": True}
    started = time.process_time()
    chunks = chunk(text, **sizes, count=count)
    assert time.process_time() - started < 20
    check(text, chunks, count, **sizes)


@pytest.mark.slow
def test_a_million_short_lines_are_chunked_within_seconds() -> None:
    text, sizes = "x\n" * 1_000_000, {"chunk_tokens": 512, "token_limit": 1_000}
    check(text, chunk(text, **sizes, count=counter(CL100K)), counter(CL100K), **sizes)


PARTS = [
    "# Heading\n", "\n\n## Another\n\n", "Title\n=====\n", "<h2>Part</h2>", "```\n", "```python\n", "::\n\n    code\n",
    "<pre>", "</pre>", "- item\n", "| a | b |\n", "\n", "\n\n", "\r\n", "  ", "\t", " ", "A sentence. ", "word",
    " word", ".\n", "/", "//", "'s", "123", "日本。", "👩‍👩‍👧‍👦", "e\u0301", "\u3000", "\x1c",
    "<|endoftext|>", "</s>", "<p>", "\n    ",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    text=st.lists(st.sampled_from(PARTS), max_size=120).map("".join),
    chunk_tokens=st.integers(12, 80),
    token_limit=st.integers(60, 120),
)
@pytest.mark.parametrize("tokenizer", [CL100K, "o200k_base", WORDLLAMA, "estimate", "own"])
def test_every_guarantee_holds_for_structure_and_headings(
    tokenizer: str, text: str, chunk_tokens: int, token_limit: int
) -> None:
    """The tokens of a chunk, which are added up from its parts, equal the count of the string that is sent."""
    count = own_count if tokenizer == "own" else counter(tokenizer)
    size = estimate if tokenizer == "estimate" else None
    title = embedding_title("A title", token_limit=token_limit, count=count)
    sizes = {
        "chunk_tokens": chunk_tokens, "token_limit": token_limit, "title": title, "prefix": "passage: ", "size": size,
        "sections": True,
    }  # fmt: skip
    check(text, chunk(text, **sizes, count=count), count, **sizes)


def own_count(text: str) -> int:
    """A count of a user's own backend class, whose parts may not add up."""
    return (len(text.encode()) + 2) // 3 + 1


def test_without_a_tokenizer_the_estimate_sizes_chunks_and_the_upper_bound_limits_them() -> None:
    """With an upper bound of four times the tokens, chunks have the requested size up to the limit of an input."""
    count, text = counter("estimate"), HOSTILE["one long line"]
    exact = counter(CL100K)

    def mean(token_limit: int) -> float:
        found = chunk(text, chunk_tokens=300, token_limit=token_limit, count=count, size=estimate)
        assert max(item.tokens for item in found) <= token_limit
        return sum(exact(item.text) for item in found) / len(found)

    assert 120 <= mean(8_191) <= 300
    assert 30 <= mean(400) <= 100


@settings(max_examples=60, deadline=None)
@given(
    text=st.text(st.sampled_from("aZ9 .\n\r\t\u3000!é。日本\U0001f9d1\u200d'\"+/"), max_size=600),
    chunk_tokens=st.integers(8, 60),
    room=st.integers(8, 60),
)
@pytest.mark.parametrize("tokenizer", [CL100K, WORDLLAMA, "estimate"])
def test_every_guarantee_holds_for_any_text_and_limit(
    tokenizer: str, text: str, chunk_tokens: int, room: int
) -> None:
    count = counter(tokenizer)
    title = "A title"
    token_limit = count(embedding_text("", title, "")) + 2 + room
    sizes = {"chunk_tokens": chunk_tokens, "token_limit": token_limit, "title": title}
    check(text, chunk(text, **sizes, count=count), count, **sizes)


@settings(max_examples=40, deadline=None)
@given(text=st.text(st.sampled_from("abc .\n日"), max_size=800), overlap=st.integers(1, 40))
def test_overlap_repeats_text_within_the_limits(text: str, overlap: int) -> None:
    count = counter(CL100K)
    chunks = chunk(text, chunk_tokens=40, token_limit=100, overlap_tokens=overlap, count=count)
    covered = 0
    for item in chunks:
        assert item.text == text[item.start : item.end]
        assert item.tokens <= 40
        assert text[covered : item.start].strip() == ""
        assert item.end > covered
        covered = item.end
    assert text[covered:].strip() == ""


def test_overlap_starts_a_chunk_in_its_predecessor() -> None:
    text = "".join(sentence(6) for _ in range(300))
    count = counter(CL100K)
    chunks = chunk(text, chunk_tokens=200, token_limit=1_000, overlap_tokens=40, count=count)
    shared = [count(text[b.start : a.end]) for a, b in pairwise(chunks)]
    assert all(0 < tokens <= 42 for tokens in shared)


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000\u2028 "])
def test_white_space_gives_no_chunks(text: str) -> None:
    assert chunk(text, chunk_tokens=100, token_limit=200, count=counter(CL100K)) == []


def test_a_short_text_is_one_chunk() -> None:
    (only,) = chunk("\n  Two lines\nof text. ", chunk_tokens=100, token_limit=200, count=counter(CL100K))
    assert (only.start, only.end, only.text) == (3, 21, "Two lines\nof text.")


EXPECTED = ["179", "138765652f99c412"]
GOLDEN = """
import hashlib
from worker.chunking import chunk
parts = [f"## Part {n}\\n\\n" + f"Some words of prose, number {n}. " * (n % 40) for n in range(90)]
text = "\\n\\n```\\ncode()\\n```\\n\\n".join(parts) + "x" * 5000 + "日本語の文章です。" * 300
count = lambda text: len(text.encode()) // 4 + 1
found = chunk(text, title="T", chunk_tokens=120, token_limit=500, count=count, sections=True)
spans = [(item.start, item.end, item.heading, item.tokens) for item in found]
print(len(found), hashlib.sha256(repr(spans).encode()).hexdigest()[:16])
"""


@pytest.mark.parametrize("seed", ["0", "1"])
def test_the_same_text_gives_the_same_chunks_in_every_process_and_python(seed: str) -> None:
    """The figures are from Python 3.11. If they change, CHUNKER must change too."""
    done = subprocess.run(
        [sys.executable, "-c", GOLDEN],
        env={"PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        "\n\n".join("".join(sentence() for _ in range(5)) for _ in range(300)),
        "\n".join(sentence(10) for _ in range(1_500)),
        "".join(sentence() for _ in range(1_500)),
    ],
    ids=["paragraphs", "lines of equal length", "one long line"],
)
def test_an_edit_changes_few_chunks(text: str) -> None:
    """24 insertions or deletions of some words cost 2.5 new chunks each on average, and at most 8."""
    count, sizes = counter(CL100K), {"chunk_tokens": 512, "token_limit": 8_191}
    before = {item.hash for item in chunk(text, **sizes, count=count)}
    edits, new = random.Random(3), []
    for _ in range(24):
        at = edits.randrange(len(text))
        edited = text[:at] + " some new words " + text[at + edits.choice([0, 40]) :]
        new.append(sum(item.hash not in before for item in chunk(edited, **sizes, count=count)))
    assert max(new) <= 8
    assert sum(new) / len(new) <= 2.5


def test_a_long_title_is_cut_to_a_quarter_of_the_limit() -> None:
    count = counter(CL100K)
    title = embedding_title("A title\nof many words " * 10_000, token_limit=400, count=count)
    assert title.startswith("A title of many words A title")
    assert 80 <= count(title) <= 100
    assert embedding_title(title, token_limit=400, count=count) == title


def test_another_title_changes_the_hash() -> None:
    sizes = {"chunk_tokens": 100, "token_limit": 200, "count": counter(CL100K)}
    assert chunk("text", title="a", **sizes)[0].hash != chunk("text", title="b", **sizes)[0].hash


@pytest.mark.parametrize(
    "limits", [{"chunk_tokens": 4, "token_limit": 100}, {"chunk_tokens": 100, "token_limit": 10}]
)
def test_limits_without_room_raise_one_sentence(limits: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=r"CHUNK_TOKENS .* TOKEN_LIMIT .* raise them"):
        chunk("text", prefix="a long prefix of several words: ", **limits, count=counter(CL100K))


def test_a_character_over_the_limit_raises_one_sentence() -> None:
    with pytest.raises(SettingsError, match="single character"):
        chunk(
            "ab ﷺ",
            chunk_tokens=10,
            token_limit=20,
            count=lambda text: sum(18 if c == "ﷺ" else 1 for c in text),
        )


@pytest.mark.parametrize("text", ["\n\n👩\u200d👩\u200d👧\u200d👦", "\n \u3000🏳️\u200d🌈 a", "\u200d\u200d "])
def test_a_split_unit_leaves_no_chunk_of_white_space(text: str) -> None:
    count, sizes = counter("estimate"), {"chunk_tokens": 8, "token_limit": 20}
    check(text, chunk(text, **sizes, count=count, size=estimate), count, **sizes, size=estimate)


def test_one_line_of_two_megabytes_is_chunked_within_seconds() -> None:
    text = HOSTILE["one long line"] * (2_000_000 // len(HOSTILE["one long line"]))
    start = time.process_time()
    assert chunk(text, chunk_tokens=512, token_limit=8_191, count=counter(CL100K))
    assert time.process_time() - start < 10
