"""Settings: which layer wins, and one sentence for every mistake."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import settings
from worker.configuration import HNSWSettings, IndexSettings, load
from worker.errors import SettingsError, UnknownIndex

PROJECT = Path(settings.__file__).parent


def given(tmp_path: Path, text: str, **environ: str) -> dict[str, str]:
    """Return an environment that names an override file with this text."""
    path = tmp_path / "override.py"
    path.write_text(text)
    return {"VECTOR_INDEX_SETTINGS": str(path), **environ}


def vector_index(**sections: Any) -> dict[str, str]:
    return {"VECTOR_INDEX": json.dumps(sections)}


def embedding(**config: Any) -> dict[str, str]:
    return vector_index(EMBEDDING_BACKENDS={"default": {"CONFIG": config}})


def index(**entry: Any) -> dict[str, str]:
    return vector_index(INDEXES={"default": entry})


def scheduled(schedule: object) -> dict[str, str]:
    source = {"CLASS": "worker.sources.files.FolderSource", "CONFIG": {"PATHS": ["/srv"]}}
    entry = {"SOURCE": "files", "SCHEDULE": schedule}
    return vector_index(INDEXES={"default": entry}, SOURCES={"files": source})


def sentence(environ: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load(environ)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Layers


def test_shipped_defaults_use_embedded_services_and_offline_models() -> None:
    configuration = load({})
    default = configuration.index("default")
    assert (configuration.database_url, configuration.broker_url, configuration.result_backend) == (
        "",
        "",
        "",
    )
    assert (default.embedding_backend.model_id, default.chat_backend.model_id) == ("wordllama", "extractive")
    assert default.embedding_backend.class_path == "worker.backends.llm.LLMEmbeddingBackend"
    assert configuration.max_document_bytes == 10_000_000
    assert configuration.metrics_port is None
    assert configuration.home.is_absolute()
    assert configuration.notices == ()


def test_environment_wins_over_file_which_wins_over_default(tmp_path: Path) -> None:
    environ = given(tmp_path, "MAX_DOCUMENT_BYTES = 5\nTIMEZONE = 'Europe/Berlin'\nDEBUG = object()\n")
    assert load(environ).timezone == "Europe/Berlin"
    assert load(environ).max_document_bytes == 5
    assert load({**environ, "MAX_DOCUMENT_BYTES": "7"}).max_document_bytes == 7


def test_none_counts_as_absent(tmp_path: Path) -> None:
    text = "TIMEZONE = None\nVECTOR_INDEX = {'INDEXES': None, 'SOURCES': None}\n"
    configuration = load(given(tmp_path, text))
    assert configuration.timezone == "UTC"
    assert list(configuration.indexes) == ["default"]
    assert load(embedding(MODEL_ID="x", TOKEN_LIMIT=None)).embedding_backends["default"].token_limit is None


def test_empty_variables_count_as_absent_and_empty_addresses_as_the_embedded_services(tmp_path: Path) -> None:
    environ = given(
        tmp_path, "BROKER_URL = 'redis://h/0'\n", BROKER_URL="", METRICS_PORT="", EMBEDDING_MODEL=""
    )
    configuration = load(environ)
    assert configuration.broker_url == ""
    assert configuration.metrics_port is None


def test_results_go_to_the_broker_by_default() -> None:
    environ = {"BROKER_URL": "redis://a:1/0"}
    assert load(environ).result_backend == "redis://a:1/0"
    assert load({**environ, "RESULT_BACKEND": "redis://b:2/0"}).result_backend == "redis://b:2/0"


def test_celery_broker_url_is_read_as_broker_url() -> None:
    assert load({"CELERY_BROKER_URL": "redis://a:1/0"}).broker_url == "redis://a:1/0"
    assert load({"CELERY_RESULT_BACKEND": "redis://b:1/0"}).result_backend == "redis://b:1/0"
    message = sentence({"CELERY_BROKER_URL": "redis://:geheim@a/0", "BROKER_URL": "redis://:geheim@b/0"})
    assert "BROKER_URL is 'redis://***@b/0' and CELERY_BROKER_URL is 'redis://***@a/0'" in message


def test_address_of_another_broker_is_left_to_the_application(tmp_path: Path) -> None:
    """A shared environment, or a Django settings module, may name a RabbitMQ and a database for results."""
    theirs = {"CELERY_BROKER_URL": "amqp://u:geheim@mq//", "CELERY_RESULT_BACKEND": "rpc://"}
    ours = load({**theirs, "BROKER_URL": "redis://a:1/0"})
    assert (ours.broker_url, ours.result_backend) == ("redis://a:1/0", "redis://a:1/0")
    assert "CELERY_BROKER_URL is 'amqp://***@mq//', which is no address of a Redis" in ours.notices[0]
    text = "CELERY_BROKER_URL = ['amqp://mq//', 'amqp://mq2//']\nCELERY_RESULT_BACKEND = 'django-db'\n"
    embedded = load(given(tmp_path, text))
    assert (embedded.broker_url, embedded.result_backend, len(embedded.notices)) == ("", "", 2)


def test_result_backend_of_a_django_settings_module_is_read(tmp_path: Path) -> None:
    text = "CELERY_BROKER_URL = 'redis://a:1/0'\nCELERY_RESULT_BACKEND = 'redis://a:1/1'\n"
    configuration = load(given(tmp_path, text))
    assert (configuration.broker_url, configuration.result_backend) == ("redis://a:1/0", "redis://a:1/1")


@pytest.mark.parametrize("line", ["from .base import *", "from shop.base import *"])
def test_settings_file_inside_a_package_is_told_its_dotted_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "shop").mkdir()
    path = tmp_path / "shop/production.py"
    path.write_text(line)
    message = sentence({"VECTOR_INDEX_SETTINGS": str(path)})
    assert f"set VECTOR_INDEX_SETTINGS to 'shop.production' and start the workers in {tmp_path}" in message


def test_settings_file_changes_neither_the_import_path_nor_our_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folders stay importable, after ours."""
    (tmp_path / "apps").mkdir()
    (tmp_path / "apps/tasks.py").write_text("")
    before = list(sys.path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
        monkeypatch.delitem(sys.modules, name)
    try:
        folder = str(tmp_path / "apps")
        load(given(tmp_path, f"import sys\nsys.path.insert(0, {folder!r})\nimport tasks\n"))
        assert sys.path[: len(before)] == before
        assert sys.path[-1] == folder
        assert "tasks" not in sys.modules
    finally:
        sys.path[:] = before


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("redis://h", "redis://h"),
        ("redis://:p@h:6379/", "redis://:p@h:6379"),
        ("redis://h/0?db=3", "redis://h/3"),
        ("redis://h/0?virtual_host=3", "redis://h/3"),
        ("redis+socket:///run/redis.sock?db=3", "redis+socket:///run/redis.sock?virtual_host=3"),
        ("redis+socket:///run/redis.sock", "redis+socket:///run/redis.sock"),
        ("rediss://h/1", "rediss://h/1?ssl_cert_reqs=required"),
        ("rediss://h/1?ssl_cert_reqs=CERT_OPTIONAL", "rediss://h/1?ssl_cert_reqs=optional"),
        ("rediss://h/1?ssl_cert_reqs=cert_none", "rediss://h/1?ssl_cert_reqs=none"),
        ("rediss://h/1?ssl_check_hostname=True", "rediss://h/1?ssl_cert_reqs=required"),
        (
            "rediss://h/1?ssl_check_hostname=False",
            "rediss://h/1?ssl_cert_reqs=required&ssl_check_hostname=false",
        ),
    ],
)
def test_addresses_of_the_broker_have_one_form_that_all_libraries_read_alike(given: str, read: str) -> None:
    assert load({"BROKER_URL": given}).broker_url == read
    assert load({"BROKER_URL": read}).broker_url == read


