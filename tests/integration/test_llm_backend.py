"""The embedding backend over the real `llm`, against models that compute here and a provider over HTTP."""

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
    """A model of a plugin that gives back what it is told to."""

    model_id = "broken"
    batch_size = 7
    answer: Any = None
    shared = "unset"

    def embed_batch(self, items: Iterable[str | bytes], *, key: str | None = None) -> Iterator[list[float]]:
        return iter(self.answer)


class Truncating(Broken):
    """As the models of llm-ollama 0.19."""

    model_id = "truncating"
    truncate = True


@pytest.fixture(name="broken")
def plugin_model(request: pytest.FixtureRequest) -> Iterator[Broken]:
    """Registered as plugins do it: one object for all."""
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


def test_nothing_embeds_to_nothing() -> None:
    assert backend().embed([]).shape == (0, 256)


def test_limits_of_a_known_model_are_its_own() -> None:
    """An alias is resolved first."""
    found = backend("ada-002")
    assert (found.model_id, found.tokenizer, found.dimensions) == (
        "text-embedding-ada-002",
        "cl100k_base",
        1536,
    )
    assert (found.token_limit, found.batch_token_limit, found.batch_size) == (8_191, 300_000, 2_048)
    assert found.chunk_tokens == 512
    assert found.count_tokens("hello world") == 2


def test_a_given_token_limit_also_bounds_the_request() -> None:
    found = backend("ada-002", token_limit=256)
    assert (found.token_limit, found.batch_token_limit, found.chunk_tokens) == (256, 256, 256)


def test_no_input_is_larger_than_a_request() -> None:
    assert backend("ada-002", batch_token_limit=1_000).token_limit == 1_000


def test_an_unknown_model_needs_a_token_limit(broken: Broken) -> None:
    with pytest.raises(SettingsError, match="TOKEN_LIMIT of embedding backend 'default' is missing"):
        backend("bro")
    found = backend("bro", token_limit=8_000)
    assert (found.batch_token_limit, found.batch_size, found.tokenizer) == (8_000, 7, "estimate")
    assert found.chunk_tokens == 512


def test_the_dimensions_of_an_unknown_model_come_from_a_probe(broken: Broken) -> None:
    broken.answer = [[1.0, 0.0, 0.0]]
    assert backend("bro", token_limit=512).dimensions == 3


def test_an_unknown_model_is_one_sentence_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match=r"'3-smal' .* nearest is '3-small'"):
        backend("3-smal")


@pytest.mark.parametrize("broken", [Truncating], indirect=True)
def test_a_plugin_that_would_cut_a_text_off_without_a_word_is_told_not_to(broken: Truncating) -> None:
    assert embedding_model("default", "truncating", {}).truncate is False
    assert embedding_model("default", "truncating", {"truncate": True}).truncate is True
    assert broken.truncate is True


def test_an_unknown_tokenizer_is_found_at_start() -> None:
    with pytest.raises(SettingsError, match="TOKENIZER is 'cl200k'"):
        backend(tokenizer="cl200k")


def test_init_kwargs_reach_a_copy_of_the_model_only(broken: Broken) -> None:
    """Plugins may hand out one object: a key of one backend must not become that of another."""
    backend("bro", token_limit=512, init_kwargs={"shared": "mine"})
    assert broken.shared == "unset"


def test_a_name_that_the_model_lacks_is_no_init_kwarg() -> None:
    with pytest.raises(
        SettingsError,
        match=r"INIT_KWARGS .* 'base_url', which text-embedding-3-small does not have.* api_base",
    ):
        backend("3-small", init_kwargs={"base_url": "http://127.0.0.1"})


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("embed_batch", "mine", "'embed_batch', which text-embedding-3-small does not have"),
        ("key", "", "'key' of type str: give a string that is not empty"),
        ("key", ["secret"], "'key' of type list"),
        ("api_base", 8000, "'api_base' of type int"),
        ("headers", "X-Team: search", "'headers' of type str: give an object of strings"),
        ("headers", {"X-Team": 7}, "'headers' of type dict: give an object of strings"),
    ],
)
def test_an_init_kwarg_of_no_use_is_one_sentence(attribute: str, value: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=f"^INIT_KWARGS of embedding backend 'default' has {said}"):
        backend("3-small", init_kwargs={attribute: value})


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("llm/keys.json", "{", "mend keys.json or aliases.json in the folder of llm"),
        ("llm/aliases.json", "{", "mend keys.json or aliases.json in the folder of llm"),
        (
            "broken.py",
            "import torch_of_nobody",
            r"\(ModuleNotFoundError: .*torch_of_nobody.*mend or uninstall the plugin",
        ),
        ("llm", "", "llm cannot use its folder .* set LLM_USER_PATH to one that can be written"),
    ],
    ids=["keys", "aliases", "plugin", "folder"],
)
def test_what_llm_cannot_load_is_one_sentence_at_every_start(
    tmp_path: Path, file: str, text: str, said: str
) -> None:
    """In a fresh process. After a plugin that fails, llm itself knows no model at the second look-up."""
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
    """A user's own backend that does not take all keywords."""

    def __init__(self, *, model_id: str) -> None:
        self.model_id = model_id


def test_a_class_of_the_user_that_does_not_take_the_keywords_is_one_sentence() -> None:
    path = f"{__name__}.Narrow"
    settings = EmbeddingBackendSettings(name="mine", class_path=path)
    with pytest.raises(
        SettingsError, match=rf"CLASS '{path}' of backend 'mine' .*'name'.* take name, .* or \*\*_"
    ):
        make_backend(settings)


