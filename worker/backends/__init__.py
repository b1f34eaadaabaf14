"""Backends talk to the providers of models. The settings name a backend by the dotted path of its class."""

import sys
from importlib import import_module
from threading import Lock
from traceback import extract_tb, walk_tb
from types import ModuleType
from typing import Any

from worker import application_code
from worker.errors import SettingsError, VectorIndexError

# raised by a plugin or a file of models that Python cannot read
_PLUGIN_ERRORS = (ImportError, SyntaxError, AttributeError, KeyError, TypeError, ValueError, RuntimeError)

_lock = Lock()
_loaded = False


class ImportedAtFirstUse(ModuleType):
    """Stands in `sys.modules` for a package that is slow to import, until somebody uses an attribute of it.

    openai has 528 modules, which are a quarter of the start of a worker that has no model of OpenAI. The LazyLoader of
    the standard library imports at the second `import` statement, and is not safe in threads, before Python 3.12.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(self.imported(), name)

    def imported(self) -> ModuleType:
        """The package itself, imported now if nobody has used it yet."""
        if sys.modules.get(self.__name__) is self:
            sys.modules.pop(self.__name__, None)
        return import_module(self.__name__)


def postpone_openai() -> None:
    """Import openai at its first use from now on; call it before llm, which imports openai for any model."""
    sys.modules.setdefault("openai", ImportedAtFirstUse("openai"))


def finish_imports(model: object) -> None:
    """Import what `load_plugins` has postponed and the module of a model's class uses.

    Call it before the timeout of a request begins: on a busy machine, the import can take longer than the request.
    """
    for base in type(model).__mro__:
        for used in list(vars(sys.modules[base.__module__]).values()):
            if isinstance(used, ImportedAtFirstUse):
                used.imported()


def load_class(path: str) -> type:
    """Import the class of a dotted path, such as a user's own. Raises SettingsError if there is none."""
    module, _, name = path.rpartition(".")
    try:
        with application_code.isolated():
            found = getattr(import_module(module), name)
    except Exception as error:
        raise SettingsError(f"CLASS {path!r} cannot be imported ({_problem(module, error)}") from error
    if not isinstance(found, type):
        raise SettingsError(f"CLASS {path!r} is not a class: set it to one, as package.module.Class")
    return found


def _problem(module: str, error: Exception) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and not f"{module}.".startswith(f"{missing}."):
        return f"{error}): {application_code.advice(missing)}"
    if isinstance(error, ImportError | AttributeError | ValueError):
        return f"{error}): set it to a class, as package.module.Class"
    at = extract_tb(error.__traceback__)[-1]
    return f"line {at.lineno} of {at.filename} raised {type(error).__name__}: {error}): fix that line"


def load_plugins() -> None:
    """Load the plugins of `llm`, once per process and in one thread.

    `llm` marks its plugins as loaded before it loads them. So a second thread would find no models, and after a plugin
    that fails to import, even the built-in models are missing. The process must end after an error: SettingsError, or
    ProviderUnavailable if a plugin asked its provider for the list of models (llm-mistral with a key).
    """
    postpone_openai()
    # takes half a second, so commands that only send tasks do not import it
    import llm

    # imports llm too
    from worker.backends.failures import classify

    global _loaded
    with _lock:
        if _loaded:
            return
        try:
            llm.get_embedding_models()  # type: ignore[no-untyped-call]
            llm.get_models()
            llm.load_keys()  # type: ignore[no-untyped-call]
        except VectorIndexError:
            raise  # from our own plugin, about its file
        except _PLUGIN_ERRORS as error:
            raise SettingsError(
                f"llm cannot load its plugins, models and keys ({type(error).__name__}: {error}): repair or "
                "uninstall the plugin, or repair keys.json or aliases.json in llm's folder, then start again"
            ) from error
        except Exception as error:
            if isinstance(error, OSError) and error.filename:
                raise SettingsError(
                    f"llm cannot use its folder ({error}): set LLM_USER_PATH to a writable folder"
                ) from error
            plugins = {plugin.__name__ for plugin in llm.plugins.pm.get_plugins()}
            modules = (frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__))
            asking = next((module for module in modules if module in plugins), "a plugin")
            raise classify(error, model_id=f"the models of {asking}") from error
        _loaded = True