def test_shorthands_set_the_models_of_the_default_backends() -> None:
    default = load({"EMBEDDING_MODEL": "3-small", "CHAT_MODEL": "gpt-4o-mini"}).index("default")
    assert (default.embedding_backend.model_id, default.chat_backend.model_id) == ("3-small", "gpt-4o-mini")


def test_a_shorthand_in_the_environment_wins_over_a_model_of_the_file(tmp_path: Path) -> None:
    config = "{'MODEL_ID': 'ada-002', 'BATCH_SIZE': 7}"
    text = f"VECTOR_INDEX = {{'EMBEDDING_BACKENDS': {{'default': {{'CONFIG': {config}}}}}}}\n"
    backend = load(given(tmp_path, text, EMBEDDING_MODEL="3-small")).embedding_backends["default"]
    assert (backend.model_id, backend.batch_size) == ("3-small", 7)


def test_shorthand_and_model_id_in_one_layer_conflict() -> None:
    message = sentence({"EMBEDDING_MODEL": "3-small", **embedding(MODEL_ID="ada-002")})
    assert "'3-small'" in message
    assert "'ada-002'; set only one of them" in message


def test_a_shorthand_needs_a_backend_named_default() -> None:
    environ = vector_index(EMBEDDING_BACKENDS={"mine": {}}, INDEXES={})
    assert "no backend 'default'" in sentence({"EMBEDDING_MODEL": "3-small", **environ})


