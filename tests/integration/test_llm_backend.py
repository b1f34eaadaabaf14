"""The embedding backend over the real `llm`, with local models and a provider over HTTP."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import llm
import numpy as np
import pytest

from tests.provider import Provider
from worker.backends import load_class, load_plugins
from worker.backends.llm import LLMEmbeddingBackend
from worker.backends.llm.lookup import embedding_model
from worker.configuration.objects import EmbeddingBackendSettings
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge
from worker.recipes import probe
from worker.wiring import make_backend


@pytest.fixture(name="provider")
def openai_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    with Provider() as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        yield provider


def backend(model_id: str = "wordllama", **config: Any) -> LLMEmbeddingBackend:
    return LLMEmbeddingBackend(name="default", model_id=model_id, **config)


def over_http(model_id: str = "3-small", **config: Any) -> LLMEmbeddingBackend:
    return backend(model_id, init_kwargs={"key": "secret-of-the-test"}, **config)


class Broken(llm.EmbeddingModel):
    """A model of a plugin that returns the rows of the test."""

    model_id = "broken"
    batch_size = 7
    answer: Any = None
    shared = "unset"

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        return iter(self.answer)


class Truncating(Broken):
    """A model like those of llm-ollama 0.19."""

    model_id = "truncating"
    truncate = True


@pytest.fixture(name="broken")
def plugin_model(request: pytest.FixtureRequest) -> Iterator[Broken]:
    """A model registered as plugins do it, with one object for all callers."""
    model = getattr(request, "param", Broken)()

    class Plugin:
        @llm.hookimpl
        def register_embedding_models(self, register: Any) -> None:
            register(model, aliases=("bro",))

    load_plugins()
    plugin = Plugin()
    llm.plugins.pm.register(plugin)
    yield model
    llm.plugins.pm.unregister(plugin)


def test_the_default_model_embeds_without_a_network() -> None:
    vectors = backend().embed(["hello world", "good morning"])
    assert vectors.shape == (2, 256)
    assert vectors.dtype == np.float32


def test_an_empty_batch_returns_an_empty_array() -> None:
    assert backend().embed([]).shape == (0, 256)


def test_a_known_model_has_its_own_limits() -> None:
    """Also under an alias."""
    found = backend("ada-002")
    assert (found.model_id, found.tokenizer, found.dimensions) == (
        "text-embedding-ada-002",
        "cl100k_base",
        1536,
    )
    assert (found.token_limit, found.batch_token_limit, found.batch_size) == (8_191, 300_000, 2_048)
    assert found.chunk_tokens == 512
    assert found.count_tokens("hello world") == 2


def test_a_token_limit_in_the_settings_also_limits_the_request() -> None:
    found = backend("ada-002", token_limit=256)
    assert (found.token_limit, found.batch_token_limit, found.chunk_tokens) == (256, 256, 256)


def test_the_limit_of_an_input_is_at_most_that_of_a_request() -> None:
    assert backend("ada-002", batch_token_limit=1_000).token_limit == 1_000


def test_an_unknown_model_needs_a_token_limit(broken: Broken) -> None:
    with pytest.raises(SettingsError, match="TOKEN_LIMIT of embedding backend 'default' is missing"):
        backend("bro")
    found = backend("bro", token_limit=8_000)
    assert (found.batch_token_limit, found.batch_size, found.tokenizer) == (8_000, 7, "estimate")
    assert found.chunk_tokens == 512


def test_the_dimensions_of_an_unknown_model_come_from_one_request(broken: Broken) -> None:
    broken.answer = [[1.0, 0.0, 0.0]]
    assert backend("bro", token_limit=512).dimensions == 3


def test_an_unknown_model_is_reported_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match=r"'3-smal' .* nearest is '3-small'"):
        backend("3-smal")


@pytest.mark.parametrize("broken", [Truncating], indirect=True)
def test_silent_truncation_by_a_plugin_is_turned_off(broken: Truncating) -> None:
    assert embedding_model("default", "truncating", {}).truncate is False
    assert embedding_model("default", "truncating", {"truncate": True}).truncate is True
    assert broken.truncate is True


def test_an_unknown_tokenizer_is_found_at_start() -> None:
    with pytest.raises(SettingsError, match="TOKENIZER is 'cl200k'"):
        backend(tokenizer="cl200k")


def test_init_kwargs_reach_a_copy_of_the_model_only(broken: Broken) -> None:
    """Plugins may share one object, and one backend must not get the key of another."""
    backend("bro", token_limit=512, init_kwargs={"shared": "mine"})
    assert broken.shared == "unset"


def test_an_unknown_attribute_in_init_kwargs_is_reported() -> None:
    with pytest.raises(
        SettingsError,
        match=r"INIT_KWARGS .* 'base_url', which is not an attribute of text-embedding-3-small.* api_base",
    ):
        backend("3-small", init_kwargs={"base_url": "http://127.0.0.1"})


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("embed_batch", "mine", "'embed_batch', which is not an attribute of text-embedding-3-small"),
        ("key", "", "'key' of type str: set it to a non-empty string"),
        ("key", ["secret"], "'key' of type list"),
        ("api_base", 8000, "'api_base' of type int"),
        ("headers", "X-Team: search", "'headers' of type str: set it to an object of strings"),
        ("headers", {"X-Team": 7}, "'headers' of type dict: set it to an object of strings"),
    ],
)
def test_an_invalid_init_kwarg_is_reported_in_one_sentence(attribute: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=f"^INIT_KWARGS of embedding backend 'default' has {said}"):
        backend("3-small", init_kwargs={attribute: value})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("llm/keys.json", "{", "repair keys.json or aliases.json in llm's folder"),
        ("llm/aliases.json", "{", "repair keys.json or aliases.json in llm's folder"),
        (
            "broken.py",
            "import torch_of_nobody",
            r"\(ModuleNotFoundError: .*torch_of_nobody.*repair or uninstall the plugin",
        ),
        ("llm", "", "llm cannot use its folder .* set LLM_USER_PATH to a writable folder"),
    ],
    ids=["keys", "aliases", "plugin", "folder"],
)
def test_a_broken_plugin_or_file_of_llm_is_reported_at_every_start(
    tmp_path: Path, file: str, text: str, said: str
) -> None:
    """In a fresh process. After a failing plugin, llm itself knows no model at the second look-up."""
    (tmp_path / "broken-1.dist-info").mkdir()
    (tmp_path / "broken-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    (tmp_path / "broken-1.dist-info/entry_points.txt").write_text("[llm]\nbroken = broken\n")
    (tmp_path / "broken.py").touch()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text(text)
    code = (
        "from worker.backends.llm import LLMEmbeddingBackend\n"
        "from worker.errors import SettingsError\n"
        "try: LLMEmbeddingBackend(name='default', model_id='3-small')\n"
        "except SettingsError as error: print(error)\n"
    )
    environment = {**os.environ, "LLM_USER_PATH": str(tmp_path / "llm"), "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    )
    assert re.search(said, done.stdout)
    assert done.stdout.count("\n") == 1


class Narrow:
    """A user's own backend that does not accept all keywords."""

    def __init__(self, *, model_id: str) -> None:
        self.model_id = model_id


