"""Plugins of `llm`: their models work as backends, and an unreachable provider is reported in one sentence.

`make test-all` installs the plugins into LLM_PLUGINS_FOLDER, which is on the PYTHONPATH of each command. No request
leaves the machine: a local server replaces the provider, or a proxy on a closed port.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.fixtures.system import PATIENCE_SECONDS, VECTOR_INDEX, user_environment

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:9"
OLLAMA_MODELS = {"nomic-embed-text:latest": "embedding", "tiny:1b": "completion"}


class Ollama(BaseHTTPRequestHandler):
    """The part of Ollama's HTTP API that its plugin uses; `embedded` collects the texts."""

    embedded: list[str]

    def do_GET(self) -> None:
        names = [{"model": name, "digest": f"sha-{name}"} for name in OLLAMA_MODELS]
        self._answer({"models": names} if self.path == "/api/tags" else {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answers: Mapping[str, Callable[[], dict[str, Any]]] = {
            "/api/show": lambda: {"capabilities": [OLLAMA_MODELS[body["model"]]], "model_info": {}},
            "/api/embed": lambda: self._embed(body["input"]),
            "/api/chat": lambda: {
                "model": body["model"],
                "message": {"role": "assistant", "content": "ok"},
                "done": True,
                "done_reason": "stop",
                "prompt_eval_count": 3,
                "eval_count": 1,
            },
        }
        self._answer(answers[self.path]())

    def _embed(self, texts: list[str]) -> dict[str, Any]:
        self.embedded.extend(texts)
        return {"embeddings": [[1.0] * 768 for _ in texts]}

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def ollama() -> Iterator[tuple[str, list[str]]]:
    """The URL of a running server, and the list of texts that it embedded."""
    embedded: list[str] = []
    handler = type("Handler", (Ollama,), {"embedded": embedded})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", embedded
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def plugins() -> Path:
    folder = os.environ.get("LLM_PLUGINS_FOLDER")
    if not folder and os.environ.get("CI") != "true":
        pytest.skip("LLM_PLUGINS_FOLDER names no folder with plugins of llm: run `make test-all`")
    assert folder, "LLM_PLUGINS_FOLDER is missing"
    return Path(folder).absolute()


@pytest.fixture
def run(plugins: Path, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run `vector-index` with the plugins installed and no provider reachable."""

    def command(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        offline = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "OLLAMA_HOST"), NOBODY)
        offline |= {
            "NO_PROXY": "127.0.0.1",
            "PYTHONPATH": str(plugins),
            "LLM_USER_PATH": str(tmp_path / "llm"),
        }
        return subprocess.run(
            [VECTOR_INDEX, *arguments],
            cwd=tmp_path,
            env=user_environment(tmp_path, **(offline | variables)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    return command


def settings(embedding: Sequence[str], chat: Sequence[str]) -> str:
    """VECTOR_INDEX with a backend for each model, named like it, and an index for each embedding backend."""
    sections = {
        f"{kind}_BACKENDS": {name: {"CONFIG": {"MODEL_ID": name}} for name in names}
        for kind, names in (("EMBEDDING", embedding), ("CHAT", chat))
    }
    indexes = {name: {"EMBEDDING_BACKEND": name, "CHAT_BACKEND": chat[0]} for name in embedding}
    return json.dumps({**sections, "INDEXES": indexes})


def checks(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """The checks of `doctor --json` by name; stderr must be empty."""
    assert done.stderr == ""
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def listed(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """The output of `models --json`, with its rows also by backend."""
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    return found | {row["backend"]: row for row in found["embedding"] + found["chat"] if row["backend"]}


def test_models_of_each_plugin_resolve_with_their_limits(run: Callable[..., Any]) -> None:
    """By their ids and by the plugin's aliases."""
    embedding = {
        "gemini-embedding-001": ("gemini-embedding-001", 3_072),
        "gemini-embedding-2-768": ("gemini-embedding-2-768", 768),
        "mistral-embed": ("mistral/mistral-embed", 1_024),
        "mistral/codestral-embed-512": ("mistral/codestral-embed-512", 512),
    }
    chat = {"gemini-2.5-flash": "gemini/gemini-2.5-flash", "mistral-large": "mistral/mistral-large-latest"}
    found = listed(run("models", "--json", VECTOR_INDEX=settings([*embedding], [*chat])))
    assert {name: (found[name]["model"], found[name]["dimensions"]) for name in embedding} == embedding
    assert {name: found[name]["model"] for name in chat} == chat
    assert all(found[name]["token_limit"] and found[name]["key"] == "missing" for name in [*embedding, *chat])
    plugins = {name.partition(" ")[0] for name in found["plugins"]}
    assert plugins == {"llm-gemini", "llm-mistral", "llm-ollama", "vector-index-worker"}


def test_doctor_reports_missing_keys_and_unreachable_providers(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    gemini = ("embedding gemini-embedding-001", "chat gemini-2.5-flash")
    mistral = ("embedding mistral-embed", "chat mistral-large")
    models = settings(["gemini-embedding-001", "mistral-embed"], ["gemini-2.5-flash", "mistral-large"])
    found = checks(run("doctor", "--json", VECTOR_INDEX=models))
    for names, key in ((gemini, "LLM_GEMINI_KEY"), (mistral, "LLM_MISTRAL_KEY")):
        for name in names:
            assert found[name]["code"] == 2
            assert f"set the {key} environment variable" in found[name]["detail"]
    (tmp_path / "llm/mistral_models.json").write_text('{"data": [{"id": "mistral-large-latest"}]}')
    keys = {"LLM_GEMINI_KEY": "geheim-12345", "LLM_MISTRAL_KEY": "geheim-12345"}
    found = checks(run("doctor", "--json", VECTOR_INDEX=models, **keys))
    for name in (*gemini, *mistral):
        assert found[name]["code"] == 3
        assert "the provider does not answer; check its URL, or wait" in found[name]["detail"]
        assert "geheim" not in found[name]["detail"]


def test_models_names_the_plugin_whose_provider_is_unreachable(
    run: Callable[..., Any],
) -> None:
    done = run("models", LLM_MISTRAL_KEY="geheim-12345")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("vector-index: the models of llm_mistral: ConnectError ")
    assert done.stderr.count("\n") == 1


def test_ollama_models_work_while_the_server_is_up(run: Callable[..., Any]) -> None:
    """Models resolve by name and by tag. A chat model of Ollama needs TOKEN_LIMIT."""
    sections = {
        "EMBEDDING_BACKENDS": {"default": {"CONFIG": {"MODEL_ID": "ollama/nomic-embed-text"}}},
        "CHAT_BACKENDS": {"default": {"CONFIG": {"MODEL_ID": "ollama/tiny:1b", "TOKEN_LIMIT": 4_096}}},
    }
    with ollama() as (url, embedded):
        variables = {"OLLAMA_HOST": url, "VECTOR_INDEX": json.dumps(sections)}
        found = json.loads(run("models", "--json", **variables).stdout)
        assert embedded == []
        looked_at = checks(run("doctor", "--json", **variables))
    embedding, chat = found["embedding"][0], found["chat"][0]
    assert embedding["model"] == "ollama/nomic-embed-text:latest"
    assert (embedding["token_limit"], embedding["dimensions"]) == (2_048, 768)
    assert (chat["model"], chat["token_limit"]) == ("ollama/tiny:1b", 4_096)
    assert "returned a vector of length 768 in" in looked_at["embedding default"]["detail"]
    assert "ollama/tiny:1b answered 'ok' in" in looked_at["chat default"]["detail"]
    # a word, then as many words at once as BATCH_SIZE allows
    assert embedded == ["dimensions", *(f"dimensions {n}" for n in range(len(embedded) - 1))]


def test_doctor_says_to_start_the_ollama_server(
    run: Callable[..., Any],
) -> None:
    fix = "start the server of the plugin ollama"
    variables = {"EMBEDDING_MODEL": "ollama/nomic-embed-text", "CHAT_MODEL": "ollama/tiny:1b"}
    found = checks(run("doctor", "--json", **variables))
    for backend in ("embedding default", "chat default"):
        assert found[backend]["code"] == 2
        assert fix in found[backend]["detail"]
    done = run("up", **variables)
    assert (done.returncode, done.stdout) == (2, "")
    assert fix in done.stderr
    assert done.stderr.count("\n") == 1
