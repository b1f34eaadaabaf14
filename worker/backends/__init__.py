"""What talks to models. A backend is a class that the settings name by its dotted path."""

from importlib import import_module
from threading import Lock
from traceback import walk_tb

from worker.errors import SettingsError, VectorIndexError

# a plugin or a file of models that Python cannot read
_BROKEN = (ImportError, SyntaxError, AttributeError, KeyError, TypeError, ValueError, RuntimeError)

_lock = Lock()
_warm = False


def load(path: str) -> type:
    """The class of a dotted path, a user's own included. Raises SettingsError where there is none."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(
            f"CLASS {path!r} cannot be imported ({error}): name a class as package.module.Class"
        ) from error
    if not isinstance(found, type):
        raise SettingsError(f"CLASS {path!r} is no class: name one as package.module.Class")
    return found


def warm_up() -> None:
    """Load the plugins of `llm`, once per process and in one thread.

    `llm` marks its plugins as loaded before it loads them: threads that come second find no models, and after
    a plugin that fails to import, not even the built-in ones are there. So a failure is raised, and the process must
    end: SettingsError, or ProviderUnavailable where a plugin asked its provider for models (llm-mistral with a key).
    """
    # half a second, which no command that only sends tasks should pay
    import llm

    # it imports llm too
    from worker.backends.failures import classify

    global _warm
    with _lock:
        if _warm:
            return
        try:
            llm.get_embedding_models()  # type: ignore[no-untyped-call]
            llm.get_models()
            llm.load_keys()  # type: ignore[no-untyped-call]
        except VectorIndexError:
            raise  # our own plugin's sentence about its file
        except _BROKEN as error:
            raise SettingsError(
                f"llm cannot load its plugins, models and keys ({type(error).__name__}: {error}): mend or uninstall "
                "the plugin, or mend keys.json or aliases.json in the folder of llm, and start again"
            ) from error
        except Exception as error:
            if isinstance(error, OSError) and error.filename:
                raise SettingsError(
                    f"llm cannot use its folder ({error}): set LLM_USER_PATH to one that can be written"
                ) from error
            plugins = {plugin.__name__ for plugin in llm.plugins.pm.get_plugins()}
            modules = (frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__))
            asking = next((module for module in modules if module in plugins), "a plugin")
            raise classify(error, model_id=f"the models of {asking}") from error
        _warm = True
