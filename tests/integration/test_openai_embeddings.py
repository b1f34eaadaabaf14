"""OpenAI-compatible embedding servers through the real `llm`: their files, their keys, and their faults."""

import json
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import llm
import numpy as np
import pytest
import yaml

from tests.provider import Provider, Request
from worker.backends.llm import LLMChatBackend, LLMEmbeddingBackend
from worker.backends.llm.lookup import chat_model, embedding_model
from worker.errors import ProviderUnavailable, Refused, SettingsError, TooLarge, VectorIndexError

LLM = str(Path(sys.executable).with_name("llm"))
EMBEDDINGS, CHAT = "extra-openai-embedding-models.yaml", "extra-openai-models.yaml"
OF_OPENAI = {
    "OPENAI_API_KEY": "sk-of-openai",
    "OPENAI_ORG_ID": "org-of-openai",
    "OPENAI_PROJECT_ID": "proj-of-openai",
    "OPENAI_CUSTOM_HEADERS": "X-Team: of-openai\nauthorization: Bearer of-openai",
}


@pytest.fixture(name="provider")
def server() -> Iterator[Provider]:
    with Provider(dimensions=16) as provider:
        yield provider


@pytest.fixture(name="folder", autouse=True)
def folder_of_llm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    return tmp_path


@pytest.fixture(name="server")
def backend_of_the_server(provider: Provider, folder: Path) -> LLMEmbeddingBackend:
    """A backend that knows the length of its vectors and has had an answer in base64."""
    write(folder, api_base=provider.url)
    made = backend()
    for _ in range(2):
        made.embed(["first"])
    assert encodings(provider) == ["float", "base64"]
    provider.reset()
    return made


def write(folder: Path, name: str = EMBEDDINGS, **entry: Any) -> None:
    """Write a file with one entry, the model `mine`."""
    (folder / name).write_text(yaml.safe_dump([{"model_id": "mine", "model_name": "served", **entry}]))


def backend(model_id: str = "mine", **config: Any) -> LLMEmbeddingBackend:
    return LLMEmbeddingBackend(
        name="default", model_id=model_id, **{"token_limit": 512, "dimensions": 16, **config}
    )


def encodings(provider: Provider) -> list[str]:
    return [request.body["encoding_format"] for request in provider.requests]


def last(provider: Provider) -> Request:
    return provider.requests[-1]


# Files


def test_a_model_of_the_file_has_its_id_and_aliases(provider: Provider, folder: Path) -> None:
    write(folder, api_base=provider.url, aliases=["also"], headers={"X-Gateway": "yes"}, dimensions=8)
    assert backend("also", dimensions=8).embed(["one", "two"]).shape == (2, 8)
    assert last(provider).headers["x-gateway"] == "yes"
    assert (last(provider).body["model"], last(provider).body["dimensions"]) == ("served", 8)


def test_dimensions_are_sent_only_for_an_entry_that_sets_them(provider: Provider, folder: Path) -> None:
    """Many servers refuse a request with them. EMBEDDING_OUTPUT_DIMENSIONS alone only sets the expected length."""
    write(folder, api_base=provider.url)
    provider.inject("no_dimensions", times=None)
    assert backend(dimensions=16).embed(["one"]).shape == (1, 16)


def test_limits_follow_the_servers_name_of_the_model(folder: Path) -> None:
    write(folder, api_base="http://127.0.0.1:1/v1", model_name="text-embedding-3-small")
    assert backend(token_limit=None).token_limit == 8_191
    write(folder, api_base="http://127.0.0.1:1/v1", model_id="3-small")
    with pytest.raises(SettingsError, match="TOKEN_LIMIT of embedding backend 'default' is missing"):
        backend("3-small", token_limit=None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty: write a list of entries with model_id and model_name, or remove the file"),
        ("model_id: a", "is of type dict: write a list of entries"),
        ("- model_id: [", "is not YAML at line 1: correct it, or remove the file"),
        ("- just text", "entry 1 of .*: the entry is wrong"),
        (
            "- model_id: a\n  model_name: b\n- model_id: c",
            r"entry 2 \('c'\) of .*: model_name is wrong \(Field required",
        ),
    ],
    ids=["empty", "not a list", "not YAML", "not an entry", "without model_name"],
)
@pytest.mark.parametrize("name", [EMBEDDINGS, CHAT])
def test_a_broken_file_is_named_in_one_sentence(folder: Path, name: str, text: str, said: str) -> None:
    """llm 0.36 itself raises a bare TypeError or KeyError at the look-up of any model."""
    (folder / name).write_text(text)
    with pytest.raises(SettingsError, match=said) as caught:
        (embedding_model if name == EMBEDDINGS else chat_model)("default", "mine", {})
    assert str(folder / name) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {model_id: a, model_name: b}\n- {model_id: a, model_name: c}", "two models named 'a'"),
        (
            "- {model_id: a, model_name: b}\n- {model_id: c, model_name: d, aliases: [a]}",
            "two models named 'a'",
        ),
        ("- {model_id: a, model_name: b, api_base: ''}", r"entry 1 \('a'\) .* api_base is wrong"),
    ],
    ids=["id", "alias", "address"],
)
def test_duplicate_names_and_empty_urls_are_reported(folder: Path, text: str, said: str) -> None:
    """llm would silently use the later entry, and OpenAI for an empty URL."""
    (folder / EMBEDDINGS).write_text(text)
    with pytest.raises(SettingsError, match=said):
        backend("a")


