"""Documents of one index in several languages: each is stemmed in its own, and a question is searched in all."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.fixtures.application import Application, HashBackend, faulty
from tests.fixtures.rebuilding import ChangingApplication
from worker import configuration
from worker.cli.doctor import _unknown_languages
from worker.errors import TooLarge
from worker.indexing import rebuilding
from worker.indexing.draining.drainer import Drainer
from worker.languages import named
from worker.observability import events
from worker.store import builds, connection, rarity

HOUSES = [
    {"id": "de", "text": "Die alten Häuser am Hafen werden verkauft.", "metadata": {"lang": "de"}},
    {"id": "en", "text": "The old houses at the harbour are being sold.", "metadata": {"lang": "en"}},
    {"id": "ja", "text": "港の古い家が売られています。", "metadata": {"lang": "ja"}},
    {"id": "none", "text": "Ships are being repaired here.", "metadata": {}},
    {"id": "odd", "text": "Bridges are being repaired there.", "metadata": {"lang": "klingon"}},
]


@pytest.fixture
def application(databases: Callable[[], str]) -> Iterator[ChangingApplication]:
    index = replace(configuration.load({}).index("default"), language_field="lang")
    backend = HashBackend()
    url = databases()
    yield ChangingApplication(
        Application(url, index, backend, Drainer(url, index.embedding_backend, backend))
    )
    connection.close_pools()


def beside(application: Application, **settings: Any) -> Application:
    """Another index of the same database."""
    index = replace(application.index, name="beside", **settings)
    drainer = Drainer(application.url, index.embedding_backend, application.backend)
    other = Application(application.url, index, application.backend, drainer)
    other.jobs = 1_000  # their task ids are those of the database
    return other


def test_languages_without_a_stemmer_have_statistics_of_their_own(application: Application) -> None:
    """Given a pair of characters that is common in Chinese texts, and rare in Japanese ones."""
    chinese = [
        {"id": f"zh{at}", "text": f"人口{at}很多的城市", "metadata": {"lang": "zh"}} for at in range(9)
    ]
    japanese = [
        {"id": "ja1", "text": "人口の統計", "metadata": {"lang": "ja"}},
        *({"id": f"ja{at}", "text": f"統計の本{at}", "metadata": {"lang": "ja"}} for at in range(2, 9)),
    ]
    application.put(*chinese, *japanese)
    assert by_words(application, "人口の統計", filter={"lang": "ja"})[0] == "ja1"
    with connection.checkout(application.url) as conn:
        build = builds.live(conn, application.index.name)
        assert build is not None
        weights = rarity.read_words(conn, build, "人口 統計").weights
    assert weights["'ja|人口'"] > weights["'ja|統計'"]
    assert "'zh|人口'" in weights


def by_words(application: Application, question: str, **options: Any) -> list[str]:
    return application.search(question, mode="text", **options)


def test_each_document_is_found_by_other_forms_of_its_words_in_its_language(application: Application) -> None:
    """German “Haus” and “verkaufen”, English “house” and “selling”, Japanese without spaces."""
    application.put(*HOUSES)
    assert by_words(application, "Verkauf eines Hauses?") == ["de"]
    assert by_words(application, "house repair") == ["en", "none", "odd"]
    assert by_words(application, "古い家") == ["ja"]
    assert by_words(application, "bridge") == ["odd"]  # of an unknown language: as the index
    without = beside(application, language_field=None)
    without.put(*HOUSES)
    assert by_words(without, "Verkauf eines Hauses?") == []


def test_a_filter_on_the_field_searches_that_language_alone(application: Application) -> None:
    """“war” is a stop word in German, and the past of a word that English does not index."""
    war = {"id": "war", "text": "The war ended.", "metadata": {"lang": "en"}}
    application.put(*HOUSES, war)
    assert by_words(application, "war", filter={"lang": "en"}) == ["war"]
    assert by_words(application, "war", filter={"lang": "de"}) == []
    assert by_words(application, "Häuser", filter={"lang": "german"}) == []
    assert by_words(application, "Haus", filter={"lang": "de"}) == ["de"]


def test_stop_words_of_the_question_do_not_raise_documents_of_other_languages(
    application: Application,
) -> None:
    """Given German documents that quote English stop words, which German keeps and finds rare."""
    quotes = [
        {"id": f"q{at}", "text": f"Er sagte: what is the {at}, und ging.", "metadata": {"lang": "de"}}
        for at in range(3)
    ]
    application.put(*HOUSES, *quotes)
    assert by_words(application, "what is the price of the old houses")[0] == "en"


def test_a_chunk_weighs_as_much_as_in_an_index_of_its_language_alone(application: Application) -> None:
    german = [
        {
            "id": str(at),
            "text": f"Haus {'am Hafen' if at % 2 else 'im Wald'} Nummer{at}",
            "metadata": {"lang": "de"},
        }
        for at in range(20)
    ]
    english = [
        {"id": f"e{at}", "text": f"A ship number{at}.", "metadata": {"lang": "en"}} for at in range(50)
    ]
    application.put(*german, *english)
    mixed = {
        row.document_id: row.score for row in application.passages("Häuser am Hafen", mode="text", limit=20)
    }
    german_alone = beside(application, language="german", language_field=None)
    german_alone.put(*german)
    alone = {
        row.document_id: row.score for row in german_alone.passages("Häuser am Hafen", mode="text", limit=20)
    }
    assert mixed == pytest.approx(alone)
    assert len(alone) == 20


def test_a_large_index_estimates_the_size_of_a_language(
    application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    trees = [
        {"id": str(n), "text": f"Baum nummer{n}", "metadata": {"lang": "de" if n % 3 else "en"}}
        for n in range(60)
    ]
    application.put(*trees)
    with connection.checkout(application.url) as conn:
        conn.execute("ANALYZE vector_index.chunks_1")
        build = builds.live(conn, application.index.name)
        assert build is not None
        assert build.languages == ["german"]
        counted = rarity.read_words(conn, build, "Bäume nummer7")
        monkeypatch.setattr(rarity, "EXACTLY_COUNTED", 50)
        estimated = rarity.read_words(conn, build, "Bäume nummer7")
    assert "'de|baum'" in counted.weights
    assert dict(estimated.weights) == pytest.approx(dict(counted.weights), rel=0.01)


def test_a_changed_language_is_searched_from_then_on(application: Application) -> None:
    application.put(HOUSES[0] | {"metadata": {"lang": "en"}})
    assert by_words(application, "Haus") == []
    application.put(HOUSES[0])
    assert by_words(application, "Haus") == ["de"]


def test_a_field_that_is_named_later_costs_no_request(application: ChangingApplication) -> None:
    named = application.index
    application.index = replace(named, language_field=None)
    application.put(*HOUSES)
    requests = len(application.backend.requests)
    assert by_words(application, "Haus") == []
    application.index = named
    assert by_words(application, "Haus") == []
    with connection.checkout(application.url) as conn:
        live = builds.live(conn, named.name)
        assert live is not None
    assert [str(each) for each in rebuilding.differences(application.target, live)] == [
        "LANGUAGE_FIELD is None in the index and 'lang' in the settings"
    ]
    application.finish(application.begin())
    assert by_words(application, "Haus") == ["de"]
    assert len(application.backend.requests) == requests


def test_pieces_of_a_text_that_is_too_large_keep_its_language(application: Application) -> None:
    """Given a provider that takes inputs of ten words, and chunks of twenty."""
    faulty(
        application.backend,
        lambda texts: TooLarge("too long") if max(len(t.split()) for t in texts) > 10 else None,
    )
    long = (
        "Häuser am Hafen werden bald verkauft. Schiffe im Hafen werden bald repariert. "
        "Brücken am Fluss werden bald gebaut."
    )
    application.put({"id": "long", "text": long, "metadata": {"lang": "de"}})
    assert len(application.rows("SELECT FROM vector_index.chunks_1")) > 1
    assert (
        by_words(application, "Haus")
        == by_words(application, "Schiff")
        == by_words(application, "Brücke")
        == ["long"]
    )


def test_an_unknown_language_is_logged_once_and_shown_by_doctor(
    application: Application, caplog: pytest.LogCaptureFixture
) -> None:
    events.unknown_language.cache_clear()
    with caplog.at_level(logging.WARNING, "vector_index.events"):
        application.put(HOUSES[4])
        application.put(HOUSES[4] | {"id": "other"})
    assert [record.getMessage() for record in caplog.records].count("unknown_language") == 1
    assert "klingon" not in caplog.text
    with connection.checkout(application.url) as conn:
        [said] = _unknown_languages(conn, [application.index.name])
    assert said == (
        "2 documents of default name an unknown language in 'lang' ('klingon') and have LANGUAGE 'english': use codes "
        "such as 'de'"
    )


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("de", "german"), ("DE", "german"), ("de-AT", "german"), ("pt_BR", "portuguese"), ("german", "german"),
        ("public.mine", "public.mine"), ("ja", "ja"), ("zh-Hans", "zh"), ("ta", "simple"), ("deutsch", None),
        ("", None), ("xx", None),
    ],
)  # fmt: skip
def test_codes_and_names_are_languages(value: str, name: str | None) -> None:
    """A code without a stemmer is a language of its own; one whose stemmer the server lacks is `simple`."""
    assert named(value, {"german", "portuguese", "simple", "public.mine"}) == name
