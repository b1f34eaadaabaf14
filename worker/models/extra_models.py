"""Models of OpenAI-compatible servers, from files in the folder of `llm` (LLM_USER_PATH).

`llm` itself reads `extra-openai-models.yaml`, for chat. This module only checks it, since `llm` fails at every look-up
of any model while the file is broken. `extra-openai-embedding-models.yaml` has the same form:

    - model_id: nomic                        # the name for MODEL_ID
      model_name: nomic-embed-text           # the server's name for it
      api_base: http://127.0.0.1:11434/v1    # default: OPENAI_BASE_URL, else OpenAI
      aliases: [nomic-text]
      api_key_name: gateway                  # a key of `llm keys set gateway`; default: no key
      headers: {X-Team: search}
      dimensions: 256                        # sent with each request; only for models that can shorten their vectors

Set limits such as TOKEN_LIMIT and BATCH_SIZE in the CONFIG of the backend.
"""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llm
import yaml  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker.errors import SettingsError
from worker.models.openai_embeddings import OpenAIEmbeddings

CHAT_FILE = "extra-openai-models.yaml"
EMBEDDING_FILE = "extra-openai-embedding-models.yaml"


class ModelEntry(BaseModel):
    """An entry of a file of models."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)

    model_id: str = Field(min_length=1)
    model_name: str = Field(min_length=1)
    api_base: str | None = Field(default=None, min_length=1)
    api_key_name: str | None = None
    aliases: list[str] | None = None
    headers: dict[str, str] | None = None


class EmbeddingModelEntry(ModelEntry):
    """An entry of the file of embedding models."""

    model_config = ConfigDict(extra="forbid")

    dimensions: int | None = Field(default=None, ge=1)


def embedding_models() -> Iterator[tuple[OpenAIEmbeddings, list[str]]]:
    """Yield the models of EMBEDDING_FILE with their aliases. Raises SettingsError naming the entry and the fix."""
    taken: set[str] = set()
    for entry in _entries(EMBEDDING_FILE, EmbeddingModelEntry):
        names = {entry.model_id, *(entry.aliases or [])}
        if twice := sorted(names & taken):
            raise SettingsError(
                f"{EMBEDDING_FILE} has two models named {twice[0]!r}: give one of them another model_id or alias"
            )
        taken |= names
        yield OpenAIEmbeddings(**entry.model_dump(exclude={"aliases"})), entry.aliases or []


def check_chat_models() -> None:
    """Raise SettingsError for an entry of CHAT_FILE that `llm` cannot read. Unknown keys are for `llm`."""
    _entries(CHAT_FILE, ModelEntry)


def _entries(name: str, form: type[Any]) -> list[Any]:
    path: Path = llm.user_dir() / name  # type: ignore[no-untyped-call]
    if not path.exists():
        return []
    try:
        found = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{path} is not YAML{where}: correct it, or remove the file") from None
    if not isinstance(found, list):
        what = "empty" if found is None else f"of type {type(found).__name__}"
        raise SettingsError(
            f"{path} is {what}: write a list of entries with model_id and model_name, or remove the file"
        )
    return [_entry(path, number, value, form) for number, value in enumerate(found, start=1)]


def _entry(path: Path, number: int, value: object, form: type[Any]) -> Any:
    name = value.get("model_id") if isinstance(value, dict) else None
    where = f"entry {number}" + (f" ({name!r:.100})" if name else "")
    try:
        return form.model_validate(value)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, wrong["loc"]))
        if wrong["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, form.model_fields, n=1) or [", ".join(form.model_fields)]
            raise SettingsError(
                f"{where} of {path} has the unknown key {key!r}: use {near[0]}, or remove it"
            ) from None
        raise SettingsError(
            f"{where} of {path}: {key or 'the entry'} is wrong ({wrong['msg']}); correct it, or remove the entry"
        ) from None
