"""Look up a model in `llm`, and return a copy with INIT_KWARGS as its attributes and with its own key only."""

import copy
import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import llm
import openai
from llm.models import EmbeddingModel, Model

from worker.backends import load_plugins
from worker.errors import SettingsError

AnyModel = TypeVar("AnyModel", EmbeddingModel, Model)

# entry points of plugins that ask a server for its models, and have none while it is down
SERVER_PLUGINS = ("ollama",)
# headers of the openai package itself; other headers come from the environment
_HEADERS_OF_THE_PACKAGE = ("accept", "content-type", "user-agent", "x-stainless-")


def embedding_model(name: str, model_id: str, init_kwargs: Mapping[str, Any]) -> EmbeddingModel:
    """Return a copy of the embedding model with INIT_KWARGS set, since plugins may share one object.

    Raises SettingsError.
    """
    load_plugins()
    owner = f"embedding backend {name!r}"
    try:
        model: EmbeddingModel = copy.copy(llm.get_embedding_model(model_id))  # type: ignore[no-untyped-call]
    except llm.UnknownModelError:
        raise _unknown(model_id, owner, llm.get_embedding_model_aliases(), "llm embed-models") from None
    if getattr(model, "truncate", False):
        # llm-ollama lets its server silently cut a long text; with an error, the text can be split
        model.truncate = False  # type: ignore[attr-defined]
    return _with_key_argument(_with_own_key(_with_attributes(model, owner, init_kwargs), init_kwargs))


def chat_model(name: str, model_id: str, init_kwargs: Mapping[str, Any]) -> Model:
    """Return a copy of the chat model with INIT_KWARGS set, since plugins may share one object.

    Raises SettingsError.
    """
    load_plugins()
    owner = f"chat backend {name!r}"
    try:
        model: Model = copy.copy(llm.get_model(model_id))
    except llm.UnknownModelError:
        raise _unknown(model_id, owner, llm.get_model_aliases(), "llm models") from None
    return _with_own_key(_with_attributes(model, owner, init_kwargs), init_kwargs)


def secrets(model: EmbeddingModel | Model, init_kwargs: Mapping[str, Any]) -> list[str]:
    """The strings that messages must hide: those of INIT_KWARGS and of headers, and the key of the model."""
    return [*_strings(init_kwargs), *_strings(getattr(model, "headers", None)), *_key(model)]


def name_for_limits(model: EmbeddingModel | Model) -> str:
    """The name to look limits up by: the server's, where an operator may choose any model_id for its model.

    Models of plugins have ids of their own, which may stand for a length of vectors: mistral/codestral-embed-512.
    """
    own_name = getattr(model, "model_name", None) if hasattr(model, "api_base") else None
    return own_name or model.model_id


def _unknown(model_id: str, owner: str, known: Iterable[str], command: str) -> SettingsError:
    near = difflib.get_close_matches(model_id, known, n=1)
    hint = f" (the nearest is {near[0]!r})" if near else ""
    servers = sorted({name for name, _ in llm.plugins.pm.list_name_plugin()}.intersection(SERVER_PLUGINS))
    down = f", or start the server of the plugin {' or '.join(servers)}" if servers else ""
    return SettingsError(
        f"MODEL_ID {model_id!r} of {owner} is unknown{hint}: use one that `{command}` lists, or install the llm plugin "
        f"that provides it{down}"
    )


def _with_attributes(model: AnyModel, owner: str, init_kwargs: Mapping[str, Any]) -> AnyModel:
    for attribute, value in init_kwargs.items():
        if not hasattr(model, attribute) or callable(getattr(model, attribute)):
            raise SettingsError(
                f"INIT_KWARGS of {owner} has {attribute!r}, which is not an attribute of {model.model_id}: use "
                f"{', '.join(sorted(_attributes(model)))}"
            )
        _check(attribute, value, owner)
        setattr(model, attribute, value)
    return model


