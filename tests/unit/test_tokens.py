"""Token counts are offline and exact, or an upper bound if the tokenizer is not known."""

import base64
import random
import subprocess
import sys
from collections import defaultdict

import bpe_openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.languages import strings
from benchmarks.token_counts import counted, references
from worker.errors import SettingsError
from worker.tokens import JOINT, OPENAI_ENCODINGS, Counter, counter, estimate, package_file, upper_bound

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
def test_token_ids_match_those_of_openai(encoding: str, tokens: list[int]) -> None:
    """Compares with the ids of "Hello world" in tiktoken's documentation and cookbook."""
    assert bpe_openai.get_encoding(encoding).encode_ordinary("Hello world") == tokens
    assert counter(encoding)("Hello world") == 2


def test_counting_reads_no_tables_of_other_models() -> None:
    """The package bpe_openai makes tables of all its models: 0.5 s and 60 MB."""
    code = (
        "import sys; from worker.tokens import counter; assert counter('cl100k_base')('Hello world') == 2; "
        "assert 'bpe_openai.compat' not in sys.modules; import bpe_openai; "
        "assert bpe_openai.get_encoding('cl100k_base').encode_ordinary('Hello world') == [9906, 1917]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("encoding", OPENAI_ENCODINGS)
@pytest.mark.parametrize("text", ["prose", "code", "japanese", "spaces", "base64", "emoji"])
def test_a_text_counted_in_pieces_has_the_same_count(
    encoding: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact if a piece can end between words, and never too low otherwise."""
    whole = TEXTS[text] * 20
    exact = len(bpe_openai.get_encoding(encoding).encode_ordinary(whole))
    monkeypatch.setattr("worker.tokens._PIECE_CHARACTERS", 1_000)
    pieces = len(whole) // 1_000 + 1
    assert exact <= counter(encoding)(whole) <= exact + 4 * pieces
    if text in ("prose", "code"):
        assert counter(encoding)(whole) == exact


def test_a_million_characters_are_counted() -> None:
    """The public class of the library refuses such a text."""
    assert counter("cl100k_base")("word " * 400_000) == pytest.approx(400_000, abs=2)


@pytest.mark.parametrize("name", [*OPENAI_ENCODINGS, WORDLLAMA])
def test_counts_equal_those_of_the_library_and_stay_below_the_upper_bound(name: str) -> None:
    """Covers many scripts, code, keys and random characters; `benchmarks.token_counts` does 100,000 strings."""
    library = references()[name]
    for _, text in strings(1_500, seed=7):
        tokens = library(text)
        assert counted(name, text) == counter(name)(text) == tokens <= upper_bound(text)


@pytest.mark.parametrize("name", [*OPENAI_ENCODINGS, WORDLLAMA])
@given(text=st.text(st.sampled_from("aZé日。 \t\n\r/.;'s1😀\u3000\x1c\xa0\u0301"), max_size=30))
@settings(max_examples=150, deadline=None)
def test_counts_add_up_at_every_joint(name: str, text: str) -> None:
    count = counter(name)
    assert isinstance(count, Counter)
    for joint in JOINT.finditer(text):
        assert count(text) == count(text[: joint.start()]) + count.inside(text[joint.start() :])


def test_the_estimate_is_near_the_counts_of_every_script() -> None:
    """Between half and three times the count. Four characters a token would be wrong by a factor of up to 16."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0] * 4)
    libraries = list(references().values())
    for kind, text in strings(1_500, seed=3):
        counts = [estimate(text), *(library(text) for library in libraries)]
        totals[kind] = [total + tokens for total, tokens in zip(totals[kind], counts, strict=True)]
    for kind, (guess, *exact) in totals.items():
        assert all(0.55 <= guess / tokens <= 3.5 for tokens in exact), kind
        assert 0.75 <= guess / sorted(exact)[1] <= 1.75, kind


def test_the_estimate_of_parts_adds_up() -> None:
    """So a chunk is within its size if the sum of its units is."""
    for _, text in strings(300, seed=4):
        for joint in JOINT.finditer(text):
            assert estimate(text) == estimate(text[: joint.start()]) + estimate(text[joint.start() :])


@pytest.mark.parametrize("name", [*OPENAI_ENCODINGS, WORDLLAMA])
@pytest.mark.parametrize("text", TEXTS)
def test_the_upper_bound_is_never_too_low(name: str, text: str) -> None:
    assert counter("estimate")(TEXTS[text]) >= counter(name)(TEXTS[text])


@pytest.mark.parametrize("encoding", OPENAI_ENCODINGS)
def test_a_lone_surrogate_is_counted(encoding: str) -> None:
    assert counter(encoding)("one \ud83d two") == counter(encoding)("one ? two")


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
def test_an_unknown_tokenizer_is_named_in_one_sentence(name: str) -> None:
    with pytest.raises(SettingsError, match=name.partition(":")[0]):
        counter(name)


def test_a_file_that_is_not_a_tokenizer_raises_one_sentence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(SettingsError, match=r"tokenizer\.json"):
        counter(str(path))
