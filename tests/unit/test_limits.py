"""The table of known models is complete, has sources, and matches the models of `llm`."""

import os
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from worker.backends.limits import chat_limits, embedding_limits
from worker.tokens import counter

TABLE = tomllib.loads((files("worker.backends") / "limits.toml").read_text())
EMBEDDING = [name for row in TABLE["embedding"] for name in row["models"]]
CHAT = [name for row in TABLE["chat"] for name in row["models"]]


SIZES = {"token_limit", "batch_token_limit", "batch_size", "dimensions", "chunk_tokens", "output_tokens"}


@pytest.mark.parametrize("row", [*TABLE["embedding"], *TABLE["chat"]], ids=lambda row: str(row["models"][0]))
def test_every_row_has_a_source_and_whole_numbers(row: dict[str, object]) -> None:
    assert len(str(row["source"])) > 5
    assert row.keys() <= {"models", "tokenizer", "source", *SIZES}
    assert all(isinstance(row[key], int) and int(str(row[key])) > 0 for key in SIZES & row.keys())


@pytest.mark.parametrize("name", EMBEDDING)
def test_the_limits_of_an_embedding_model_are_consistent(name: str) -> None:
    """A chunk fits into an input, and an input into a request."""
    limits = embedding_limits(name)
    assert limits is not None
    assert (
        (limits.chunk_tokens or 1) <= limits.token_limit <= (limits.batch_token_limit or limits.token_limit)
    )
    assert limits.tokenizer is None or counter(limits.tokenizer)("word")


@pytest.mark.parametrize("name", CHAT)
def test_an_answer_leaves_room_for_a_prompt(name: str) -> None:
    limits = chat_limits(name)
    assert limits is not None
    assert (limits.output_tokens or 0) < limits.token_limit
    assert limits.tokenizer is None or counter(limits.tokenizer)("word")


@pytest.mark.parametrize("names", [EMBEDDING, CHAT], ids=["embedding", "chat"])
def test_every_name_has_one_row_in_the_form_that_is_looked_up(names: list[str]) -> None:
    assert len(names) == len(set(names))
    assert not [name for name in names if name != name.lower() or "/" in name or name.endswith(":latest")]


@pytest.mark.slow
def test_every_model_that_llm_ships_is_known(tmp_path: Path) -> None:
    """If a new release of llm adds models, this test reports their missing rows before a user does."""
    code = (
        "import llm; from worker.backends.limits import chat_limits, embedding_limits; "
        "print([m.model_id for m in llm.get_embedding_models() if not embedding_limits(m.model_id)]"
        " + [m.model_id for m in llm.get_models() if not chat_limits(m.model_id)])"
    )
    environment = {**os.environ, "LLM_LOAD_PLUGINS": "", "LLM_USER_PATH": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment) == "[]\n"


@pytest.mark.parametrize("name", ["ada-002", "text-embedding-3-small", "3-large-256"])
def test_openai_takes_8191_tokens_per_input_and_300000_per_request(name: str) -> None:
    limits = embedding_limits(name)
    assert limits is not None
    assert (limits.token_limit, limits.batch_token_limit, limits.batch_size) == (8_191, 300_000, 2_048)
    assert limits.tokenizer == "cl100k_base"


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("gpt-5-2025-08-07", "gpt-5"),
        ("claude-opus-4-5-20251101", "claude-opus-4-5"),
        ("gemini/gemini-2.5-flash", "gemini-2.5-flash"),
        ("openrouter/openai/gpt-4o-mini", "gpt-4o-mini"),
        ("models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("mistral/mistral-large-latest", "mistral-large-latest"),
    ],
)
def test_a_vendor_or_a_date_in_a_model_id_keeps_the_limits(name: str, same: str) -> None:
    assert chat_limits(name) == chat_limits(same) is not None


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("ollama/nomic-embed-text:latest", "nomic-embed-text"),
        ("ollama/snowflake-arctic-embed:22m", "snowflake-arctic-embed:22m"),
        ("BAAI/bge-m3", "bge-m3"),
        ("Qwen/Qwen3-Embedding-0.6B", "qwen3-embedding-0.6b"),
        ("models/gemini-embedding-001", "gemini-embedding-001"),
    ],
)
def test_open_models_are_known_under_the_names_of_their_servers(name: str, same: str) -> None:
    assert embedding_limits(name) == embedding_limits(same) is not None


def test_a_tag_names_another_model() -> None:
    """Tags name models with different vectors, of 22 or of 335 million parameters. An unknown tag has no limits."""
    small, large = embedding_limits("snowflake-arctic-embed:22m"), embedding_limits("snowflake-arctic-embed")
    assert small is not None
    assert large is not None
    assert (small.dimensions, large.dimensions) == (384, 1_024)
    assert embedding_limits("snowflake-arctic-embed:1b") is None


@pytest.mark.parametrize("name", ["ollama/mistral-large-latest", "ollama/gpt-4o:latest"])
def test_chat_models_of_ollama_have_no_known_limit(name: str) -> None:
    assert chat_limits(name) is None


def test_an_unknown_model_has_no_limits() -> None:
    assert embedding_limits("nope") is None
    assert chat_limits("nope") is None
