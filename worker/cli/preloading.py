"""What all our programs import and read, loaded once in the process that forks them."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from multiprocessing.connection import Pipe
from typing import TypeVar, cast

from worker import backends, tokens, wiring
from worker.celery import startup_checks
from worker.celery.application import TASK_MODULES
from worker.celery.upstream import registry
from worker.errors import SettingsError
from worker.exit_codes import ExitCode

T = TypeVar("T")

BACKENDS = ("worker.backends.llm.chat", "worker.backends.llm.embedding", "worker.models")  # with llm
PROGRAMS = (
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.beat",
    "celery.apps.worker",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.worker.autoscale",
    "celery.worker.consumer.delayed_delivery",
    "celery.worker.strategy",
    "tasks",
    "worker.celery.argument_summary",
    "worker.celery.requests",
    "worker.celery.task",
    "worker.cli.flower",
    "worker.cli.worker",
    *TASK_MODULES,
)


@cache
def import_modules() -> None:
    """Import the modules of all programs, and compare the libraries with those that our changes were made for."""
    for name in (*BACKENDS, *PROGRAMS):
        import_module(name)
    list(registry.differences())


def load(environment: Mapping[str, str]) -> None:
    """Make the backends of all indexes in a fork, and load the files that they read. Raises SettingsError."""
    backends.postpone_openai()
    for name in BACKENDS:
        import_module(name)
    found = apart(lambda: tokenizers(environment))
    import_modules()  # meanwhile
    for name in found():
        with suppress(SettingsError):  # the program that needs it reports the error
            tokens.counter(name)


def tokenizers(environment: Mapping[str, str]) -> Sequence[str]:
    """Make the backends of all indexes, and return the names of their tokenizers. Raises SettingsError."""
    os.environ.clear()
    os.environ.update(environment)
    startup_checks.check_models()
    return [
        wiring.embedding_backend(used.name).tokenizer for used in startup_checks.embedding_backends_in_use()
    ]


def apart(function: Callable[[], T]) -> Callable[[], T]:
    """Call a function in a fork, so that this process keeps nothing of what it loads. Returns at once.

    Returns a function that waits for the result and returns it, or raises the error. Both have to be picklable. Call
    this while no thread and no connection is open.
    """
    ours, theirs = Pipe(duplex=False)
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            theirs.send((function(), None))
        except BaseException as error:  # noqa: BLE001 - the parent raises it
            theirs.send((None, error))
        os._exit(ExitCode.DONE)
    theirs.close()

    def wait() -> T:
        try:
            result, problem = ours.recv()
        finally:
            os.waitpid(pid, 0)
        if problem is not None:
            raise problem
        return cast(T, result)

    return wait
