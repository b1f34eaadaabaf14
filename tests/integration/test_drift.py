"""Differences between an index and the settings are told, with the command that applies them; searches go on."""

from dataclasses import replace

import pytest

from tests.fixtures.application import Application, HashBackend
from tests.fixtures.rebuilding import ChangingApplication
from worker.errors import SettingsError
from worker.indexing import drift
from worker.indexing.draining.other_builds import OtherBuilds
from worker.store import builds, connection, status


@pytest.fixture
def shop(application: Application) -> ChangingApplication:
    shop = ChangingApplication(application)
    shop.put({"id": "7", "text": "Book number 7 tells of the year 1907."})
    return shop


def told(shop: ChangingApplication) -> list[str]:
    with connection.checkout(shop.url) as conn:
        return builds.drift(conn, ["default"]).get("default", [])


def test_an_index_that_fits_the_settings_has_no_drift(shop: ChangingApplication) -> None:
    assert drift.note(shop.target) is None
    assert told(shop) == []


@pytest.mark.parametrize(
    ("settings", "difference"),
    [
        ({"chunk_tokens": 60}, "CHUNK_TOKENS is 20 in the index and 60 in the settings"),
        ({"chunk_overlap_tokens": 5}, "CHUNK_OVERLAP_TOKENS is 0 in the index and 5 in the settings"),
        ({"distance": "l2"}, "DISTANCE is 'cosine' in the index and 'l2' in the settings"),
        ({"language": "german"}, "LANGUAGE is 'english' in the index and 'german' in the settings"),
        ({"vector_type": "halfvec"}, "VECTOR_TYPE is 'vector' in the index and 'halfvec' in the settings"),
    ],
)
def test_each_setting_that_an_index_keeps_is_named(
    shop: ChangingApplication, settings: dict[str, object], difference: str
) -> None:
    shop.change(**settings)
    sentence = drift.note(shop.target)
    assert sentence == (
        f"index 'default' differs from the settings: {difference}; searches go on with the index as it is, and "
        "`vector-index rebuild --index default` applies the settings"
    )
    assert told(shop) == [difference]
    with connection.checkout(shop.url) as conn:
        [build] = status.index_status(conn, builds.live(conn, "default"))["builds"]
    assert build["drift"] == [difference]
    shop.rebuild()
    assert drift.note(shop.target) is None


@pytest.mark.parametrize(
    ("changed", "setting"),
    [
        ({"model_id": "hash-2"}, "MODEL_ID"),
        ({"dimensions": 24}, "EMBEDDING_OUTPUT_DIMENSIONS"),
        ({"tokenizer": "letters"}, "TOKENIZER"),
        ({"token_limit": 150}, "TOKEN_LIMIT"),
        ({"document_prefix": "passage: "}, "DOCUMENT_PREFIX"),
        ({"query_prefix": "query: "}, "QUERY_PREFIX"),
    ],
)
def test_each_setting_of_the_backend_that_an_index_keeps_is_named(
    shop: ChangingApplication, changed: dict[str, object], setting: str
) -> None:
    shop.change(replace(HashBackend(), **changed))  # type: ignore[arg-type]
    sentence = drift.note(shop.target)
    assert sentence is not None
    assert f"{setting} is " in sentence
    assert shop.search("year 1907") == ["7"]


def test_new_documents_are_embedded_under_the_old_model_until_the_switch(shop: ChangingApplication) -> None:
    """The settings name the new model, and no drainer of theirs serves the build that searches read."""
    old = shop.drainers.pop()
    shop.change(HashBackend(dimensions=24))
    task_id = shop.stage({"id": "8", "text": "Squid."})
    shop.drain()
    assert shop.result(task_id) is None
    others = OtherBuilds(shop.url, {"default": shop.backend}, lambda build: shop.target.embedder(build))
    others.look()
    try:
        [drainer] = others.drainers.values()
        assert drainer.provider.backend is old.provider.backend
        while shop.result(task_id) is None:
            pass
        assert shop.search("squid")[0] == "8"
        build = shop.begin()
        shop.finish(build)
        others.look()
        assert not others.drainers  # nobody needs the old model any more
    finally:
        others.stop(10)


def test_a_build_whose_backend_is_gone_says_so_in_status(shop: ChangingApplication) -> None:
    shop.stage({"id": "8", "text": "Squid."})
    shop.change(HashBackend(dimensions=24))

    def gone(build: builds.Build) -> None:
        raise SettingsError(f"keep the entry of build {build.build}")

    OtherBuilds(shop.url, {"default": shop.backend}, gone).look()  # type: ignore[arg-type]
    with connection.checkout(shop.url) as conn:
        said = status.index_status(conn, builds.live(conn, "default"))["last_error"]
    assert said == "keep the entry of build 1"