def test_config_without_model_id_gets_the_default_of_wagtail_vector_index() -> None:
    configuration = load(vector_index(EMBEDDING_BACKENDS={"default": {}}, CHAT_BACKENDS={"default": {}}))
    default = configuration.index("default")
    assert (default.embedding_backend.model_id, default.chat_backend.model_id) == ("ada-002", "gpt-3.5-turbo")


def test_every_key_reaches_its_object() -> None:
    config = {
        "MODEL_ID": "m",
        "INIT_KWARGS": {"key": "k"},
        "TOKEN_LIMIT": 512,
        "BATCH_TOKEN_LIMIT": 1024,
        "BATCH_SIZE": 3,
        "EMBEDDING_OUTPUT_DIMENSIONS": 64,
        "TOKENIZER": "cl100k",
        "DOCUMENT_PREFIX": "passage: ",
        "QUERY_PREFIX": "query: ",
        "CONCURRENCY": 2,
        "REQUESTS_PER_MINUTE": 60,
        "TOKENS_PER_MINUTE": 1000,
        "TIMEOUT_SECONDS": 2.5,
    }
    chat = {
        "MODEL_ID": "c",
        "PROMPT_KWARGS": {"temperature": 0},
        "TOKEN_LIMIT": 4096,
        "FOLLOW_UP": "rewrite",
    }
    entry = {
        "EMBEDDING_BACKEND": "e",
        "CHAT_BACKEND": "c",
        "CHUNK_TOKENS": 200,
        "CHUNK_OVERLAP_TOKENS": 20,
        "DISTANCE": "l2",
        "LANGUAGE": "german",
        "VECTOR_TYPE": "halfvec",
        "HNSW": {"m": 24, "ef_construction": 128, "ef_search": 200, "quantisation": "binary"},
        "TENANT_FIELD": "site",
        "SOURCE": "files",
        "SCHEDULE": "30 3 * * mon-fri",
        "QUERY_PROMPT": "Answer.",
        "ANSWER_PROMPT": "{passages} {question} {'a': 1}",
        "CITATIONS": False,
        "CONTEXT": {"neighbours": 2},
    }
    found = load(
        vector_index(
            EMBEDDING_BACKENDS={"e": {"CLASS": "myapp.search.Backend", "CONFIG": config}},
            CHAT_BACKENDS={"c": {"CONFIG": chat}},
            INDEXES={"pages": entry},
            SOURCES={"files": {"CLASS": "worker.sources.files.Files", "CONFIG": {"PATH": "/srv"}}},
        )
    ).index("pages")
    backend = found.embedding_backend
    assert backend.class_path == "myapp.search.Backend"
    assert (backend.dimensions, backend.timeout_seconds, backend.concurrency) == (64, 2.5, 2)
    assert backend.init_kwargs == {"key": "k"}
    assert found.chat_backend.prompt_kwargs == {"temperature": 0}
    assert (found.distance, found.language, found.tenant_field) == ("l2", "german", "site")
    assert found.vector_type == "halfvec"
    assert found.hnsw == HNSWSettings(m=24, ef_construction=128, ef_search=200, quantisation="binary")
    assert (found.chat_backend.follow_up, found.citations, found.context) == ("rewrite", False, 2)
    assert found.answer_prompt == "{passages} {question} {'a': 1}"
    assert found.source is not None
    assert found.source.config == {"PATH": "/srv"}


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        (
            {"ANSWER_PROMPT": "Answer {question}"},
            "ANSWER_PROMPT of index 'default' is 'Answer {question}'; it has {passages} 0 times; write it once, where "
            "its text belongs",
        ),
        ({"ANSWER_PROMPT": "{passages}{question}{question}"}, "it has {question} 2 times; write it once"),
        ({"ANSWER_PROMPT": "{passages}{question}{context}"}, "it has {context}, which is filled by nothing"),
        (
            {"ANSWER_PROMPT": 3},
            "ANSWER_PROMPT of index 'default' is 3; set it to text with {passages} and {question}",
        ),
        ({"CITATIONS": "no"}, "CITATIONS of index 'default' is 'no'; set it to True or False"),
        ({"CONTEXT": {"neighbours": 11}}, "set it to {'neighbours': n} with n from 1 to 10, or to 'section'"),
        ({"CONTEXT": {"neighbours": True}}, "set it to {'neighbours': n}"),
        ({"CONTEXT": "page"}, "CONTEXT of index 'default' is 'page'; set it to {'neighbours': n}"),
    ],
)
def test_a_mistake_in_the_prompt_of_an_index_is_named(entry: dict[str, Any], told: str) -> None:
    assert told in sentence(index(**entry))


