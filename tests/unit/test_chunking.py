"""Chunks are exact spans, cover the text, keep every limit, and change only near an edit."""

import random
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.chunking import chunk, embedding_title
from worker.documents import Chunk, digest, embedding_text
from worker.errors import SettingsError
from worker.tokens import counter

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


def check(
    text: str,
    chunks: list[Chunk],
    count: Callable[[str], int],
    *,
    chunk_tokens: int,
    token_limit: int,
    title: str = "",
    prefix: str = "",
) -> None:
    """All guarantees of `chunk` without overlap."""
    end = 0
    for item in chunks:
        sent = embedding_text(prefix, title, item.text)
        assert item.text == text[item.start : item.end]
        assert item.text == item.text.strip() != ""
        assert text[end : item.start].strip() == "", (
            "something other than white space was left out, or repeated"
        )
        assert item.tokens == count(sent) <= token_limit
        assert count(item.text) <= chunk_tokens
        assert item.hash == digest(sent)
        end = item.end
    assert text[end:].strip() == ""


@pytest.mark.parametrize("tokenizer", [CL100K, WORDLLAMA, "estimate"])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_text_breaks_a_limit(name: str, tokenizer: str) -> None:
    count, text = counter(tokenizer), HOSTILE[name]
    title = embedding_title("Über den Index 👩‍👩‍👧‍👦", token_limit=200, count=count)
    sizes = {"chunk_tokens": 140, "token_limit": 200, "title": title, "prefix": "passage: "}
    check(text, chunk(text, **sizes, count=count), count, **sizes)


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
def test_white_space_has_no_chunks(text: str) -> None:
    assert chunk(text, chunk_tokens=100, token_limit=200, count=counter(CL100K)) == []


def test_a_short_text_is_one_chunk() -> None:
    (only,) = chunk("\n  Two lines\nof text. ", chunk_tokens=100, token_limit=200, count=counter(CL100K))
    assert (only.start, only.end, only.text) == (3, 21, "Two lines\nof text.")


def test_the_same_text_gives_the_same_chunks() -> None:
    text, count = HOSTILE["one long line"], counter(CL100K)
    assert chunk(text, chunk_tokens=99, token_limit=200, count=count) == chunk(
        text, chunk_tokens=99, token_limit=200, count=count
    )


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
    """24 insertions or deletions of some words each cost 2.5 new chunks on average, and never more than 8."""
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


def test_another_title_is_another_hash() -> None:
    sizes = {"chunk_tokens": 100, "token_limit": 200, "count": counter(CL100K)}
    assert chunk("text", title="a", **sizes)[0].hash != chunk("text", title="b", **sizes)[0].hash


@pytest.mark.parametrize(
    "limits", [{"chunk_tokens": 4, "token_limit": 100}, {"chunk_tokens": 100, "token_limit": 10}]
)
def test_limits_without_room_are_one_sentence(limits: dict[str, int]) -> None:
    with pytest.raises(SettingsError, match=r"CHUNK_TOKENS .* TOKEN_LIMIT .* raise them"):
        chunk("text", prefix="a long prefix of several words: ", **limits, count=counter(CL100K))


def test_a_character_over_the_limit_is_one_sentence() -> None:
    with pytest.raises(SettingsError, match="single character"):
        chunk(
            "ab ﷺ",
            chunk_tokens=10,
            token_limit=20,
            count=lambda text: sum(18 if c == "ﷺ" else 1 for c in text),
        )


def test_two_megabytes_of_one_line_take_seconds() -> None:
    text = HOSTILE["one long line"] * (2_000_000 // len(HOSTILE["one long line"]))
    start = time.monotonic()
    assert chunk(text, chunk_tokens=512, token_limit=8_191, count=counter(CL100K))
    assert time.monotonic() - start < 10
