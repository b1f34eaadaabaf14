"""Counts are exact and offline, and where they cannot be exact they are never too small."""

import base64
import random
import subprocess
import sys

import bpe_openai
import pytest

from worker.errors import SettingsError
from worker.tokens import OPENAI_ENCODINGS, counter, package_file

WORDLLAMA = "wordllama:tokenizers/l2_supercat_tokenizer_config.json"

TEXTS = {
    "empty": "",
    "prose": "The quick brown fox jumps over the lazy dog. " * 20,
    "code": "def f(x):\n    return {k: v for k, v in x.items() if v != 'a'}\n" * 10,
    "special": "<|endoftext|> </s><s> <unk> <|im_start|>",
    "japanese": "これは日本語の文章です。" * 20,
    "rare": "".join(chr(0x20000 + i) for i in range(100)),
    "emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 20,
    "base64": base64.b64encode(random.Random(1).randbytes(600)).decode(),
    "spaces": " " * 1_000 + "\t" * 50 + "\n" * 50,
    "controls": "\x01\x02\x7f\u200b" * 50,
    "consonants": "".join(random.Random(2).choices("bcdfghjklmnpqrstvwxz", k=500)),
}


@pytest.mark.parametrize(
    ("encoding", "tokens"),
    [("cl100k_base", [9906, 1917]), ("o200k_base", [13225, 2375])],
    ids=OPENAI_ENCODINGS,
)
def test_the_encodings_are_those_of_openai(encoding: str, tokens: list[int]) -> None:
    """Given the ids that tiktoken's documentation and cookbook give for "Hello world"."""
    assert bpe_openai.get_encoding(encoding).encode_ordinary("Hello world") == tokens
    assert counter(encoding)("Hello world") == 2


@pytest.mark.parametrize("encoding", OPENAI_ENCODINGS)
@pytest.mark.parametrize("text", ["prose", "code", "japanese", "spaces", "base64", "emoji"])
def test_a_text_that_is_counted_in_pieces_counts_the_same(
    encoding: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact where a piece can end between words, and never too small where it cannot."""
    whole = TEXTS[text] * 20
    exact = len(bpe_openai.get_encoding(encoding).encode_ordinary(whole))
    monkeypatch.setattr("worker.tokens._PIECE_CHARACTERS", 1_000)
    pieces = len(whole) // 1_000 + 1
    assert exact <= counter(encoding)(whole) <= exact + 4 * pieces
    if text in ("prose", "code"):
        assert counter(encoding)(whole) == exact


def test_a_million_characters_are_counted() -> None:
    """The library underneath refuses them."""
    assert counter("cl100k_base")("word " * 400_000) == pytest.approx(400_000, abs=2)


@pytest.mark.parametrize("name", [*OPENAI_ENCODINGS, WORDLLAMA])
@pytest.mark.parametrize("text", TEXTS)
def test_the_estimate_never_counts_too_few(name: str, text: str) -> None:
    assert counter("estimate")(TEXTS[text]) >= counter(name)(TEXTS[text])


@pytest.mark.parametrize("name", [*OPENAI_ENCODINGS, WORDLLAMA, "estimate"])
def test_text_that_looks_like_a_special_token_is_counted(name: str) -> None:
    assert counter(name)(TEXTS["special"]) > 3


def test_a_tokenizers_file_counts_without_padding_truncation_or_its_package() -> None:
    code = (
        "import sys; from worker.tokens import counter;"
        f"count = counter({WORDLLAMA!r});"
        "assert count('hello world') == 3, count('hello world');"  # with the start token of the file
        "assert count('hello world ' * 5_000) > 10_000;"
        "assert 'wordllama' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_path_names_a_tokenizers_file() -> None:
    path = package_file("wordllama", "tokenizers/l2_supercat_tokenizer_config.json")
    assert counter(str(path))("hello world") == counter(WORDLLAMA)("hello world")


@pytest.mark.parametrize(
    "name", ["cl100k", "nowhere.json", "wordllama:nowhere.json", "no_such_package:a.json"]
)
def test_an_unknown_tokenizer_is_one_sentence_that_names_it(name: str) -> None:
    with pytest.raises(SettingsError, match=name.partition(":")[0]):
        counter(name)


def test_a_file_that_is_no_tokenizer_is_one_sentence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(SettingsError, match=r"tokenizer\.json"):
        counter(str(path))
