"""Words on real Postgres: found in every spelling, in scripts without spaces, and in indexes of an older release."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fixtures.application import Application, HashBackend
from tests.fixtures.services import fresh_database
from tests.fixtures.spellings import SPELLINGS
from worker import configuration
from worker.cli.doctor import check_words
from worker.errors import SettingsError
from worker.indexing import staging
from worker.indexing.draining.drainer import Drainer
from worker.store import builds, connection, schema, spelling
from worker.words import SPELLING, index_words

KEYS = [
    *(
        "badger",
        "beetle",
        "cormorant",
        "dormouse",
        "egret",
        "falcon",
        "ferret",
        "gannet",
        "hedgehog",
        "heron",
        "lynx",
    ),
    *(
        "marmot",
        "otter",
        "owl",
        "pelican",
        "raven",
        "salamander",
        "stoat",
        "thrush",
        "viper",
        "weasel",
        "wren",
        "yak",
    ),
    "zebra",
]
TEXT = "The keeper wrote that day: {} near the lake, and nothing else of interest happened."

UNSPACED = {
    "chinese": ["图书馆在河的北边。", "医院的急诊室在一楼。", "火车站旁边有一家书店。"],
    "japanese": ["図書館は川の北側にあります。", "病院の救急は一階です。", "駅の隣に本屋があります。"],
    "thai": ["ห้องสมุดอยู่ทางเหนือของแม่น้ำ", "ห้องฉุกเฉินอยู่ชั้นหนึ่ง", "ร้านหนังสืออยู่ข้างสถานีรถไฟ"],
    "lao": ["ຫໍສະໝຸດຢູ່ທາງເໜືອຂອງແມ່ນ້ຳ", "ຫ້ອງສຸກເສີນຢູ່ຊັ້ນໜຶ່ງ", "ຮ້ານຂາຍປຶ້ມຢູ່ຂ້າງສະຖານີລົດໄຟ"],
    "burmese": ["စာကြည့်တိုက်သည်မြစ်မြောက်ဘက်တွင်ရှိသည်။", "အရေးပေါ်ခန်းသည်ပထမထပ်တွင်ရှိသည်။", "ဘူတာရုံဘေးတွင်စာအုပ်ဆိုင်ရှိသည်။"],
    "khmer": ["បណ្ណាល័យនៅខាងជើងទន្លេ", "បន្ទប់សង្គ្រោះបន្ទាន់នៅជាន់ទីមួយ", "ហាងលក់សៀវភៅនៅក្បែរស្ថានីយ៍រថភ្លើង"],
}  # fmt: skip
QUESTIONS = {
    "chinese": ["图书馆在哪里？", "急诊室在几楼？", "哪里有书店？"],
    "japanese": ["図書館はどこですか", "救急はどこですか", "本屋がありますか"],
    "thai": ["ห้องสมุดอยู่ที่ไหน", "ห้องฉุกเฉินอยู่ที่ไหน", "ร้านหนังสืออยู่ที่ไหน"],
    "lao": ["ຫໍສະໝຸດຢູ່ໃສ", "ຫ້ອງສຸກເສີນຢູ່ໃສ", "ຮ້ານຂາຍປຶ້ມຢູ່ໃສ"],
    "burmese": ["စာကြည့်တိုက်ဘယ်မှာလဲ", "အရေးပေါ်ခန်းဘယ်မှာလဲ", "စာအုပ်ဆိုင်ဘယ်မှာလဲ"],
    "khmer": ["បណ្ណាល័យនៅឯណា", "បន្ទប់សង្គ្រោះបន្ទាន់នៅឯណា", "ហាងលក់សៀវភៅនៅឯណា"],
}


@pytest.fixture(scope="module")
def shared(services: Any, administrator: Any, template: str) -> Iterator[Application]:
    """One database for all tests that only add an index."""
    index = configuration.load({}).index("default")
    backend = HashBackend(dimensions=128, chunk_tokens=100)
    with fresh_database(services, administrator, template) as url:
        yield Application(url, index, backend, Drainer(url, index.embedding_backend, backend))
        connection.close_pools()


def fill(application: Application, *documents: Any) -> Application:
    """Replace everything in the index by these documents."""
    staging.delete_matching(application.target, f"clear-{uuid4()}", {}, None, everything=True)
    application.put(*documents)
    return application


# the others differ in Python alone: tests/unit/test_words.py
AT_ONCE = {
    "curly quotes",
    "soft hyphen",
    "ligature",
    "part of a number",
    "part of camel case",
    "decomposed accent",
}
EACH = [pytest.param(name, marks=[] if name in AT_ONCE else pytest.mark.slow) for name in SPELLINGS]


@pytest.mark.parametrize("spelled", EACH)
def test_a_document_is_found_however_its_word_is_written(shared: Application, spelled: str) -> None:
    forms = [
        [form.format(key=key, Key=key.title(), number=f"{42 + at:04}") for form in SPELLINGS[spelled]]
        for at, key in enumerate(KEYS)
    ]
    written = [{"id": key, "text": TEXT.format(form)} for key, (form, _) in zip(KEYS, forms, strict=True)]
    application = fill(shared, *written)
    for mode in ("text", "hybrid"):
        asked = [application.search(f"where was {form}?", mode=mode, limit=1) for _, form in forms]
        assert asked == [[key] for key in KEYS]


@pytest.mark.parametrize("language", UNSPACED)
def test_words_are_found_in_scripts_without_spaces(shared: Application, language: str) -> None:
    documents = [{"id": at, "text": f"{text}{KEYS[at]}"} for at, text in enumerate(UNSPACED[language])]
    application = fill(shared, *documents)
    for at, question in enumerate(QUESTIONS[language]):
        best = application.passages(question, mode="text")[0]
        assert best.document_id == str(at)
        hybrid = next(row for row in application.passages(question) if row.document_id == str(at))
        assert hybrid.similarity is not None
        assert hybrid.score == pytest.approx((hybrid.similarity + best.score) / 2)
        # a Latin word is found, whatever script is beside it
        other = QUESTIONS[language][(at + 1) % 3]
        assert str(at) in application.search(f"{other[0]}{KEYS[at]}", mode="text")


def test_a_single_character_finds_the_words_that_have_it(shared: Application) -> None:
    application = fill(
        shared,
        "single",
        {"id": 1, "text": "河水很清"},
        {"id": 2, "text": "水道の水"},
        {"id": 3, "text": "火山"},
    )
    assert sorted(application.search("水", mode="text")) == ["1", "2"]


def test_a_passage_quotes_the_stored_text(shared: Application) -> None:
    text = "The \ufeffquick bro\u00adwn ﬁsh — it’s Ｗｉｄｅ."
    application = fill(shared, {"id": 1, "text": text})
    [found] = application.passages("brown fish", limit=1)
    assert (found.text, found.start, found.end) == (text, 0, len(text))
    assert application.backend.requests[-2] == ["The quick brown fish — it’s Wide."]
    assert application.search("ﬁsh", limit=1) == ["1"]
    assert application.backend.requests[-1] == ["fish"]


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
@example("\U00010d50")  # a letter of Unicode 16, which Python 3.13 does not know
def test_postgres_takes_each_word_as_it_is(shared: Application, text: str) -> None:
    """Whatever its locale, so how the server parts words makes no difference. It lowers letters new in Unicode."""
    words = index_words(text)
    with connection.checkout(shared.url) as conn:
        for kind in words:
            asked = "SELECT tsvector_to_array(to_tsvector('simple', %(words)s)), lower(%(words)s)"
            [(found, lowered)] = conn.execute(asked, {"words": kind})
            # Cherokee alone folds to capitals, which Postgres lowers
            assert {word.casefold() for word in found} == set(lowered.casefold().split())


def by_words(application: Application, question: str) -> dict[str, float]:
    """The relevance of each document that is found by words."""
    return {found.document_id: found.score for found in application.passages(question, limit=10, mode="text")}


def test_a_word_says_more_than_a_part_of_an_identifier(application: Application) -> None:
    """A text about StopIteration is less about stopping than one that stops."""
    application.put(
        {"id": "part", "text": "The loop raises StopIteration in the end."},
        {"id": "word", "text": "The loop has to stop in the end."},
        {"id": "path", "text": "The loop is in src/stop/main.c of the library."},
        *({"id": f"other{at}", "text": f"Another text about number {at}."} for at in range(9)),
    )
    found = by_words(application, "stop")
    assert next(iter(found)) == "word"
    assert found.keys() == {"word", "part", "path"}
    assert next(iter(by_words(application, "StopIteration"))) == "part"


def test_parts_of_identifiers_make_no_text_longer(application: Application) -> None:
    """A long text says less about each of its words, but a reader counts an identifier once."""
    application.put(
        {"id": "plain", "text": "An owl calls alpha beta gamma at night."},
        {"id": "parted", "text": "An owl calls alphaOne betaTwo gammaThree at night."},
        {"id": "longer", "text": "An owl calls alpha one beta two gamma three at night."},
    )
    found = by_words(application, "owl")
    assert found["plain"] == found["parted"] > found["longer"]


def test_an_older_index_gets_the_new_words_while_it_is_searched(application: Application) -> None:
    application.put(
        *({"id": key, "text": TEXT.format(f"“{key}”")} for key in KEYS), {"id": "n", "text": "搜索含义"}
    )
    older = (
        "UPDATE vector_index.chunks_1 SET lexemes = to_tsvector('english', heading || ' ' || replace(text, '“', '§'))",
        "ALTER TABLE vector_index.builds DROP COLUMN spelling, DROP COLUMN spelled_rev, DROP COLUMN spelled_ordinal",
        "DELETE FROM vector_index.migrations WHERE version = 18",
    )
    with connection.checkout(application.url) as conn:
        for statement in older:
            conn.execute(statement.encode())
        conn.execute(
            "ALTER TABLE vector_index.chunks_1 ALTER lexemes DROP NOT NULL, ALTER lexemes SET NOT NULL"
        )
    schema.install(application.url)
    assert application.search("keeper", mode="text", limit=1)  # old words are found meanwhile
    assert application.search("含义", mode="text") == []
    with connection.checkout(application.url) as conn, pytest.MonkeyPatch.context() as patch:
        patch.setattr(spelling, "CHUNKS_AT_ONCE", 10)
        build = builds.live(conn, "default")
        assert build is not None
        assert spelling.spell_again(conn, build, seconds=0) == 0
        assert spelling.spell_again(conn, build) == len(KEYS) + 1
        assert spelling.spell_again(conn, build) == 0
    assert application.rows("SELECT spelling FROM vector_index.builds") == [(SPELLING,)]
    assert application.search("含义", mode="text") == ["n"]
    assert all(application.search(key, mode="text", limit=1) == [key] for key in KEYS)


def test_new_chunks_are_not_spelled_again(application: Application) -> None:
    application.put({"id": 1, "text": "words"})
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, "default")
        assert build is not None
        assert spelling.spell_again(conn, build) == 0


def test_doctor_names_the_words_that_a_text_search_configuration_drops(url: str) -> None:
    with connection.checkout(url) as conn:
        assert check_words(conn, {"english", "german"}) == "kept whole by english, german"
        conn.execute("CREATE TEXT SEARCH CONFIGURATION public.ours (COPY = english)")
        conn.execute("ALTER TEXT SEARCH CONFIGURATION public.ours DROP MAPPING FOR numword, uint")
        with pytest.raises(SettingsError, match=r"the words 0042, zx42, .*: set LANGUAGE to"):
            check_words(conn, {"public.ours"})
