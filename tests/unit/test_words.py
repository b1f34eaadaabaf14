"""Words are spelled alike in the index and in a question, whatever marks and forms a text is written in."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.spellings import SPELLINGS
from worker.words import (
    _IGNORABLE,
    _JOINERS,
    index_words,
    is_single,
    question_words,
    spell,
    tokens,
    visible,
)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_a_text_has_the_words_of_a_question_about_it(spelling: tuple[str, str]) -> None:
    written, asked = (form.format(key="owl", Key="Owl", number="0042") for form in spelling)
    assert set(question_words(asked).split()) & set(
        " ".join(index_words(f"There is {written} here.")).split()
    )


@pytest.mark.parametrize(
    ("token", "words"),
    {
        "INV-2024-0042": "inv2024x0042 / inv 2024 0042",
        "snake_case": "snakecase / snake case",
        "camelCase": "camelcase / camel case",
        "parseHTTPResponse2": "parsehttpresponse2 / parse http response 2",
        "größeÄndern": "grösseändern / grösse ändern",
        "v2.3.1": "v2x3x1 2x3x1 / v 2 3 1",
        "store/search.py": "searchpy storesearchpy / store search py",
        "jo.owl@example.org": "joowl exampleorg joowlexampleorg / jo owl example org",
        "C++": "cplusplus / c",
        "C#": "csharp / c",
        "a+b": "ab / a b",
        "e-mail": "email / e mail",
        "owl's": "owl",
        "O’Brien": "obrien / o brien",
        "NASA": "nasa",
        '<td class="x">caf&eacute; &amp; bar<br/></td>': "café bar",
        "List<String>": "list string",
        "word.": "word",
    }.items(),
)
def test_an_identifier_is_a_word_and_has_parts(token: str, words: str) -> None:
    assert " / ".join(filter(None, index_words(token))) == words


def test_a_long_key_of_letters_and_digits_is_one_word() -> None:
    key = "3f2a9c88e7d6b5a4c3d2e1f0"
    assert index_words(key) == (key, "")


@pytest.mark.parametrize(
    ("text", "words"),
    {
        "搜索含义": "搜索 索含 含义 义",
        "カタカナ": "カタ タカ カナ ナ",
        "ｶﾀｶﾅ": "カタ タカ カナ ナ",
        "ที่นี่": "ที่นี่ นี่",
        "ຂໍ້": "ຂໍ້",
        "មាន\u200bទឹក": "មាន នទឹ ទឹក ក",
        "မြန်မာ": "မြန် န်မာ မာ",
        "Python是语言": "python 是语 语言 言",
    }.items(),
)
def test_scripts_without_spaces_have_pairs_of_characters_with_their_marks(text: str, words: str) -> None:
    assert index_words(text) == (words, "")


def test_one_character_is_asked_for_as_the_start_of_a_pair() -> None:
    assert [is_single(word) for word in ("水", "ที่", "水の", "a", "é")] == [True, True, False, False, False]
    assert question_words("水 水道") == "水 水道"


@pytest.mark.parametrize(
    ("text", "seen"),
    {
        "so\u00adft, \ufeffa\u200b word": "soft, a word",
        "ﬁne ｗｉｄｅ 𝒐𝒘𝒍": "fine wide owl",
        "10² H₂O ½": "10² H₂O ½",  # 10² is not 102
        "می\u200cخواهم": "می\u200cخواهم",
        "👩\u200d💻 ❤\ufe0f": "👩\u200d💻 ❤\ufe0f",
        "cafe\u0301": "café",
        "“owl” — it’s": "“owl” — it’s",
    }.items(),
)
def test_a_model_gets_what_a_reader_sees(text: str, seen: str) -> None:
    assert visible(text) == seen


@given(st.text(max_size=60))
def test_invisible_characters_make_no_difference(text: str) -> None:
    plain = "".join(character for character in text if ord(character) not in _IGNORABLE)
    written = "\u00ad".join(plain)
    assert index_words(written) == index_words(plain)
    assert visible(visible(text)) == visible(text)
    assert not any(ord(character) in _IGNORABLE - _JOINERS for character in visible(text))


@given(st.text(max_size=60))
def test_composed_and_decomposed_texts_have_the_same_words(text: str) -> None:
    for form in ("NFC", "NFD"):
        assert index_words(unicodedata.normalize(form, text)) == index_words(text)  # type: ignore[arg-type]


@given(st.text(max_size=200))
def test_words_are_spelled_once(text: str) -> None:
    """A question that repeats the words of a chunk finds it."""
    words = set(" ".join(index_words(text)).split())
    assert set(question_words(text).split()) <= words


@given(st.text(max_size=200))
def test_the_words_of_a_text_are_those_of_its_tokens(text: str) -> None:
    spelled = [spell(token) for token in tokens(text)]
    for kind, words in enumerate(index_words(text)):
        assert [word for each in spelled for word in each[kind].split()] == words.split()
