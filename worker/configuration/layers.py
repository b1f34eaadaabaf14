"""Merges the layers of settings: the environment wins over the override file, which wins over settings.py."""

import importlib
import importlib.util
import json
import runpy
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from worker import application_code
from worker.configuration.addresses import broker_url, is_redis, redacted
from worker.configuration.messages import KINDS, key, keys, mapping, nearest, shown
from worker.configuration.objects import Configuration
from worker.errors import SettingsError
from worker.reference import Setting, described

# each sets the MODEL_ID of the backend "default" of a section
SHORTHANDS = {"EMBEDDING_MODEL": "EMBEDDING_BACKENDS", "CHAT_MODEL": "CHAT_BACKENDS"}
# The names that an environment or an override file may set; FOREIGN are those of other projects.
SCALARS = (*(key(Configuration, field) for field in described(Configuration)), *SHORTHANDS)
# An application's own names of our addresses. They stand in for ours if they are a Redis.
CELERY_NAMES = {"CELERY_BROKER_URL": "BROKER_URL", "CELERY_RESULT_BACKEND": "RESULT_BACKEND"}
FOREIGN = (*CELERY_NAMES, "WAGTAIL_VECTOR_INDEX", "WAGTAIL_VECTOR_INDEX_QUERY_PROMPT")
SECTIONS = ("EMBEDDING_BACKENDS", "CHAT_BACKENDS", "RERANK_BACKENDS", "INDEXES", "SOURCES")
# an empty address in the environment means the embedded service; any other empty variable counts as absent
ADDRESSES = ("DATABASE_URL", "BROKER_URL", "RESULT_BACKEND")

OVERRIDE = "VECTOR_INDEX_SETTINGS"
# what no field of Configuration holds
DESCRIPTIONS = {
    OVERRIDE: Setting(
        type="path of a Python file, or dotted name of a module",
        default="none",
        meaning="Your settings file, such as a Django settings module. Only the names of this page are read from it. "
        "It is read from the environment only.",
        example='"/srv/shop/vector_settings.py"',
    ),
    "EMBEDDING_MODEL": Setting(
        type="id or alias of an embedding model of `llm`",
        meaning='Short for the `MODEL_ID` of the embedding backend `"default"`. `vector-index models` lists models. '
        "In the environment it wins over a `MODEL_ID` in your file. In one place, set only one of them. Empty: as "
        "`VECTOR_INDEX` says.",
        example='"3-small"',
    ),
    "CHAT_MODEL": Setting(
        type="id or alias of a chat model of `llm`",
        meaning='Short for the `MODEL_ID` of the chat backend `"default"`. `vector-index models` lists models. '
        "In the environment it wins over a `MODEL_ID` in your file. In one place, set only one of them. Empty: as "
        "`VECTOR_INDEX` says.",
        example='"gpt-4o-mini"',
    ),
    "VECTOR_INDEX": Setting(
        type="dictionary of sections; JSON in the environment",
        default="one index, `wordllama` and `extractive`, no source",
        meaning="Backends, indexes and sources. A section that you leave out keeps the shipped one; a section that you "
        "give replaces it as a whole. `WAGTAIL_VECTOR_INDEX` of a Django settings module is read as this setting, and "
        "`WAGTAIL_VECTOR_INDEX_QUERY_PROMPT` as the default of every `QUERY_PROMPT`.",
        example='{"INDEXES": {"default": {}, "manual": {"LANGUAGE": "german"}}}',
    ),
}


def merged(environ: Mapping[str, str], notices: list[str]) -> dict[str, Any]:
    """Return the value of every setting and of every section of VECTOR_INDEX; raises SettingsError."""
    values: dict[str, Any] = {}
    given: set[str] = set()  # sections that the user wrote
    for layer in (
        _from_ours(),
        _from_file(environ.get(OVERRIDE, ""), notices),
        _from_environment(environ, notices),
    ):
        sections = _own_sections(layer)
        given |= sections.keys() if values else set()
        values |= layer | sections
        for shorthand, section in SHORTHANDS.items():
            if layer.get(shorthand):
                values[section] = _with_model(shorthand, layer, section, values[section])
                given.add(section)
    pasted = "WAGTAIL_VECTOR_INDEX" in values
    if ("CHAT_BACKENDS" in given or pasted) and "EMBEDDING_BACKENDS" not in given:
        notices.append(
            'VECTOR_INDEX has no "EMBEDDING_BACKENDS", so the shipped model `wordllama` embeds documents and '
            "questions; add that section, or set EMBEDDING_MODEL (to wordllama, if you mean it)"
        )
    if pasted and "CHAT_BACKENDS" not in given:
        notices.append(
            'WAGTAIL_VECTOR_INDEX has no "CHAT_BACKENDS", so the shipped model `extractive` answers with quotes; add '
            "that section, or set CHAT_MODEL (to extractive, if you mean it)"
        )
    return values


