"""Settings written for wagtail-vector-index work: each row of its page on backends, run by a real worker.

`provider` replaces OpenAI, `gateway` any other host. The tests assert on the requests that they received.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures.system import CHAT, PATIENCE_SECONDS, System
from tests.provider import Provider, Request

pytestmark = pytest.mark.slow  # it starts a whole system

SETTINGS = """
CHAT = "wagtail_vector_index.ai_utils.backends.llm.LLMChatBackend"
EMBEDDING = "wagtail_vector_index.ai_utils.backends.llm.LLMEmbeddingBackend"
WAGTAIL_VECTOR_INDEX_QUERY_PROMPT = "Answer as a librarian."
WAGTAIL_VECTOR_INDEX = {
    "CHAT_BACKENDS": {
        "default": {"CLASS": CHAT, "CONFIG": {"MODEL_ID": "chatgpt"}},
        "keyed": {"CLASS": CHAT, "CONFIG": {"MODEL_ID": "gpt-3.5-turbo", "INIT_KWARGS": {"key": "key-of-chat"}}},
        "prompted": {
            "CLASS": CHAT,
            "CONFIG": {
                "MODEL_ID": "gpt-4o-mini",
                "PROMPT_KWARGS": {
                    "system": "Answer in JSON.", "temperature": 0.2, "max_tokens": 50, "json_object": True
                },
            },
        },
        "custom": {
            "CLASS": CHAT,
            "CONFIG": {"MODEL_ID": "house-chat", "TOKEN_LIMIT": 4096, "INIT_KWARGS": {"key": "key-of-custom"}},
        },
        "proxy": {"CLASS": CHAT, "CONFIG": {"MODEL_ID": "proxied", "TOKEN_LIMIT": 4096}},
        "wagtail_ai": {"CLASS": "wagtail_ai.ai.llm.LLMBackend", "CONFIG": {"MODEL_ID": "gpt-4o-mini"}},
    },
    "EMBEDDING_BACKENDS": {
        "default": {"CLASS": EMBEDDING, "CONFIG": {}},
        "alias": {"CLASS": EMBEDDING, "CONFIG": {"MODEL_ID": "3-small", "EMBEDDING_OUTPUT_DIMENSIONS": 256}},
        "first": {"CLASS": EMBEDDING, "CONFIG": {"MODEL_ID": "3-small", "INIT_KWARGS": {"key": "key-of-first"}}},
        "second": {"CLASS": EMBEDDING, "CONFIG": {"MODEL_ID": "3-small", "INIT_KWARGS": {"key": "key-of-second"}}},
        "custom": {"CLASS": EMBEDDING, "CONFIG": {"MODEL_ID": "house-embedding", "TOKEN_LIMIT": 512}},
    },
    "INDEXES": {name: {"EMBEDDING_BACKEND": name} for name in ("default", "alias", "first", "second", "custom")},
}
"""
CHAT_MODELS = """
- model_id: house-chat
  model_name: house/chat-7b
  api_base: {gateway}
- model_id: proxied
  model_name: gpt-3.5-turbo
  api_base: {gateway}
  headers: {{Helicone-Auth: "Bearer key-of-the-proxy", X-Team: search}}
"""
EMBEDDING_MODELS = """
- model_id: house-embedding
  model_name: house/embed-small
  api_base: {gateway}