def test_a_vector_index_may_be_turned_off() -> None:
    assert load(vector_index(INDEXES={"default": {"HNSW": False}})).index("default").hnsw is None
    assert load(vector_index(INDEXES={"default": {"HNSW": None}})).index("default").hnsw == HNSWSettings()


def test_an_unknown_index_names_the_nearest() -> None:
    with pytest.raises(UnknownIndex, match="there is no index 'defualt': did you mean 'default'"):
        load({}).index("defualt")


@pytest.mark.parametrize("schedule", [60, 0.5, "*/5 * * * *", "0 3 1,15 jan-jun 0-6", "0 3 * * sun"])
def test_schedules_are_seconds_or_crontabs(schedule: object) -> None:
    assert load(scheduled(schedule)).index("default").schedule == schedule


# Settings modules of other projects


def test_a_settings_module_of_wagtail_vector_index_works(tmp_path: Path) -> None:
    text = """
WAGTAIL_VECTOR_INDEX = {
    "CHAT_BACKENDS": {"default": {
        "CLASS": "wagtail_vector_index.ai_utils.backends.llm.LLMChatBackend",
        "CONFIG": {"MODEL_ID": "gpt-4o", "TOKEN_LIMIT": "4096", "INIT_KWARGS": None},
    }},
    "EMBEDDING_BACKENDS": {"default": {
        "CLASS": "wagtail_vector_index.ai_utils.backends.llm.LLMEmbeddingBackend",
        "CONFIG": {"MODEL_ID": "ada-002", "CHUNK_OVERLAP_CHARACTERS": 100},
    }},
}
WAGTAIL_VECTOR_INDEX_QUERY_PROMPT = "You are a helpful assistant."
"""
    configuration = load(given(tmp_path, text))
    default = configuration.index("default")
    assert default.chat_backend.class_path == "worker.backends.llm.LLMChatBackend"
    assert default.chat_backend.token_limit == 4096
    assert default.query_prompt == "You are a helpful assistant."
    assert default.chunk_overlap_tokens == 25
    assert "CHUNK_OVERLAP_CHARACTERS of embedding backend 'default' is 100" in configuration.notices[0]


def chat_backends(**fallbacks: str | None) -> dict[str, str]:
    """An environment of chat backends, each with its fallback."""
    entries = {name: {"CONFIG": {"MODEL_ID": name, "FALLBACK": of}} for name, of in fallbacks.items()}
    return vector_index(CHAT_BACKENDS={"default": {}, **entries})


def test_fallbacks_may_form_a_chain() -> None:
    known = load(chat_backends(a="b", b="c", c=None)).chat_backends
    assert [known[name].fallback for name in ("a", "b", "c", "default")] == ["b", "c", None, None]


@pytest.mark.parametrize(
    ("fallbacks", "message"),
    [
        (
            {"first": "secnd", "second": None},
            "FALLBACK of chat backend 'first' is 'secnd', which is not in CHAT_BACKENDS; did you mean 'second'?",
        ),
        (
            {"first": "first"},
            "FALLBACK of chat backend 'first' is 'first', the backend itself; set it to another entry of "
            "CHAT_BACKENDS, or remove it",
        ),
        (
            {"a": "b", "b": "c", "c": "a"},
            "FALLBACK of chat backend 'c' is 'a', which leads in a circle: 'a' to 'b' to 'c' to 'a'; remove the last "
            "of these FALLBACK",
        ),
        (
            {"a": "b", "b": "b"},
            "FALLBACK of chat backend 'b' is 'b', the backend itself; set it to another entry of CHAT_BACKENDS, or "
            "remove it",
        ),
    ],
)
def test_fallback_that_leads_nowhere_is_named(fallbacks: dict[str, str | None], message: str) -> None:
    assert sentence(chat_backends(**fallbacks)) == message


def test_fallback_of_the_same_provider_is_refused() -> None:
    config = {"MODEL_ID": "gpt-4o", "INIT_KWARGS": {"key": "sk-secret"}}
    first = {"CONFIG": {**config, "FALLBACK": "again"}}
    assert sentence(vector_index(CHAT_BACKENDS={"default": first, "again": {"CONFIG": config}})) == (
        "FALLBACK of chat backend 'default' is 'again', which asks the same model with the same INIT_KWARGS, so both "
        "are away at once; set it to an entry with another provider or model"
    )


