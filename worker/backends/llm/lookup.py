"""Finding a model in `llm`: a private copy, with INIT_KWARGS set as its attributes, and with its own key alone."""

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

from worker.backends import warm_up
from worker.errors import SettingsError

AnyModel = TypeVar("AnyModel", EmbeddingModel, Model)

# plugins, by their entry points, that ask a server which models there are, and have none while it is down
ASKING_PLUGINS = ("ollama",)
# what the openai package sends of itself; the others come from the environment
_HEADERS_OF_THE_PACKAGE = ("accept", "content-type", "user-agent", "x-stainless-")


def embedding_model(name: str, model_id: str, init_kwargs: Mapping[str, Any]) -> EmbeddingModel:
    """A copy of the model with INIT_KWARGS set: plugins may hand out one object to all."""
    warm_up()
    owner = f"embedding backend {name!r}"
    try:
        model: EmbeddingModel = copy.copy(llm.get_embedding_model(model_id))  # type: ignore[no-untyped-call]
    except llm.UnknownModelError:
        raise _unknown(model_id, owner, llm.get_embedding_model_aliases(), "llm embed-models") from None
    if getattr(model, "truncate", False):
        # llm-ollama lets its server cut a text off without a word; an error lets us split it
        model.truncate = False  # type: ignore[attr-defined]
    return _with_key_argument(_with_own_key(_with_attributes(model, owner, init_kwargs), init_kwargs))


def chat_model(name: str, model_id: str, init_kwargs: Mapping[str, Any]) -> Model:
    """A copy of the model with INIT_KWARGS set: plugins may hand out one object to all."""
    warm_up()
    owner = f"chat backend {name!r}"
    try:
        model: Model = copy.copy(llm.get_model(model_id))
    except llm.UnknownModelError:
        raise _unknown(model_id, owner, llm.get_model_aliases(), "llm models") from None
    return _with_own_key(_with_attributes(model, owner, init_kwargs), init_kwargs)


def secrets(model: EmbeddingModel | Model, init_kwargs: Mapping[str, Any]) -> list[str]:
    """What no message may show: the strings of INIT_KWARGS and of headers, and the key that the model would use."""
    return [*_strings(init_kwargs), *_strings(getattr(model, "headers", None)), *_key(model)]


def known_name(model: EmbeddingModel | Model) -> str:
    """The name to look limits up by: what an operator calls a model of a server says nothing, the server's may."""
    return getattr(model, "model_name", None) or model.model_id


def _unknown(model_id: str, owner: str, known: Iterable[str], command: str) -> SettingsError:
    near = difflib.get_close_matches(model_id, known, n=1)
    hint = f" (the nearest is {near[0]!r})" if near else ""
    asking = sorted({name for name, _ in llm.plugins.pm.list_name_plugin()}.intersection(ASKING_PLUGINS))
    down = (
        f", or start the server that the plugin {' or '.join(asking)} asks for its models" if asking else ""
    )
    return SettingsError(
        f"MODEL_ID {model_id!r} of {owner} is unknown{hint}: take one that `{command}` lists, or install the plugin of "
        f"llm that brings it{down}"
    )


def _with_attributes(model: AnyModel, owner: str, init_kwargs: Mapping[str, Any]) -> AnyModel:
    for attribute, value in init_kwargs.items():
        if not hasattr(model, attribute) or callable(getattr(model, attribute)):
            raise SettingsError(
                f"INIT_KWARGS of {owner} has {attribute!r}, which {model.model_id} does not have: it has "
                f"{', '.join(sorted(_attributes(model)))}"
            )
        _check(attribute, value, owner)
        setattr(model, attribute, value)
    return model


def _check(attribute: str, value: object, owner: str) -> None:
    """Of what a request is sent with; where a value is wrong, it may be a secret, and is not shown."""
    if value is None or attribute not in ("api_base", "headers", "key"):
        return
    if attribute == "headers":
        good = isinstance(value, Mapping) and all(isinstance(part, str) for part in (*value, *value.values()))
        wanted = "an object of strings"
    else:
        good, wanted = isinstance(value, str) and value != "", "a string that is not empty"
    if not good:
        raise SettingsError(
            f"INIT_KWARGS of {owner} has {attribute!r} of type {type(value).__name__}: give {wanted}, or leave it out"
        )


def _with_own_key(model: AnyModel, init_kwargs: Mapping[str, Any]) -> AnyModel:
    """What the environment and keys.json hold for OpenAI goes to OpenAI and to OPENAI_BASE_URL, and nowhere else.

    Of a model with an address of its own (`api_base`, from its file or INIT_KWARGS): its key is the one of
    INIT_KWARGS, taken literally, else the one that its file names; without either none is needed.
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
    # a given Authorization takes the place of the environment's; left out, it would take that of the key
    left_out = [name for name in others if name.lower() != "authorization"]
    model.headers = dict.fromkeys(left_out, openai.omit) | headers  # type: ignore[attr-defined]
    return model


def _is_openai(api_base: str) -> bool:
    try:
        url = urlsplit(api_base)
    except ValueError:  # the first request says so
        return False
    host = url.hostname or ""
    return url.scheme == "https" and (host == "api.openai.com" or host.endswith(".api.openai.com"))


def _headers_of_the_environment() -> list[str]:
    """Names of what OPENAI_ORG_ID, OPENAI_PROJECT_ID and OPENAI_CUSTOM_HEADERS add."""
    # what the environment says of addresses and proxies may be wrong, and is of no interest here
    quiet = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(api_key="unused", base_url="http://unused", http_client=quiet) as client:
        names = list(client.default_headers)
    return [name for name in names if not name.lower().startswith(_HEADERS_OF_THE_PACKAGE)]


def _with_key_argument(model: EmbeddingModel) -> EmbeddingModel:
    """A plugin older than the argument `key` finds its key on the model, and finds it there all the time.

    llm 0.36 sets it for the time of a call: to None for a model that needs no key, which may have one all the same,
    and with threads to None in the middle of another's call.
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
    with suppress(llm.NeedsKeyException, OSError, ValueError):  # keys.json may be being written
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