def _check(attribute: str, value: object, owner: str) -> None:
    """Check an attribute that each request uses. A wrong value may be a secret, so the message hides it."""
    if value is None or attribute not in ("api_base", "headers", "key"):
        return
    if attribute == "headers":
        good = isinstance(value, Mapping) and all(isinstance(part, str) for part in (*value, *value.values()))
        wanted = "an object of strings"
    else:
        good, wanted = isinstance(value, str) and value != "", "a non-empty string"
    if not good:
        raise SettingsError(
            f"INIT_KWARGS of {owner} has {attribute!r} of type {type(value).__name__}: set it to {wanted}, or remove it"
        )


def _with_own_key(model: AnyModel, init_kwargs: Mapping[str, Any]) -> AnyModel:
    """Keep OpenAI's key and headers, from the environment and keys.json, for OpenAI and OPENAI_BASE_URL alone.

    A model with its own URL (`api_base`, from its file or INIT_KWARGS) uses the key of INIT_KWARGS as it is, else
    the key that its file names, else no key.
    """
    api_base = getattr(model, "api_base", None)
    if not api_base:
        return model
    if "key" in init_kwargs:
        # llm ignores the key of a model that needs none, and sends DUMMY_KEY
        model.needs_key = model.needs_key or model.model_id
    if _is_openai(api_base):
        return model
    if (
        "api_base" in init_kwargs
        and not {"key", "needs_key"} & init_kwargs.keys()
        and model.needs_key == "openai"
    ):
        model.needs_key = None
    if model.key_env_var == "OPENAI_API_KEY":
        model.key_env_var = None
    headers = getattr(model, "headers", None) or {}
    others = _headers_of_the_environment()
    if "authorization" in map(str.lower, others) and "authorization" not in map(str.lower, headers):
        headers = {"Authorization": f"Bearer {next(iter(_key(model)), 'DUMMY_KEY')}", **headers}
    # a given Authorization replaces the one of the environment; omitting it would also remove the key
    omitted = [name for name in others if name.lower() != "authorization"]
    model.headers = dict.fromkeys(omitted, openai.omit) | headers  # type: ignore[attr-defined]
    return model


def _is_openai(api_base: str) -> bool:
    try:
        url = urlsplit(api_base)
    except ValueError:  # the first request reports it
        return False
    host = url.hostname or ""
    return url.scheme == "https" and (host == "api.openai.com" or host.endswith(".api.openai.com"))


def _headers_of_the_environment() -> list[str]:
    """Names of the headers that OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS add."""
    # It sends nothing. So it needs no URLs and proxies of the environment, which may be invalid, and no certificates,
    # which take 40 ms to read.
    quiet = openai.DefaultHttpxClient(trust_env=False, verify=False)
    with openai.OpenAI(api_key="unused", base_url="http://unused", http_client=quiet) as client:
        names = list(client.default_headers)
    return [name for name in names if not name.lower().startswith(_HEADERS_OF_THE_PACKAGE)]


def _with_key_argument(model: EmbeddingModel) -> EmbeddingModel:
    """Set the key permanently on a model whose plugin is older than the argument `key` and reads `model.key`.

    llm 0.36 sets that attribute during a call only. For a model that needs no key it sets `None`, even if the model has
    one, and a call in one thread sets `None` during the call of another.
    """
    try:
        inspect.signature(model.embed_batch).bind([], key=None)
    except TypeError:
        model.key = next(iter(_key(model)), model.key)
        embed_batch = model.embed_batch
        model.embed_batch = lambda items, *, key=None: embed_batch(items)  # type: ignore[method-assign]
    return model


def _key(model: EmbeddingModel | Model) -> list[str]:
    """The key that the model would use, if any."""
    with suppress(llm.NeedsKeyException, OSError, ValueError):  # another process may be writing keys.json
        key = model.get_key()
        return [key] if key else []
    return []


def _attributes(model: EmbeddingModel | Model) -> Iterator[str]:
    for name in dir(model):
        if not name.startswith("_") and not callable(getattr(model, name)):
            yield name


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, str) and len(value) >= 6:
        yield value
