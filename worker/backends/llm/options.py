"""Check PROMPT_KWARGS against the model before the first request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm.default_plugins.openai_models import Chat, Responses
from llm.models import Model
from pydantic import ValidationError

from worker.errors import SettingsError

# names of the limit of an answer, by model
ANSWER_LIMITS = ("max_tokens", "max_output_tokens", "num_predict")

# parameters of `model.prompt` besides the options of the model
PARAMETERS = (
    "system",
    "system_fragments",
    "fragments",
    "stream",
    "schema",
    "attachments",
    "options",
    "hide_reasoning",
)
FIXES = {
    "key": "set it in INIT_KWARGS",
    "prompt": "remove it, and put an instruction into system",
    "messages": "remove it, since each question brings its conversation; put an instruction into system",
    "tools": "remove it, since tools are not supported",
    "tool_results": "remove it, since tools are not supported",
}
# llm 0.36 accepts these for the Responses API, and its client then fails with TypeError
NOT_OF_RESPONSES = ("seed", "stop", "frequency_penalty", "presence_penalty", "logit_bias")


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """PROMPT_KWARGS after the check."""

    system: str | None
    system_fragments: Sequence[str]  # in front of the system message, also of that of the index
    fragments: Sequence[str]  # in front of the question
    stream: bool  # whether the provider may be asked to stream
    max_tokens: int | None  # of an answer
    others: Mapping[str, Any]  # passed to `model.prompt` as they are


def prompt_options(name: str, model: Model, given: Mapping[str, Any]) -> tuple[Model, PromptOptions]:
    """Return the options of chat backend `name` and the model for them. Raises SettingsError, which names the option.

    With `chat_completions`, a model of the Responses API is replaced by one of Chat Completions.
    """
    others = {key: value for key, value in given.items() if value is not None}
    owner = f"PROMPT_KWARGS of chat backend {name!r}"
    for key in others.keys() & FIXES.keys():
        raise SettingsError(f"{owner} has {key!r}: {FIXES[key]}")
    system = _checked(owner, "system", others.pop("system", None), str, "a string")
    stream = _checked(owner, "stream", others.pop("stream", True), bool, "true or false")
    fragments = _fragments(owner, "fragments", others.pop("fragments", []))
    system_fragments = _fragments(owner, "system_fragments", others.pop("system_fragments", []))
    _validate(owner, model, others)
    flat = {**others.get("options", {}), **others}
    if isinstance(model, Responses):
        if flat.get("chat_completions"):
            model = _chat_model(model)
        elif wrong := [option for option in NOT_OF_RESPONSES if flat.get(option) is not None]:
            raise SettingsError(
                f"{owner} has {wrong[0]!r}, which the Responses API of {model.model_id} does not accept: remove it, or "
                "set chat_completions to true"
            )
    limit = next((int(flat[key]) for key in ANSWER_LIMITS if flat.get(key) is not None), 0)
    return model, PromptOptions(
        system=system,
        system_fragments=system_fragments,
        fragments=fragments,
        stream=stream,
        max_tokens=limit if limit > 0 else None,  # -1 means no limit in Ollama
        others=others,
    )


def _validate(owner: str, model: Model, options: Mapping[str, Any]) -> None:
    """Make a prompt, which checks the options, without sending it."""
    try:
        model.prompt("", **options)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        option = ".".join(map(str, wrong["loc"]))
        taken = ", ".join([*PARAMETERS, *sorted(model.Options.model_fields)])
        raise SettingsError(
            f"{owner} has {option!r}, which {model.model_id} does not accept ({wrong['msg']}): use {taken}"
        ) from None
    except (AttributeError, TypeError, ValueError) as error:
        raise SettingsError(
            f"{owner} does not work with {model.model_id} ({error}): remove the options that it does not support"
        ) from None


def _chat_model(model: Responses) -> Any:
    """Make the model as llm does for this option, but once, so that it keeps our client and its own key."""
    chat = Chat(**model._delegate_chat_kwargs())  # type: ignore[no-untyped-call]
    chat.needs_key, chat.key_env_var = model.needs_key, model.key_env_var
    chat.Options = model.Options
    return chat


def _checked(owner: str, key: str, value: Any, kind: type, wanted: str) -> Any:
    if value is not None and not isinstance(value, kind):
        raise SettingsError(f"{owner} has a {key} of type {type(value).__name__}: set it to {wanted}")
    return value


def _fragments(owner: str, key: str, values: Any) -> Sequence[str]:
    if not isinstance(values, (list, tuple)) or not all(isinstance(value, str) for value in values):
        raise SettingsError(f"{owner} has {key!r}, which is not a list of strings: set it to one")
    return list(values)