def test_fallback_for_embeddings_is_refused_with_the_reason() -> None:
    config = {"MODEL_ID": "3-small", "FALLBACK": "other"}
    assert sentence(vector_index(EMBEDDING_BACKENDS={"default": {"CONFIG": config}})) == (
        "CONFIG of embedding backend 'default' has FALLBACK: remove it, since vectors of two models cannot be "
        "compared; documents wait until the provider is back, and only chat backends have a FALLBACK"
    )


@pytest.mark.parametrize("section", ["EMBEDDING_BACKENDS", "CHAT_BACKENDS"])
def test_class_of_wagtail_ai_works_in_both_sections(section: str) -> None:
    configuration = load(vector_index(**{section: {"default": {"CLASS": "wagtail_ai.ai.llm.LLMBackend"}}}))
    backends = configuration.embedding_backends | configuration.chat_backends
    assert all(backend.class_path.startswith("worker.backends.llm.") for backend in backends.values())


def test_litellm_class_is_rejected_with_the_class_to_use() -> None:
    path = "wagtail_vector_index.ai_utils.backends.litellm.LiteLLMChatBackend"
    message = sentence(vector_index(CHAT_BACKENDS={"default": {"CLASS": path}}))
    assert path in message
    assert (
        "set it to 'worker.backends.llm.LLMChatBackend', with a MODEL_ID that `llm models` lists" in message
    )


def test_settings_may_be_a_dotted_module_of_the_working_folder(tmp_path: Path) -> None:
    """Like a Django settings module, whose relative imports work."""
    package = tmp_path / "mysite"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "base.py").write_text("MAX_DOCUMENT_BYTES = 11\n")
    (package / "production.py").write_text("from .base import *\n")
    (tmp_path / "settings.py").write_text("raise SystemExit('the settings of somebody else were imported')\n")
    code = "from worker.configuration import load; print(load().max_document_bytes)"
    environ = {**os.environ, "PYTHONPATH": str(PROJECT), "VECTOR_INDEX_SETTINGS": "mysite.production"}
    run = [sys.executable, "-c", code]
    assert subprocess.check_output(run, cwd=tmp_path, env=environ, text=True) == "11\n"


def test_configuration_imports_neither_celery_nor_psycopg_nor_llm() -> None:
    code = "import sys, worker.configuration; print({'celery', 'psycopg', 'llm'} & sys.modules.keys())"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, text=True) == "set()\n"


# Mistakes

BACKEND = "embedding backend 'default'"


def test_litellm_class_is_named_before_its_keys() -> None:
    """The class decides which keys there are, so an unknown key of the entry is not the first mistake."""
    path = "wagtail_vector_index.ai_utils.backends.litellm.LiteLLMChatBackend"
    config = {"MODEL_ID": "mistral/small", "TOKEN_LIMIT": 32_000, "DEFAULT_PARAMETERS": {"max_tokens": 500}}
    for entry in ({"CLASS": path, "CONFIG": config}, {"CLASS": path, "CONFIG": {}, "EXTRA": 1}):
        message = sentence(vector_index(CHAT_BACKENDS={"default": entry}))
        assert f"CLASS of chat backend 'default' is {path!r}, which this worker cannot use" in message
        assert "move DEFAULT_PARAMETERS to PROMPT_KWARGS" in message


def test_names_of_wagtail_that_have_no_effect_are_noticed(tmp_path: Path) -> None:
    text = """
WAGTAIL_VECTOR_INDEX_STORAGE_PROVIDERS = {"default": {"STORAGE_PROVIDER": "qdrant"}}
WAGTAIL_AI = {"BACKENDS": {}}
VECTOR_INDEX_LOGFORMAT = "json"
SECRET_KEY = "x"
"""
    stored, ai, typo = load(given(tmp_path, text)).notices
    assert (
        "WAGTAIL_VECTOR_INDEX_STORAGE_PROVIDERS in VECTOR_INDEX_SETTINGS has no effect: vectors are stored"
        in stored
    )
    assert "WAGTAIL_AI" in ai
    assert "did you mean 'VECTOR_INDEX_LOG_FORMAT'?" in typo