def test_a_user_class_that_does_not_take_the_keywords_is_reported() -> None:
    path = f"{__name__}.Narrow"
    settings = EmbeddingBackendSettings(name="mine", class_path=path)
    with pytest.raises(
        SettingsError, match=rf"CLASS '{path}' of backend 'mine' .*'name'.* take name, .* or \*\*_"
    ):
        make_backend(settings)


@pytest.mark.parametrize("fault", ["content_policy", "too_large", "zeros"])
def test_a_provider_that_refuses_a_single_word_raises_a_settings_error(
    provider: Provider, fault: str
) -> None:
    """Otherwise every document would fail permanently, although none is at fault."""
    provider.inject(fault)
    with pytest.raises(SettingsError, match="even for the one word 'dimensions': fix"):
        probe(over_http())


def test_an_unknown_model_mentions_a_server_that_may_be_down() -> None:
    """llm-ollama registers the models of its server, and none while the server is down."""
    load_plugins()
    llm.plugins.pm.register(object(), name="ollama")
    try:
        with pytest.raises(SettingsError, match="or start the server of the plugin ollama"):
            backend("nomic-embed-text")
    finally:
        llm.plugins.pm.unregister(name="ollama")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([], ProviderUnavailable),
        ([[1.0, 0.0]], Refused),
        ([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]], Refused),
        ([[1.0, 0.0], None], Refused),
        ([[1.0, 0.0], "words"], Refused),
        ([[1.0, 0.0], [1.0, float("nan")]], Refused),
        ([[1.0, 0.0], [0.0, 0.0]], Refused),
        ([[1.0, 0.0], [1.0, 1e300]], Refused),
        ([[1.0, 0.0], [1.0]], Refused),
        ([[1.0], [1.0]], SettingsError),
        ([[1.0], [1.0, 2.0, 3.0]], Refused),
        (None, ProviderUnavailable),
    ],
    ids=[
        "none",
        "too few",
        "too many",
        "null",
        "words",
        "NaN",
        "zeros",
        "infinite as float32",
        "one short",
        "all short",
        "two lengths",
        "TypeError",
    ],
)
def test_an_invalid_answer_never_becomes_vectors(broken: Broken, answer: Any, kind: type[Exception]) -> None:
    broken.answer = answer
    with pytest.raises(kind):
        backend("bro", token_limit=512, dimensions=2).embed(["a", "b"])


class Hanging(Broken):
    """A plugin without a timeout."""

    model_id = "hanging"
    ends = threading.Event()

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        self.ends.wait(120)
        return iter([[1.0, 0.0]])