def _from_ours() -> dict[str, Any]:
    return {name: value for name, value in vars(shipped()).items() if name.isupper()}


@cache
def shipped() -> ModuleType:
    """Import our settings.py by its path: another settings.py may come first on sys.path."""
    spec = importlib.util.spec_from_file_location("settings", Path(__file__).parents[2] / "settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _from_environment(environ: Mapping[str, str], notices: list[str]) -> dict[str, Any]:
    given = {name: environ[name].strip() for name in (*SCALARS, *CELERY_NAMES) if name in environ}
    layer: dict[str, Any] = {name: value for name, value in given.items() if value or name in ADDRESSES}
    if environ.get("VECTOR_INDEX"):
        try:
            layer["VECTOR_INDEX"] = json.loads(environ["VECTOR_INDEX"])
        except json.JSONDecodeError as error:
            # the value may hold keys of providers: the message has only the position
            raise SettingsError(
                f"VECTOR_INDEX in the environment is not JSON ({error.msg} at character {error.pos}); "
                "set it to a JSON object, or move it to the file that VECTOR_INDEX_SETTINGS names"
            ) from None
    return _renamed(layer, notices)


def _from_file(name: str, notices: list[str]) -> dict[str, Any]:
    """Read our settings from a Python file or dotted module; raises SettingsError with the line that fails."""
    if not name:
        return {}
    is_path = _is_path(name)
    folder = str(own_folder(name)) if is_path else ""
    # at the end of the path: a project's backends and sources can be imported, and shadow none of our modules
    if folder not in sys.path:
        sys.path.append(folder)
    try:
        with application_code.isolated():
            path = str(Path(name).expanduser())
            namespace = runpy.run_path(path) if is_path else vars(importlib.import_module(name))
    except (Exception, SystemExit) as error:
        raise SettingsError(f"VECTOR_INDEX_SETTINGS is {name!r}: {_failure(name, is_path, error)}") from error
    if namespace.get("__file__") == shipped().__file__:
        raise SettingsError(
            f"VECTOR_INDEX_SETTINGS is {name!r}, which is the shipped module; set it to the path of your own "
            "file, as in ./settings.py"
        )
    known = (*SCALARS, "VECTOR_INDEX", *FOREIGN)
    notices.extend(f"{name} in {OVERRIDE} has no effect: {fix}" for name, fix in _unread(namespace, known))
    return _renamed({key: namespace[key] for key in known if namespace.get(key) is not None}, notices)


def _unread(namespace: Mapping[str, Any], known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the names in a settings file that look like ours and are not read, each with what to do."""
    for name in namespace:
        if name in known or not name.startswith(("WAGTAIL_VECTOR_INDEX", "WAGTAIL_AI", "VECTOR_INDEX")):
            continue
        if name == "WAGTAIL_VECTOR_INDEX_STORAGE_PROVIDERS":
            yield name, "vectors are stored in the Postgres of DATABASE_URL, with pgvector"
        elif name == OVERRIDE:
            yield name, "set it as an environment variable"
        elif name == "WAGTAIL_AI":
            yield name, "copy its BACKENDS to the CHAT_BACKENDS of VECTOR_INDEX"
        else:
            yield name, nearest(name, known)


def own_folder(name: str) -> Path:
    """Return the folder of the file that VECTOR_INDEX_SETTINGS names, else the working folder."""
    return Path(name).expanduser().absolute().parent if _is_path(name) else Path.cwd()


def _is_path(name: str) -> bool:
    return name.endswith(".py") or "/" in name


def _failure(name: str, is_path: bool, error: BaseException) -> str:
    """Say why the file or module cannot be read, and what to do."""
    if is_path and Path(name).expanduser().is_dir():
        return "it is a folder; set it to the path of a readable Python file"
    if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError) and error.filename:
        return f"{error.strerror}; set it to the path of a readable Python file"
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and not is_path and f"{name}.".startswith(f"{missing}."):
        return "there is no such module; set it to a module on the Python path, or to the path of a .py file"
    if isinstance(error, SyntaxError):
        return f"line {error.lineno} of {error.filename} is not Python ({error.msg}); fix that line"
    advice = _advice(name, is_path, error, missing)
    return f"{_line(name, is_path, error)} raised {type(error).__name__} ({error}); {advice}"


def _advice(name: str, is_path: bool, error: BaseException, missing: str | None) -> str:
    if is_path and isinstance(error, ImportError) and (package := _package(name, error)):
        return f"the file belongs to a package, so set VECTOR_INDEX_SETTINGS to {package}"
    if missing:
        return f"{application_code.advice(missing)}, or write a file that has only settings of the workers"
    if (
        isinstance(error, KeyError)
        and traceback.extract_tb(error.__traceback__)[-1].filename == "<frozen os>"
    ):
        return f"set the environment variable {error} for the workers too"
    return "fix that line"


def _line(name: str, is_path: bool, error: BaseException) -> str:
    """Return the line that failed: of the file itself, else of the project around it, else of a library."""
    own = Path(name).name if is_path else name.replace(".", "/")
    frames = traceback.extract_tb(error.__traceback__)
    libraries = ("<", sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]))
    outside = [at for at in frames if not at.filename.startswith(libraries)]
    ours = [at for at in frames if own in at.filename]
    at = (ours or outside or frames)[-1]
    return f"line {at.lineno} of {at.filename}"


def _package(name: str, error: ImportError) -> str | None:
    """Return the dotted name of a file that must be imported as part of its package, and the folder to start in."""
    path = Path(name).expanduser().absolute()
    relative = error.name is None and "relative import" in str(error)
    top = path.parent.name if relative else (error.name or "").partition(".")[0]
    if top not in path.parts[:-1]:
        return None
    at = len(path.parts) - 2 - path.parts[-2::-1].index(top)
    folder, dotted = Path(*path.parts[:at]), ".".join([*path.parts[at:-1], path.stem])
    return f"{dotted!r} and start the workers in {folder}"


def _renamed(layer: dict[str, Any], notices: list[str]) -> dict[str, Any]:
    """Rename what other projects call differently."""
    for foreign, name in CELERY_NAMES.items():
        theirs, own = layer.pop(foreign, None), layer.get(name)
        if not theirs:
            continue
        if not is_redis(theirs):
            notices.append(
                f"{foreign} is {redacted(theirs)}, which is no address of a Redis, so the workers leave it to your "
                f"application; set {name} to choose theirs"
            )
        elif own and broker_url(foreign, theirs) != broker_url(name, own):
            raise SettingsError(
                f"{name} is {redacted(own)} and {foreign} is {redacted(theirs)}; "
                "set only one of them, or both to the same address"
            )
        else:
            layer[name] = theirs
    wagtail = layer.get("WAGTAIL_VECTOR_INDEX")
    if wagtail is not None:
        layer.setdefault("VECTOR_INDEX", wagtail)
    return layer


def _own_sections(layer: Mapping[str, Any]) -> dict[str, Any]:
    return keys("VECTOR_INDEX", layer.get("VECTOR_INDEX", {}), SECTIONS)


def _with_model(shorthand: str, layer: Mapping[str, Any], section: str, backends: object) -> dict[str, Any]:
    """Return the section with the shorthand's value as MODEL_ID of its backend "default"."""
    place, model = f'VECTOR_INDEX["{section}"]', layer[shorthand]
    backends = mapping(place, backends)
    if backends.get("default") is None:
        raise SettingsError(
            f"{shorthand} is {shown(model)}, but {place} has no backend 'default'; set the MODEL_ID of the backend "
            "that you mean instead"
        )
    owner = f"{KINDS[section]} 'default'"
    backend = mapping(owner, backends["default"])
    config = mapping(f"CONFIG of {owner}", backend.get("CONFIG") or {})
    own = config.get("MODEL_ID")
    # between layers the higher one wins; within one layer it is unclear which is meant
    if own not in (None, model) and section in _own_sections(layer):
        raise SettingsError(
            f"{shorthand} is {shown(model)}, but MODEL_ID of {owner} is {shown(own)}; set only one of them"
        )
    return {**backends, "default": {**backend, "CONFIG": {**config, "MODEL_ID": model}}}