@pytest.mark.parametrize("name", ["VECTOR_INDEX", "WAGTAIL_VECTOR_INDEX"])
def test_settings_with_a_chat_model_alone_say_which_model_embeds(tmp_path: Path, name: str) -> None:
    environ = given(tmp_path, f"{name} = {{'CHAT_BACKENDS': {{'default': {{}}}}}}")
    (notice,) = load(environ).notices
    assert "the shipped model `wordllama` embeds documents and questions" in notice
    assert load({**environ, "EMBEDDING_MODEL": "3-small"}).notices == ()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"MAX_DOCUMENT_BYTES": "10MB"}, "MAX_DOCUMENT_BYTES is '10MB'; set it to a whole number, in bytes"),
        ({"MAX_DOCUMENT_BYTES": "0"}, "MAX_DOCUMENT_BYTES is '0'; set it to a number of at least 1, in bytes"),
        ({"METRICS_PORT": "70000"}, "METRICS_PORT is '70000'; set it to a number of at most 65535"),
        ({"PRICE_PER_MILLION_TOKENS": "inf"}, "PRICE_PER_MILLION_TOKENS is 'inf'; set it to a finite number"),
        ({"TIMEZONE": "Europe/Berln"}, "is not a time zone; did you mean 'Europe/Berlin'?"),
        ({"TIMEZONE": "Europe"}, "TIMEZONE is 'Europe', which is not a time zone"),
        ({"TIMEZONE": "../UTC"}, "TIMEZONE is '../UTC', which is not a time zone"),
        ({"VECTOR_INDEX": "{"}, "VECTOR_INDEX in the environment is not JSON"),
        ({"VECTOR_INDEX": "[]"}, "VECTOR_INDEX is of type list; set it to a dictionary"),
        (vector_index(INDEXS={}), "VECTOR_INDEX has an unknown key 'INDEXS'; did you mean 'INDEXES'?"),
        (embedding(MODEL="x"), f"CONFIG of {BACKEND} has an unknown key 'MODEL'; did you mean 'MODEL_ID'?"),
        (embedding(token_limit=1), f"{BACKEND} has an unknown key 'token_limit'; did you mean 'TOKEN_LIMIT'?"),
        (embedding(TOKEN_LIMIT=True), f"TOKEN_LIMIT of {BACKEND} is True; set it to a number, not a boolean"),
        (embedding(TOKEN_LIMIT=-5), f"TOKEN_LIMIT of {BACKEND} is -5; set it to a number of at least 1, in tokens"),
        (embedding(MODEL_ID=7), f"MODEL_ID of {BACKEND} is 7; set it to text"),
        (embedding(EMBEDDING_OUTPUT_DIMENSIONS="x"), f"DIMENSIONS of {BACKEND} is 'x'; set it to a whole number"),
        (embedding(TIMEOUT_SECONDS=0), f"TIMEOUT_SECONDS of {BACKEND} is 0; set it to a number above 0, in seconds"),
        (embedding(TOKEN_LIMIT=9, BATCH_TOKEN_LIMIT=8), "is 8, below its TOKEN_LIMIT (9); raise it"),
        (embedding(INIT_KWARGS={"temperature": 0}), "has 'temperature', which is an option of a prompt; remove it"),
        (index(DISTANSE="l2"), "index 'default' has an unknown key 'DISTANSE'; did you mean 'DISTANCE'?"),
        (index(DISTANCE="cosin"), "DISTANCE of index 'default' is 'cosin'; set it to 'cosine', 'l2' or"),
        (index(VECTOR_TYPE="half"), "VECTOR_TYPE of index 'default' is 'half'; set it to 'auto', 'vector' or"),
        (index(HNSW=True), "HNSW of index 'default' is True; set it to a dictionary, or to False for no vector"),
        (index(HNSW={"M": 8}), "HNSW of index 'default' has an unknown key 'M'; did you mean 'm'?"),
        (index(HNSW={"m": 1}), "m of HNSW of index 'default' is 1; set it to a number of at least 2"),
        (index(HNSW={"m": 40}), "ef_construction of HNSW of index 'default' is 64; set it to at least twice"),
        (index(HNSW={"ef_search": 2000}), "ef_search of HNSW of index 'default' is 2000; set it to a number of"),
        (index(HNSW={"quantisation": "int8"}), "quantisation of HNSW of index 'default' is 'int8'; set it to 'binary'"),
        (index(LANGUAGE="en"), "is 'en'; set it to a text-search configuration of Postgres"),
        (index(EMBEDDING_BACKEND="defalt"), "is 'defalt', which VECTOR_INDEX[\"EMBEDDING_BACKENDS\"] does not have;"),
        (index(SOURCE="files"), 'which VECTOR_INDEX["SOURCES"] does not have; add it there'),
        (index(CHUNK_TOKENS=10, CHUNK_OVERLAP_TOKENS=10), "set it to less than its CHUNK_TOKENS (10)"),
        (vector_index(INDEXES={"": {}}), "has the name ''; use 1 to 100 printable characters"),
        (vector_index(INDEXES={"x" * 101: {}}), "use 1 to 100 printable characters"),
        (vector_index(EMBEDDING_BACKENDS={"default": {"CLASS": "LLM"}}), "'LLM'; set it to the dotted path"),
        ({"DATABASE_URL": "postgresql://h/db?ssl=true"}, "has the parameter 'ssl', which libpq does not know"),
        ({"DATABASE_URL": "postgresql://h/db?sslmode=no-verify"}, "sslmode of DATABASE_URL is 'no-verify'; choose"),
        ({"DATABASE_URL": "postgresql://h/db?x=1&sslaccept=strict"}, "has the parameter 'sslaccept', which libpq"),
        ({"DATABASE_URL": "postgresql://u:p%zz@h/db"}, "which has a bare %; write % of a password as %25"),
        ({"DATABASE_URL": "mysql://h/db"}, "is 'mysql://h/db', which does not begin with postgresql://; write it as"),
        ({"BROKER_URL": "amqp://h//"}, "write it as redis://:password@host:6379/0"),
        ({"BROKER_URL": "localhost:6379"}, "BROKER_URL is 'localhost:6379', which does not begin with redis://"),
        (
            {"RESULT_BACKEND": "sentinel://:geheim@a:26379;sentinel://b:26379"},
            "RESULT_BACKEND is 'sentinel://***@a:26379;sentinel://b:26379', but Redis Sentinel is not supported",
        ),
        ({"BROKER_URL": "redis://h:port/0"}, "whose host and port cannot be read; use"),
        ({"BROKER_URL": "redis://h:6379/0/6"}, "is 'redis://h:6379/0/6', whose database '0/6' is not a number; write"),
        ({"BROKER_URL": "redis://h/0?timeout=3"}, "parameter 'timeout' has no effect; leave it out; an address"),
        ({"BROKER_URL": "redis://h/0?ssl_cert_reqs=none"}, "no effect; begin the address with rediss:// for"),
        ({"BROKER_URL": "rediss://h/0?ssl_cert_reqs=maybe"}, "reqs is 'maybe'; choose required, optional, none"),
        ({"BROKER_URL": "rediss://h/0?ssl_check_hostname=perhaps"}, "hostname is 'perhaps'; choose true, false"),
        ({"BROKER_URL": "rediss://h/0?ssl_ca_certs=/none.pem"}, "ssl_ca_certs of BROKER_URL is '/none.pem', which"),
        ({"BROKER_URL": "rediss://h/0?ssl_keyfile=/none.key"}, "ssl_certfile of BROKER_URL is '', which cannot be"),
        ({"RESULT_BACKEND": "db+sqlite:///x"}, "RESULT_BACKEND is 'db+sqlite:///x', which does not begin with redis://"),
        ({"VECTOR_INDEX_SETTINGS": "/nowhere/x.py"}, "'/nowhere/x.py': No such file or directory; set it"),
        ({"VECTOR_INDEX_SETTINGS": "/"}, "it is a folder; set it to the path of a readable Python file"),
        ({"VECTOR_INDEX_SETTINGS": "mysite.nothing"}, "there is no such module; set it to a module on"),
        ({"VECTOR_INDEX_SETTINGS": "settings"}, "which is the shipped module"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_setting_value_and_fix(environ: dict[str, str], expected: str) -> None:
    assert expected in sentence(environ)


@pytest.mark.parametrize(
    "schedule",
    [
        0,
        -1,
        True,
        "hourly",
        "0 3 * *",
        "60 * * * *",
        "0 3 * * 7",
        "*/0 * * * *",
        "*/-1 * * * *",
        "1- * * * *",
        "5/2 * * * *",
        "1,,2 * * * *",
        "-5 * * * *",
        "1_0 * * * *",
        "0 0 30 2 *",
        "",
    ],
)
def test_invalid_schedules_are_rejected(schedule: object) -> None:
    assert "set it to seconds above 0, or to a crontab of five fields" in sentence(scheduled(schedule))


@pytest.mark.parametrize(
    ("schedule", "why"),
    [
        ("0 3 * * 7", "'0 3 * * 7'; 7 is not between 0 and 6; set it"),
        ("@daily", "'@daily'; it has 1 fields instead of 5; set it"),
        ("*/0 * * * *", "the step of '*/0' is not a number of at least 1; set it"),
        ("0 3 * * sonday", "'sonday' is not a number; set it"),
        ("0 0 30 2 *", "no month of '0 0 30 2 *' has such a day; set it"),
    ],
)
def test_message_names_the_wrong_part_of_a_crontab(schedule: str, why: str) -> None:
    assert why in sentence(scheduled(schedule))


def test_schedule_without_a_source_is_rejected() -> None:
    assert 'no source to read; set its SOURCE to an entry of VECTOR_INDEX["SOURCES"]' in sentence(
        index(SCHEDULE=60)
    )


def test_prompt_option_in_init_kwargs_is_rejected() -> None:
    environ = vector_index(CHAT_BACKENDS={"default": {"CONFIG": {"INIT_KWARGS": {"temperature": 0.2}}}})
    assert "'temperature', which is an option of a prompt; move it to PROMPT_KWARGS" in sentence(environ)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DEBUG = True\nX = = 1\n", "line 2 of {path} is not Python"),
        ("import os\n\nX = os.environ['NO_SUCH_VARIABLE']\n", "line 3 of {path} raised KeyError"),
        (
            "import os\nX = os.environ['NOT_SET']\n",
            "set the environment variable 'NOT_SET' for the workers too",
        ),
        ("import no_such_module\n", "line 1 of {path} raised ModuleNotFoundError"),
        ("import no_such_module.part\n", "install 'no_such_module' into the environment of the workers"),
        ("import json.no_such_part\n", "fix that import"),
        ("import sys\nsys.exit('no database')\n", "line 2 of {path} raised SystemExit (no database)"),
    ],
)
def test_error_in_the_settings_file_names_its_line(tmp_path: Path, text: str, expected: str) -> None:
    assert expected.format(path=tmp_path / "override.py") in sentence(given(tmp_path, text))


