"""Where values come from: the shipped settings.py, below the override file, below the environment."""

import importlib
import importlib.util
import json
import runpy
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from worker.configuration.addresses import redacted
from worker.configuration.messages import keys, mapping, shown
from worker.errors import SettingsError

# The names that an environment or an override file may give; the second group is read as names of ours.
SCALARS = (
    "DATABASE_URL",
    "BROKER_URL",
    "RESULT_BACKEND",
    "VECTOR_INDEX_HOME",
    "EMBEDDING_MODEL",
    "CHAT_MODEL",
    "MAX_DOCUMENT_BYTES",
    "TIMEZONE",
    "METRICS_PORT",
    "METRICS_ADDRESS",
    "VECTOR_INDEX_LOG_FORMAT",
    "PRICE_PER_MILLION_TOKENS",
)
FOREIGN = ("CELERY_BROKER_URL", "WAGTAIL_VECTOR_INDEX", "WAGTAIL_VECTOR_INDEX_QUERY_PROMPT")
# Celery itself lets these variables win over every configuration: nothing else may be meant
CELERY_NAMES = {"CELERY_BROKER_URL": "BROKER_URL", "CELERY_RESULT_BACKEND": "RESULT_BACKEND"}
SECTIONS = ("EMBEDDING_BACKENDS", "CHAT_BACKENDS", "INDEXES", "SOURCES")
# an empty address in the environment means the embedded service; any other empty variable counts as absent
ADDRESSES = ("DATABASE_URL", "BROKER_URL", "RESULT_BACKEND")

SHORTHANDS = {"EMBEDDING_MODEL": "EMBEDDING_BACKENDS", "CHAT_MODEL": "CHAT_BACKENDS"}


def merged(environ: Mapping[str, str]) -> dict[str, Any]:
    """The value of every setting and of every section of VECTOR_INDEX; raises SettingsError."""
    values: dict[str, Any] = {}
    for layer in (
        _from_ours(),
        _from_file(environ.get("VECTOR_INDEX_SETTINGS", "")),
        _from_environment(environ),
    ):
        values |= layer | _own_sections(layer)
        for shorthand, section in SHORTHANDS.items():
            if layer.get(shorthand):
                values[section] = _with_model(shorthand, layer, section, values[section])
    return values


def _from_ours() -> dict[str, Any]:
    return {name: value for name, value in vars(shipped()).items() if name.isupper()}


@cache
def shipped() -> ModuleType:
    """Our settings.py, by its path: a folder's own settings.py may stand first on sys.path."""
    spec = importlib.util.spec_from_file_location("settings", Path(__file__).parents[2] / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    given = {name: environ[name].strip() for name in (*SCALARS, *CELERY_NAMES) if name in environ}
    layer: dict[str, Any] = {name: value for name, value in given.items() if value or name in ADDRESSES}
    if environ.get("VECTOR_INDEX"):
        try:
            layer["VECTOR_INDEX"] = json.loads(environ["VECTOR_INDEX"])
        except json.JSONDecodeError as error:
            # the value may hold keys of providers: only the position is told
            raise SettingsError(
                f"VECTOR_INDEX in the environment is not JSON ({error.msg} at character {error.pos}): "
                "give a JSON object or put it into the file that VECTOR_INDEX_SETTINGS names"
            ) from None
    return _renamed(layer)


def _from_file(name: str) -> dict[str, Any]:
    """The names of ours in a Python file or dotted module; raises SettingsError with the line that fails."""
    if not name:
        return {}
    is_path = _is_path(name)
    folder = str(own_folder(name)) if is_path else ""
    # at the end of the path: a project's own modules, backends and sources are found, and shadow none of ours
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        namespace = (
            runpy.run_path(str(Path(name).expanduser())) if is_path else vars(importlib.import_module(name))
        )
    except Exception as error:
        raise SettingsError(f"VECTOR_INDEX_SETTINGS is {name!r}: {_failure(name, is_path, error)}") from error
    if namespace.get("__file__") == shipped().__file__:
        raise SettingsError(
            f"VECTOR_INDEX_SETTINGS is {name!r}, which is the shipped module: give the path of your own "
            "file, as in ./settings.py"
        )
    known = (*SCALARS, "VECTOR_INDEX", *FOREIGN)
    return _renamed({key: namespace[key] for key in known if namespace.get(key) is not None})


def own_folder(name: str) -> Path:
    """Where an operator's modules are looked for: beside the file that VECTOR_INDEX_SETTINGS names, else here."""
    return Path(name).expanduser().absolute().parent if _is_path(name) else Path.cwd()


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _failure(name: str, is_path: bool, error: Exception) -> str:
    if is_path and Path(name).expanduser().is_dir():
        return "it is a folder: give the path of a readable Python file"
    if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError) and error.filename:
        return f"{error.strerror}: give the path of a readable Python file"
    missing = error.name if isinstance(error, ModuleNotFoundError) and not is_path else None
    if missing and f"{name}.".startswith(f"{missing}."):
        return "there is no such module: give a module on the Python path, or the path of a .py file"
    if isinstance(error, SyntaxError):
        return f"line {error.lineno} of {error.filename} is not Python ({error.msg}): mend that line"
    # the line of the file itself, not the one of a library that it calls
    own = Path(name).name if is_path else name.replace(".", "/")
    frames = traceback.extract_tb(error.__traceback__)
    at = next((at for at in reversed(frames) if own in at.filename), frames[-1])
    return f"line {at.lineno} of {at.filename} raised {type(error).__name__} ({error}): mend that line"


def _renamed(layer: dict[str, Any]) -> dict[str, Any]:
    """The layer under names of ours."""
    for foreign, name in CELERY_NAMES.items():
        theirs, own = layer.pop(foreign, None), layer.get(name)
        if theirs and own and theirs != own:
            raise SettingsError(
                f"{name} is {redacted(own)} and {foreign} is {redacted(theirs)}: "
                "set one of them, or both to the same"
            )
        if theirs:
            layer[name] = theirs
    wagtail = layer.pop("WAGTAIL_VECTOR_INDEX", None)
    if wagtail is not None:
        layer.setdefault("VECTOR_INDEX", wagtail)
    return layer


def _own_sections(layer: Mapping[str, Any]) -> dict[str, Any]:
    return keys("VECTOR_INDEX", layer.get("VECTOR_INDEX", {}), SECTIONS)


def _with_model(shorthand: str, layer: Mapping[str, Any], section: str, backends: object) -> dict[str, Any]:
    """The section with the shorthand's value as MODEL_ID of its default backend."""
    where, model = f'VECTOR_INDEX["{section}"]', layer[shorthand]
    backends = mapping(where, backends)
    if backends.get("default") is None:
        raise SettingsError(
            f"{shorthand} is {shown(model)}, but {where} has no backend named 'default': "
            "set the MODEL_ID of the backend that you mean"
        )
    where += '["default"]'
    backend = mapping(where, backends["default"])
    config = mapping(f'{where}["CONFIG"]', backend.get("CONFIG") or {})
    own = config.get("MODEL_ID")
    # between places the higher one wins; within one there is no telling which is meant
    if own not in (None, model) and section in _own_sections(layer):
        raise SettingsError(
            f"{shorthand} is {shown(model)} and the MODEL_ID of {where} is {shown(own)}: set one of them"
        )
    return {**backends, "default": {**backend, "CONFIG": {**config, "MODEL_ID": model}}}