"""
OPENAI_KEY = "key-of-the-environment"
TEXT = "A book may be kept for four weeks."


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture(scope="module")
def gateway() -> Iterator[Provider]:
    with Provider(dimensions=96) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def pasted(
    start_system: Callable[..., Any],
    provider: Provider,
    gateway: Provider,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[System]:
    """A worker for all queues, with one document in the default index."""
    folder = tmp_path_factory.mktemp("pasted")
    (folder / "site_settings.py").write_text(SETTINGS)
    (folder / "llm").mkdir()
    (folder / "llm/extra-openai-models.yaml").write_text(CHAT_MODELS.format(gateway=gateway.url))
    (folder / "llm/extra-openai-embedding-models.yaml").write_text(
        EMBEDDING_MODELS.format(gateway=gateway.url)
    )
    variables = {
        "VECTOR_INDEX_SETTINGS": str(folder / "site_settings.py"),
        "LLM_USER_PATH": str(folder / "llm"),
        "OPENAI_API_KEY": OPENAI_KEY,
        "OPENAI_BASE_URL": provider.url,
    }
    with start_system(folder, {"worker": ["worker"]}, **variables) as system:
        system.call("tasks.index_documents", documents=[{"id": "first", "text": "Films are kept for two."}])
        yield system


@pytest.fixture(autouse=True)
def fresh_providers(pasted: System, provider: Provider, gateway: Provider) -> None:
    provider.reset()
    gateway.reset()


def index(pasted: System, name: str, text: str = TEXT) -> dict[str, Any]:
    documents = [{"id": f"{name}-{len(text)}", "text": text}]
    result: dict[str, Any] = pasted.call("tasks.index_documents", documents=documents, index=name)
    assert (result["indexed"], result["failed"]) == (1, [])
    return result


def ask(pasted: System, backend: str | None = None) -> str:
    answer = pasted.call("tasks.chat", CHAT, question="How long is a film kept?", chat_backend=backend)
    return str(answer["answer"])


def sent(server: Provider, path: str) -> Request:
    """The last request to the path; earlier ones belong to the retrieval."""
    return [request for request in server.requests if request.path == path][-1]


def inputs(server: Provider) -> set[str]:
    return {
        text for request in server.requests if request.path == "/embeddings" for text in request.body["input"]
    }


def test_chat_model_is_found_by_its_alias(pasted: System, provider: Provider) -> None:
    """The prompt has the QUERY_PROMPT of the settings module."""
    assert ask(pasted) == provider.answer
    request = sent(provider, "/chat/completions")
    assert request.body["model"] == "gpt-3.5-turbo"
    assert request.key == OPENAI_KEY
    first = request.body["messages"][0]
    assert first["role"] == "system"
    assert "Answer as a librarian." in first["content"]


def test_key_of_init_kwargs_applies_to_its_backend_only(pasted: System, provider: Provider) -> None:
    """It is sent in the Authorization header."""
    ask(pasted, "keyed")
    assert sent(provider, "/chat/completions").headers["authorization"] == "Bearer key-of-chat"
    ask(pasted)
    assert sent(provider, "/chat/completions").key == OPENAI_KEY


def test_prompt_kwargs_reach_the_provider(pasted: System, provider: Provider) -> None:
    """All are sent in the body; `system` replaces the QUERY_PROMPT."""
    ask(pasted, "prompted")
    body = sent(provider, "/chat/completions").body
    assert body["model"] == "gpt-4o-mini"
    assert (body["temperature"], body["max_tokens"]) == (0.2, 50)
    assert body["response_format"] == {"type": "json_object"}
    [system] = [message["content"] for message in body["messages"] if message["role"] == "system"]
    assert "Answer in JSON." in system
    assert "librarian" not in str(body["messages"])


def test_embedding_backend_without_model_uses_ada_002(pasted: System, provider: Provider) -> None:
    """As in wagtail-vector-index, a CONFIG without MODEL_ID means ada-002."""
    index(pasted, "default")
    request = sent(provider, "/embeddings")
    assert request.body["model"] == "text-embedding-ada-002"
    assert "dimensions" not in request.body  # ada-002 refuses it
    assert request.key == OPENAI_KEY
    assert TEXT in inputs(provider)


def test_embedding_output_dimensions_reach_the_provider(pasted: System, provider: Provider) -> None:
    index(pasted, "alias")
    body = sent(provider, "/embeddings").body
    assert (body["model"], body["dimensions"]) == ("text-embedding-3-small", 256)
    assert TEXT in inputs(provider)


def test_backends_with_one_model_keep_their_own_keys(pasted: System, provider: Provider) -> None:
    jobs = [
        pasted.send(
            "tasks.index_documents",
            documents=[{"id": number, "text": f"Shelf {number} of the {name} library."}],
            index=name,
        )
        for number in range(8)
        for name in ("first", "second")
    ]
    assert all(job.get(timeout=PATIENCE_SECONDS)["indexed"] == 1 for job in jobs)
    for request in provider.requests:
        other = "second" if request.key == "key-of-first" else "first"
        assert request.key in ("key-of-first", "key-of-second")
        assert f"the {other} library" not in str(request.body["input"])
    assert {request.key for request in provider.requests} == {"key-of-first", "key-of-second"}


def test_custom_openai_compatible_chat_model_answers(
    pasted: System, provider: Provider, gateway: Provider
) -> None:
    """Defined in extra-openai-models.yaml: the request has the server's model name and the key of INIT_KWARGS."""
    assert ask(pasted, "custom") == gateway.answer
    request = sent(gateway, "/chat/completions")
    assert request.body["model"] == "house/chat-7b"
    assert request.key == "key-of-custom"
    assert OPENAI_KEY not in str(request)
    assert provider.prompts == []


@pytest.mark.slow
def test_custom_openai_compatible_embedding_model_embeds(
    pasted: System, provider: Provider, gateway: Provider
) -> None:
    """Defined in extra-openai-embedding-models.yaml; a probe finds its dimensions."""
    index(pasted, "custom")
    assert {request.body["model"] for request in gateway.requests} == {"house/embed-small"}
    assert TEXT in inputs(gateway)
    assert OPENAI_KEY not in str(list(gateway.requests))
    assert inputs(provider) == set()
    [build] = pasted.call("tasks.status", index="custom")["builds"]
    assert build["recipe"]["dimensions"] == 96


def test_custom_headers_reach_the_proxy_without_the_openai_key(pasted: System, gateway: Provider) -> None:
    """The headers are defined in extra-openai-models.yaml."""
    assert ask(pasted, "proxy") == gateway.answer
    request = sent(gateway, "/chat/completions")
    assert request.headers["helicone-auth"] == "Bearer key-of-the-proxy"
    assert request.headers["x-team"] == "search"
    assert OPENAI_KEY not in str(request)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "model_id", "fix"),
    [
        ("EMBEDDING_BACKENDS", "house-embedding", "TOKEN_LIMIT of embedding backend 'default' is missing"),
        ("CHAT_BACKENDS", "house-chat", "TOKEN_LIMIT of chat backend 'default' is missing"),
    ],
)
def test_worker_exits_without_token_limit_for_a_custom_model(
    pasted: System, tmp_path: Path, section: str, model_id: str, fix: str
) -> None:
    """The message names the missing setting. With TOKEN_LIMIT, the custom backends of this module work."""
    sections = {section: {"default": {"CONFIG": {"MODEL_ID": model_id}}}}
    (tmp_path / "site_settings.py").write_text(f"WAGTAIL_VECTOR_INDEX = {json.dumps(sections)}")
    done = pasted.command("worker", VECTOR_INDEX_SETTINGS=str(tmp_path / "site_settings.py"))
    assert done.returncode == 2
    assert fix in done.stderr
    assert model_id in done.stderr
    assert done.stderr.count("\n") == 1


def test_backend_class_of_wagtail_ai_answers(pasted: System, provider: Provider) -> None:
    assert ask(pasted, "wagtail_ai") == provider.answer
    assert sent(provider, "/chat/completions").body["model"] == "gpt-4o-mini"