@pytest.mark.parametrize(
    "environ",
    [
        {"DATABASE_URL": "mysql+psycopg://user:geheim@h/db"},
        {"DATABASE_URL": "postgresql+psycopg://user:12@geheim@h/db"},
        {"DATABASE_URL": "postgres://user:geheim@h/db?sslaccept=strict"},
        {"DATABASE_URL": "postgres://user:ge/heim@h:5432/db"},
        {"DATABASE_URL": "postgres://user:12/geheim@h:5432/db"},
        {"DATABASE_URL": "postgres://user:a#geheim@h:5432/db"},
        {"DATABASE_URL": "postgres://user:a@geheim@h:port/db"},
        {"DATABASE_URL": "host=h password=geheim"},
        {"DATABASE_URL": "mysql://h/db?password=geheim"},
        {"BROKER_URL": "amqp://user:geheim@h//"},
        {"VECTOR_INDEX": '{"geheim": 1'},
        embedding(INIT_KWARGS="geheim"),
        embedding(INIT_KWARGS={"key": "geheim"}, TOKEN_LIMIT=-1),
        vector_index(SOURCES={"sql": {"CLASS": "a.B", "CONFIG": "geheim"}}),
    ],
)
def test_no_message_shows_a_secret(environ: dict[str, str]) -> None:
    assert "heim" not in sentence(environ)


