"""The table of known models is complete, sourced, and fits what `llm` registers."""

import tomllib
from importlib.resources import files

import pytest

from worker.limits import chat_limits, embedding_limits
from worker.tokens import counter

TABLE = tomllib.loads((files("worker") / "limits.toml").read_text())
EMBEDDING = [name for row in TABLE["embedding"] for name in row["models"]]
CHAT = [name for row in TABLE["chat"] for name in row["models"]]


@pytest.mark.parametrize("name", EMBEDDING)
def test_every_embedding_model_has_a_limit_and_a_source(name: str) -> None:
    limits = embedding_limits(name)
    assert limits is not None
    assert limits.source
    assert (
        0
        < (limits.chunk_tokens or 1)
        <= limits.token_limit
        <= (limits.batch_token_limit or limits.token_limit)
    )
    assert limits.tokenizer is None or counter(limits.tokenizer)("word")


@pytest.mark.parametrize("name", CHAT)
def test_every_chat_model_has_a_limit_and_a_source(name: str) -> None:
    limits = chat_limits(name)
    assert limits is not None
    assert limits.source
    assert (limits.output_tokens or 0) < limits.token_limit


@pytest.mark.parametrize("names", [EMBEDDING, CHAT], ids=["embedding", "chat"])
def test_no_model_has_two_rows(names: list[str]) -> None:
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", ["ada-002", "text-embedding-3-small", "3-large-256"])
def test_openai_takes_8191_tokens_an_input_and_300000_a_request(name: str) -> None:
    limits = embedding_limits(name)
    assert limits is not None
    assert (limits.token_limit, limits.batch_token_limit, limits.batch_size) == (8_191, 300_000, 2_048)
    assert limits.tokenizer == "cl100k_base"


def test_a_dated_name_is_the_same_model() -> None:
    assert chat_limits("gpt-5-2025-08-07") == chat_limits("gpt-5")


def test_an_unknown_model_has_no_limits() -> None:
    assert embedding_limits("nope") is None
    assert chat_limits("nope") is None