@pytest.mark.parametrize("fault", ["content_policy", "too_large", "zeros"])
def test_a_provider_that_refuses_one_word_refuses_the_settings(provider: Provider, fault: str) -> None:
    """Else each document would fail for good, for what is no fault of its own."""
    provider.inject(fault)
    with pytest.raises(SettingsError, match="even the one word 'dimensions': mend"):
        probe(over_http())


def test_a_model_that_is_unknown_while_its_server_is_down_is_said_to_be_so() -> None:
    """As llm-ollama registers what its server lists, and nothing when that does not answer."""
    load_plugins()
    llm.plugins.pm.register(object(), name="ollama")
    try:
        with pytest.raises(SettingsError, match="or start the server that the plugin ollama asks"):
            backend("nomic-embed-text")
    finally:
        llm.plugins.pm.unregister(name="ollama")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ([[1.0, 0.0]], ProviderUnavailable),
        ([[1.0, 0.0], [1.0, float("nan")]], Refused),
        ([[1.0, 0.0], [0.0, 0.0]], Refused),
        ([[1.0, 0.0], [1.0, 1e300]], Refused),
        ([[1.0, 0.0], [1.0]], SettingsError),
        (None, ProviderUnavailable),
    ],
    ids=["too few", "NaN", "zeros", "infinite as float32", "ragged", "TypeError"],
)
def test_a_wrong_answer_never_becomes_vectors(broken: Broken, answer: Any, kind: type[Exception]) -> None:
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
    """A plugin from before the argument `key`, as llm-embed-onnx is."""

    model_id = "older"
    key = "of the plugin"

    def embed_batch(self, items: Iterable[str | bytes]) -> Iterator[list[float]]:  # type: ignore[override]
        assert self.key == "of the plugin"
        return iter([[1.0, 0.0] for _ in items])


@pytest.mark.parametrize("broken", [Hanging], indirect=True)
def test_a_plugin_without_a_timeout_holds_nobody_longer_than_timeout_seconds(broken: Hanging) -> None:
    slow = backend("hanging", token_limit=512, dimensions=2, timeout_seconds=0.5)
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
        time.sleep(0.001)  # others of its calls end meanwhile
        return super().embed_batch(items)


@pytest.mark.parametrize("broken", [Older, OlderWithStoredKey], indirect=True)
def test_an_older_plugin_keeps_the_key_that_it_finds_on_itself(
    broken: Older, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llm 0.36 takes it away for a call from a model that needs none, and from another thread's at the end of one."""
    monkeypatch.setenv("OLDER_KEY", "of the plugin")
    found = backend("older", token_limit=512, dimensions=2)
    with ThreadPoolExecutor(8) as pool:
        assert all(vectors.shape == (2, 2) for vectors in pool.map(found.embed, [["a", "b"]] * 64))


def test_one_request_carries_all_texts(provider: Provider) -> None:
    """Even where llm would send a hundred at a time."""
    texts = [f"text {number}" for number in range(250)]
    vectors = over_http().embed(texts)
    assert vectors.shape == (250, 1536)
    assert provider.stats().requests == 1
    np.testing.assert_allclose(over_http().embed(texts[7:8])[0], vectors[7], atol=1e-6)


def test_another_length_than_the_settings_say_names_the_mend(provider: Provider) -> None:
    with pytest.raises(SettingsError, match=r"length 1536, where 512 .* EMBEDDING_OUTPUT_DIMENSIONS"):
        over_http("ada-002", dimensions=512).embed(["text"])
    assert "dimensions" not in provider.requests[-1].body


def test_a_model_known_to_shorten_its_vectors_is_asked_to(provider: Provider) -> None:
    assert over_http("3-large", dimensions=256).embed(["text"]).shape == (1, 256)
    assert provider.requests[-1].body["dimensions"] == 256


def test_dimensions_set_on_the_model_are_asked_for_and_expected(provider: Provider) -> None:
    found = backend("3-small", init_kwargs={"key": "secret-of-the-test", "dimensions": 256})
    assert found.embed(["text"]).shape == (1, found.dimensions) == (1, 256)


def test_an_input_over_the_limit_is_too_large(provider: Provider) -> None:
    with pytest.raises(TooLarge):
        over_http().embed(["word " * 8_300])


def test_a_refused_input_keeps_its_text_to_itself(provider: Provider) -> None:
    """Neither message nor chain of the error has the text or the key."""
    provider.refuse = "POISON"
    with pytest.raises(Refused, match="HTTP 400 content_policy_violation") as caught:
        over_http().embed(["fine", "POISON of the board"])
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "board" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_provider_that_is_not_there_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    with Provider() as gone:
        monkeypatch.setenv("OPENAI_BASE_URL", gone.url)
    with pytest.raises(ProviderUnavailable):
        over_http().embed(["text"])


def test_a_missing_key_names_the_mend(
    provider: Provider, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SettingsError, match="give the backend a key"):
        backend("3-small").embed(["text"])


def test_a_class_of_the_user_is_imported() -> None:
    assert load_class("tests.integration.test_llm_backend.Broken").__name__ == "Broken"


@pytest.mark.parametrize(
    "path", ["nowhere.Backend", "worker.backends.llm.Nope", "Backend", "", "worker.backends.load"]
)
def test_a_class_that_cannot_be_loaded_is_one_sentence(path: str) -> None:
    with pytest.raises(SettingsError, match="CLASS"):
        load_class(path)


def test_threads_that_start_together_all_find_their_model() -> None:
    """In a fresh process, where llm has not loaded its plugins: without a lock seven of eight fail."""
    code = (
        "from concurrent.futures import ThreadPoolExecutor;"
        "from worker.backends.llm import LLMEmbeddingBackend as Backend;"
        "pool = ThreadPoolExecutor(8);"
        "made = [pool.submit(Backend, name='default', model_id='3-small') for _ in range(8)];"
        "assert {job.result().dimensions for job in made} == {1536}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