@pytest.mark.parametrize(
    "scheme",
    [
        "postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg", "postgis",
        "psql", "pgsql", "timescaledb", "ecto", "jdbc:postgresql",
    ],
)  # fmt: skip
def test_an_address_of_another_tool_is_read_as_libpq_would(scheme: str) -> None:
    given = f"{scheme}://user:geheim@h:5433/db?schema=public&application_name=a"
    assert load({"DATABASE_URL": given}).database_url == (
        f"{'postgres' if scheme == 'postgres' else 'postgresql'}://user:geheim@h:5433/db?application_name=a"
    )


def test_empty_parameters_of_an_address_are_left_out() -> None:
    """libpq refuses an address that ends in `?&`."""
    assert load({"DATABASE_URL": "postgresql://h/db?&"}).database_url == "postgresql://h/db"


def test_no_repr_shows_a_secret() -> None:
    environ = {
        "DATABASE_URL": "postgresql://u:geheim@h/db",
        "BROKER_URL": "redis://:geheim@h/0",
        **embedding(INIT_KWARGS={"key": "geheim"}),
    }
    configuration = load(environ)
    assert configuration.embedding_backends["default"].init_kwargs == {"key": "geheim"}
    assert "geheim" not in repr(configuration)


def test_the_objects_are_frozen_and_hashable() -> None:
    found: IndexSettings = load(embedding(INIT_KWARGS={"key": "k"})).index("default")
    assert hash(found) == hash(found)
    with pytest.raises(AttributeError):
        found.name = "other"  # type: ignore[misc]