class Older(Broken):
    """A plugin older than the argument `key`, such as llm-embed-onnx."""

    model_id = "older"
    key = "of the plugin"

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:  # type: ignore[override]
        assert self.key == "of the plugin"
        return iter([[1.0, 0.0] for _ in items])


@pytest.mark.parametrize("broken", [Hanging], indirect=True)
def test_a_plugin_without_a_timeout_ends_after_timeout_seconds(broken: Hanging) -> None:
    slow = backend("hanging", token_limit=512, dimensions=2, timeout_seconds=1.0)
    started = time.monotonic()
    with pytest.raises(ProviderUnavailable, match="does not answer"):
        slow.embed(["text"])
    assert time.monotonic() - started < 60
    broken.ends.set()
    assert slow.embed(["text"]).shape == (1, 2)


class OlderWithStoredKey(Older):
    key = None
    needs_key = "older"
    key_env_var = "OLDER_KEY"

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:  # type: ignore[override]
        time.sleep(0.001)  # other calls end meanwhile
        return super().embed_batch(items)


@pytest.mark.parametrize("broken", [Older, OlderWithStoredKey], indirect=True)
def test_a_plugin_older_than_the_key_argument_keeps_its_key(
    broken: Older, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llm 0.36 removes it during a call for a model that needs none, and at the end of a call of another thread."""
    monkeypatch.setenv("OLDER_KEY", "of the plugin")
    found = backend("older", token_limit=512, dimensions=2)
    with ThreadPoolExecutor(8) as pool:
        assert all(vectors.shape == (2, 2) for vectors in pool.map(found.embed, [["a", "b"]] * 64))


def test_all_texts_are_sent_in_one_request(provider: Provider) -> None:
    """llm itself would send a hundred at a time."""
    texts = [f"text {number}" for number in range(250)]
    vectors = over_http().embed(texts)
    assert vectors.shape == (250, 1536)
    assert provider.stats().requests == 1
    np.testing.assert_allclose(over_http().embed(texts[7:8])[0], vectors[7], atol=1e-6)


def test_vectors_of_another_length_name_the_setting_to_change(provider: Provider) -> None:
    with pytest.raises(SettingsError, match=r"length 1536 instead of 512: set EMBEDDING_OUTPUT_DIMENSIONS"):
        over_http("ada-002", dimensions=512).embed(["text", "another"])
    assert "dimensions" not in provider.requests[-1].body


def test_dimensions_are_sent_to_a_model_that_can_shorten_its_vectors(provider: Provider) -> None:
    assert over_http("3-large", dimensions=256).embed(["text"]).shape == (1, 256)
    assert provider.requests[-1].body["dimensions"] == 256


def test_dimensions_set_on_the_model_are_sent_and_expected(provider: Provider) -> None:
    found = backend("3-small", init_kwargs={"key": "secret-of-the-test", "dimensions": 256})
    assert found.embed(["text"]).shape == (1, found.dimensions) == (1, 256)


def test_an_input_over_the_limit_raises_too_large(provider: Provider) -> None:
    with pytest.raises(TooLarge):
        over_http().embed(["word " * 8_300])


def test_the_error_of_a_refused_input_hides_its_text(provider: Provider) -> None:
    """Neither the message nor the causes of the error contain the text or the key."""
    provider.refuse = "POISON"
    with pytest.raises(Refused, match="HTTP 400 content_policy_violation") as caught:
        over_http().embed(["fine", "POISON of the board"])
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "board" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_an_unreachable_provider_raises_provider_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with Provider() as gone:
        monkeypatch.setenv("OPENAI_BASE_URL", gone.url)
    with pytest.raises(ProviderUnavailable):
        over_http().embed(["text"])


def test_a_missing_key_is_reported_with_the_fix(
    provider: Provider, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SettingsError, match="give the backend a key"):
        backend("3-small").embed(["text"])


def test_a_user_class_is_imported_by_its_path() -> None:
    assert load_class("tests.integration.test_llm_backend.Broken").__name__ == "Broken"


@pytest.mark.parametrize(
    "path", ["nowhere.Backend", "worker.backends.llm.Nope", "Backend", "", "worker.backends.load"]
)
def test_a_class_that_cannot_be_loaded_is_reported(path: str) -> None:
    with pytest.raises(SettingsError, match="CLASS"):
        load_class(path)


def test_threads_that_start_at_once_all_find_their_model() -> None:
    """In a fresh process, before llm has loaded its plugins. Without a lock seven of eight threads fail."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor;"
        "from worker.backends.llm import LLMEmbeddingBackend as Backend;"
        "pool = ThreadPoolExecutor(8);"
        "made = [pool.submit(Backend, name='default', model_id='3-small') for _ in range(8)];"
        "assert {job.result().dimensions for job in made} == {1536}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