def test_an_unknown_key_is_reported_with_the_nearest_and_without_its_value(folder: Path) -> None:
    write(folder, api_bas="http://secret@127.0.0.1")
    with pytest.raises(
        SettingsError, match=r"\('mine'\) of .* has the unknown key 'api_bas': use api_base"
    ) as caught:
        backend()
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_llm_lists_and_runs_the_models(provider: Provider, folder: Path) -> None:
    write(folder, api_base=provider.url)
    listed = subprocess.run([LLM, "embed-models"], check=True, capture_output=True, text=True).stdout
    assert "OpenAIEmbeddings: text-embedding-3-small (aliases: 3-small)" in listed
    assert "OpenAIEmbeddings: mine" in listed
    run = [LLM, "embed", "-m", "mine", "-c", "text"]
    assert len(json.loads(subprocess.run(run, check=True, capture_output=True).stdout)) == 16


def test_openais_model_names_use_our_class() -> None:
    ours = type(llm.get_embedding_model("3-small"))
    for name in ("ada", "ada-002", "3-small", "3-small-512", "3-large", "3-large-256", "3-large-1024"):
        for found in (name, name if name == "ada" else f"text-embedding-{name}"):
            assert type(llm.get_embedding_model(found)) is ours
    assert llm.get_embedding_model("3-large-1024").dimensions == 1024


# Keys


