"""Finding a model in `llm`: a private copy, with INIT_KWARGS set as its attributes."""

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import llm
from llm.models import EmbeddingModel, Model

from worker.backends import warm_up
from worker.errors import SettingsError

AnyModel = TypeVar("AnyModel", EmbeddingModel, Model)


def embedding_model(name: str, model_id: str, init_kwargs: Mapping[str, Any]) -> EmbeddingModel:
    """A copy of the model with INIT_KWARGS set: plugins may hand out one object to all."""
    warm_up()
    owner = f"embedding backend {name!r}"
    try:
        model: EmbeddingModel = copy.copy(llm.get_embedding_model(model_id))  # type: ignore[no-untyped-call]
    except llm.UnknownModelError:
        raise _unknown(model_id, owner, llm.get_embedding_model_aliases(), "llm embed-models") from None
    return _with_attributes(model, owner, init_kwargs)


def chat_model(name: str, model_id: str, init_kwargs: Mapping[str, Any]) -> Model:
    """A copy of the model with INIT_KWARGS set: plugins may hand out one object to all."""
    warm_up()
    owner = f"chat backend {name!r}"
    try:
        model: Model = copy.copy(llm.get_model(model_id))
    except llm.UnknownModelError:
        raise _unknown(model_id, owner, llm.get_model_aliases(), "llm models") from None
    return _with_attributes(model, owner, init_kwargs)


def secrets(model: EmbeddingModel | Model, init_kwargs: Mapping[str, Any]) -> list[str]:
    """What no message may show: the strings of INIT_KWARGS, and the key that the model would use."""
    return [*_strings(init_kwargs), *_key(model)]


def _unknown(model_id: str, owner: str, known: Iterable[str], command: str) -> SettingsError:
    near = difflib.get_close_matches(model_id, known, n=1)
    hint = f" (the nearest is {near[0]!r})" if near else ""
    return SettingsError(
        f"MODEL_ID {model_id!r} of {owner} is unknown{hint}: take one that `{command}` lists, or install the plugin of "
        "llm that brings it"
    )


def _with_attributes(model: AnyModel, owner: str, init_kwargs: Mapping[str, Any]) -> AnyModel:
    for attribute, value in init_kwargs.items():
        if not hasattr(model, attribute):
            raise SettingsError(
                f"INIT_KWARGS of {owner} has {attribute!r}, which {model.model_id} does not have: it has "
                f"{', '.join(sorted(_attributes(model)))}"
            )
        setattr(model, attribute, value)
    return model


def _key(model: EmbeddingModel | Model) -> list[str]:
    """The key that the model would use, if any."""
    with suppress(llm.NeedsKeyException):
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
