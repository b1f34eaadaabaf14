"""What talks to models. A backend is a class that the settings name by its dotted path."""

from dataclasses import dataclass
from importlib import import_module
from threading import Lock

from worker.errors import SettingsError

_lock = Lock()
_warm = False


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a chat model answered."""

    text: str
    input_tokens: int  # as the provider counted, else as we do
    output_tokens: int


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
    a plugin that fails to import, not even the built-in ones are there. So a failure is raised as SettingsError,
    and the process must end.
    """
    # half a second, which no command that only sends tasks should pay
    import llm

    global _warm
    with _lock:
        if _warm:
            return
        try:
            llm.get_embedding_models()  # type: ignore[no-untyped-call]
            llm.get_models()
        except OSError as error:
            raise SettingsError(
                f"llm cannot use its folder ({error}): set LLM_USER_PATH to one that can be written"
            ) from error
        except (
            ImportError,
            SyntaxError,
            AttributeError,
            KeyError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:
            raise SettingsError(
                f"llm cannot load its plugins and models ({type(error).__name__}: {error}): mend or uninstall the "
                "plugin, and start again"
            ) from error
        _warm = True