@pytest.fixture(name="openais")
def environment_of_openai(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Everything that an environment may hold for OpenAI."""
    for name, value in OF_OPENAI.items():
        monkeypatch.setenv(name, value)
    (folder / "keys.json").write_text(json.dumps({"openai": "sk-stored", "gateway": "of-the-gateway"}))


def ask(provider: Provider, **config: Any) -> Request:
    """Send one chat to the model `mine`, and return the request that the server received."""
    LLMChatBackend(name="default", **{"model_id": "mine", "token_limit": 4_096, **config}).reply(
        [{"role": "user", "content": "question"}]
    )
    return last(provider)


def embed(provider: Provider, **config: Any) -> Request:
    backend(**config).embed(["text"])
    return last(provider)


EITHER = pytest.mark.parametrize(
    ("name", "send"), [(EMBEDDINGS, embed), (CHAT, ask)], ids=["embedding", "chat"]
)


@EITHER
@pytest.mark.parametrize(
    ("entry", "init_kwargs", "key"),
    [
        ({}, {}, "DUMMY_KEY"),
        ({}, {"key": "of-the-settings"}, "of-the-settings"),
        ({}, {"key": "gateway"}, "gateway"),  # used as it is, even if keys.json has a key of this name
        ({"api_key_name": "gateway"}, {}, "of-the-gateway"),
        ({"api_key_name": "gateway"}, {"key": "of-the-settings"}, "of-the-settings"),
        ({"headers": {"authorization": "Bearer of-the-file"}}, {}, "of-the-file"),
    ],
    ids=["none", "settings", "alias", "stored", "both", "header"],
)
@pytest.mark.usefixtures("openais")
def test_a_server_gets_its_own_key_and_none_of_openais_headers(
    provider: Provider, folder: Path, name: str, send: Any, entry: Any, init_kwargs: Any, key: str
) -> None:
    write(folder, name, api_base=provider.url, **entry)
    received = send(provider, init_kwargs=init_kwargs)
    assert received.key == key
    assert "of-openai" not in str(received.headers)


@EITHER
@pytest.mark.usefixtures("openais")
def test_a_url_in_init_kwargs_gets_no_key_of_openai(provider: Provider, name: str, send: Any) -> None:
    model_id = "3-small" if name == EMBEDDINGS else "gpt-4o-mini"
    config = {"model_id": model_id, **({"dimensions": 16} if name == EMBEDDINGS else {})}
    received = send(provider, init_kwargs={"api_base": provider.url}, **config)
    assert received.key == "DUMMY_KEY"
    assert "of-openai" not in str(received.headers)
    assert send(provider, init_kwargs={"api_base": provider.url, "key": "mine"}, **config).key == "mine"


@EITHER
@pytest.mark.usefixtures("openais")
def test_a_missing_key_is_not_replaced_by_openais(
    provider: Provider, folder: Path, name: str, send: Any
) -> None:
    write(folder, name, api_base=provider.url, api_key_name="lost")
    with pytest.raises(SettingsError, match="give the backend a key"):
        send(provider)
    assert not provider.requests


@EITHER
@pytest.mark.usefixtures("openais")
def test_only_a_url_of_openai_gets_openais_key(name: str, send: Any) -> None:
    """A URL that only begins like it gets no key."""
    find = embedding_model if name == EMBEDDINGS else chat_model
    model_id = "3-small" if name == EMBEDDINGS else "4o"
    for host, key in (("eu.api.openai.com", "sk-stored"), ("api.openai.com.example.org", None)):
        assert find("default", model_id, {"api_base": f"https://{host}/v1"}).get_key() == key


@EITHER
@pytest.mark.parametrize("of_environment", [False, True], ids=["api_base", "OPENAI_BASE_URL"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_query_of_a_url_follows_the_path(
    provider: Provider,
    folder: Path,
    name: str,
    send: Any,
    slash: str,
    *,
    of_environment: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Azure's URLs end in `?api-version=`, and the openai package would append the path to it."""
    url = f"{provider.url}{slash}?api-version=2024-10-21&tenant=a%20b"
    monkeypatch.setenv("OPENAI_BASE_URL", url if of_environment else "http://127.0.0.1:1/v1")
    write(folder, name, **({} if of_environment else {"api_base": url}), headers={"api-key": "of-azure"})
    received = send(provider, init_kwargs={"key": "unused"})
    assert received.path == ("/embeddings" if name == EMBEDDINGS else "/chat/completions")
    assert parse_qs(received.query) == {"api-version": ["2024-10-21"], "tenant": ["a b"]}
    assert received.headers["api-key"] == "of-azure"


@EITHER
def test_openai_base_url_gets_openais_key(
    provider: Provider, name: str, send: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """llm itself does the same."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
    received = send(
        provider, **({"model_id": "3-small", "dimensions": 16} if name == EMBEDDINGS else {"model_id": "4o"})
    )
    assert (received.key, received.headers["openai-organization"]) == ("sk-of-openai", "org-of-openai")


@EITHER
@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_sends_no_text_or_header_to_another_url(
    provider: Provider, folder: Path, name: str, send: Any, status: int
) -> None:
    write(folder, name, api_base=provider.url, headers={"X-Key": "of-the-file"})
    with Provider() as other:
        provider.inject("error", status=status, headers={"location": f"{other.url}/embeddings"})
        with pytest.raises(SettingsError, match=f"HTTP {status}.* redirects to another URL"):
            send(provider)
        assert other.stats().connections == 0


@EITHER
@pytest.mark.parametrize("key", ["sk-copied-with-its-end\n", "\u201csk-copied-with-quotes\u201d"])
def test_a_key_that_no_header_can_hold_raises_a_settings_error(
    provider: Provider, folder: Path, name: str, send: Any, key: str
) -> None:
    """So no document is refused, and the request is not retried."""
    write(folder, name, api_base=provider.url)
    with pytest.raises(SettingsError, match="the key or a header cannot be sent") as caught:
        send(provider, init_kwargs={"key": key})
    assert "copied" not in str(caught.value)


@EITHER
@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:80", "ftp://127.0.0.1/v1", "http://[::1"])
def test_an_invalid_url_raises_a_settings_error(
    provider: Provider, folder: Path, name: str, send: Any, address: str
) -> None:
    write(folder, name, api_base=address)
    with pytest.raises(SettingsError, match=r"write the URL .* as https://host/v1"):
        send(provider)


@EITHER
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HTTP_PROXY", "nonsense://127.0.0.1"),
        ("ALL_PROXY", "socks5://127.0.0.1:1"),
        ("OPENAI_BASE_URL", "http://[::1"),
    ],
)
def test_invalid_variables_of_the_environment_are_reported_in_one_sentence(
    provider: Provider,
    folder: Path,
    name: str,
    send: Any,
    variable: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(folder, name, api_base=provider.url)
    monkeypatch.setenv(variable, value)
    if variable == "OPENAI_BASE_URL":  # does not apply to this server
        assert send(provider).body["model"] == "served"
    else:
        with pytest.raises(VectorIndexError):
            send(provider)


def test_a_proxy_of_the_environment_is_used_except_for_no_proxy(
    provider: Provider, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, api_base="http://gateway.invalid/v1")
    monkeypatch.setenv("HTTP_PROXY", provider.url.removesuffix("/v1"))
    with pytest.raises(SettingsError, match="HTTP 404"):  # from the stand-in, which is not a proxy
        backend().embed(["text"])
    monkeypatch.setenv("NO_PROXY", "gateway.invalid")
    with pytest.raises(ProviderUnavailable):
        backend().embed(["text"])


def test_a_replaced_key_in_keys_json_is_used_at_once(provider: Provider, folder: Path) -> None:
    """A file in the middle of a write is retried."""
    write(folder, api_base=provider.url, api_key_name="gateway")
    (folder / "keys.json").write_text('{"gateway": "the-first"}')
    made = backend()
    made.embed(["text"])
    (folder / "keys.json").write_text("{")
    with pytest.raises(ProviderUnavailable):
        made.embed(["text"])
    (folder / "keys.json").write_text('{"gateway": "the-second"}')
    made.embed(["text"])
    assert [request.key for request in provider.requests] == ["the-first", "the-second"]


def test_concurrent_backends_never_mix_up_their_keys(provider: Provider, folder: Path) -> None:
    """With one model, six backends and eight threads, each text arrives with the key of its backend."""
    write(folder, api_base=provider.url)
    keys = [f"key-{number}" for number in range(6)]
    made = {key: backend(init_kwargs={"key": key}, dimensions=16) for key in keys}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: made[key].embed([f"text of {key}"]), keys * 20))
    received = [(request.key, request.body["input"]) for request in provider.requests]
    assert sorted(received) == sorted((key, [f"text of {key}"]) for key in keys * 20)


# Connections


def test_a_backend_keeps_one_client_and_one_connection(
    server: LLMEmbeddingBackend, provider: Provider
) -> None:
    for number in range(5):
        server.embed([f"text {number}"])
    assert (provider.stats().requests, provider.stats().connections) == (5, 0)


@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")  # Python 3.12 and later
def test_a_forked_process_has_its_own_connections(server: LLMEmbeddingBackend, provider: Provider) -> None:
    child = multiprocessing.get_context("fork").Process(target=server.embed, args=(["of the child"],))
    child.start()
    child.join(120)
    assert child.exitcode == 0
    server.embed(["of the parent"])
    assert (provider.stats().requests, provider.stats().connections) == (2, 1)


# Faults of servers


@pytest.mark.parametrize("fault", ["no_base64", "garbled_base64", "floats"])
def test_a_server_without_base64_gets_requests_for_floats_from_then_on(
    fault: str, provider: Provider, folder: Path
) -> None:
    write(folder, api_base=provider.url)
    made = backend()
    honest = made.embed(["one", "two"])
    provider.reset()
    provider.inject(fault, times=1 if fault == "garbled_base64" else None)
    for _ in range(2):
        np.testing.assert_allclose(made.embed(["one", "two"]), honest, atol=1e-6)
    assert encodings(provider) == ["base64", "float", "float"][:: 2 if fault == "floats" else 1]


def test_base64_of_another_length_is_checked_against_floats(provider: Provider, folder: Path) -> None:
    """LiteLLM in front of Ollama returned a quarter of the numbers."""
    write(folder, api_base=provider.url)
    made = backend()
    honest = made.embed(["one"])
    provider.inject("wrong_dimension", times=1)
    np.testing.assert_allclose(made.embed(["one"]), honest, atol=1e-6)
    assert encodings(provider) == ["float", "base64", "float"]


def test_vectors_are_in_the_order_of_the_texts_for_any_order_of_the_answer(
    server: LLMEmbeddingBackend, provider: Provider
) -> None:
    texts = [f"text number {number}" for number in range(9)]
    honest = server.embed(texts)
    provider.inject("reversed", times=1)
    np.testing.assert_array_equal(server.embed(texts), honest)


@pytest.mark.parametrize(
    ("fault", "arguments", "kind", "said"),
    [
        ("one_missing", {}, Refused, "no vector for 1 of 2 texts"),
        ("not_a_number", {}, Refused, "zeros or NaN"),
        ("zeros", {}, Refused, "zeros or NaN"),
        ("wrong_dimension", {}, Refused, "a vector of length 15 instead of 16 for 1 of 2 texts"),
        ("empty_object", {}, ProviderUnavailable, "no list of embeddings"),
        ("malformed_json", {}, ProviderUnavailable, "could not be read"),
        ("plain_text", {}, ProviderUnavailable, "http://127.0.0.1:.*/v1/ sends no result"),
        ("raw", {"body": '{"object": "list", "data": []}'}, ProviderUnavailable, "no list of embeddings"),
        (
            "raw",
            {"body": '{"data": [{"embedding": null}, {"embedding": [1]}]}', "times": 2},
            Refused,
            "no vector for 1 of 2 texts",
        ),
        (
            "raw",
            {"body": '{"data": [{"index": 0}, {"index": 9}]}', "times": 2},
            Refused,
            "no vector for 2 of 2",
        ),
        (
            "raw",
            {"body": '{"error": {"code": 503, "message": "No instances"}}'},
            ProviderUnavailable,
            "503.*No inst",
        ),
        ("unauthorized", {}, SettingsError, "HTTP 401"),
        ("unknown_model", {}, SettingsError, "HTTP 404"),
        ("too_large", {}, TooLarge, "context_length_exceeded"),
        ("payload_too_large", {}, TooLarge, "HTTP 413"),
        ("content_policy", {}, Refused, "HTTP 400"),
        ("rate_limited", {"headers": {"retry-after": "60"}}, ProviderUnavailable, "HTTP 429"),
        ("server_error", {}, ProviderUnavailable, "HTTP 500"),
        ("bad_gateway", {}, ProviderUnavailable, "HTTP 502"),
        ("cut", {}, ProviderUnavailable, "does not answer"),
        ("hang", {}, ProviderUnavailable, "does not answer"),
    ],
)
def test_a_fault_of_the_server_raises_the_matching_error(
    provider: Provider, folder: Path, fault: str, arguments: Any, kind: type[VectorIndexError], said: str
) -> None:
    """After one request, or two if floats are requested too, and without waiting for a Retry-After."""
    write(folder, api_base=provider.url)
    made = backend(timeout_seconds=2 if fault == "hang" else 60, init_kwargs={"key": "secret-of-the-test"})
    made.embed(["first"])
    provider.inject(fault, **arguments)
    with pytest.raises(kind, match=said) as caught:
        made.embed(["a text of the board", "another"])
    assert provider.stats().faults == arguments.get("times", 1)
    assert "board" not in str(caught.value)
    assert "secret-of" not in str(caught.value)
    assert made.embed(["and it goes on"]).shape == (1, 16)


def test_rows_reach_numpy_without_becoming_lists(server: LLMEmbeddingBackend) -> None:
    """Neither our code nor llm's copies a vector into Python numbers."""
    rows = list(embedding_model("default", "mine", {}).embed_multi(["one", "two"]))
    assert [type(row) for row in rows] == [np.ndarray, np.ndarray]


def test_limits_in_the_table_follow_the_servers_name_of_a_model(provider: Provider, folder: Path) -> None:
    write(folder, EMBEDDINGS, api_base=provider.url, model_name="bge-m3")
    assert LLMEmbeddingBackend(name="default", model_id="mine").token_limit == 8_192
    write(folder, CHAT, api_base=provider.url, model_name="gpt-4o-mini")
    assert LLMChatBackend(name="default", model_id="mine").token_limit == 128_000
    write(folder, CHAT, api_base=provider.url, model_name="llama-of-ours")
    with pytest.raises(SettingsError, match="TOKEN_LIMIT of chat backend 'default' is missing"):
        LLMChatBackend(name="default", model_id="mine")
