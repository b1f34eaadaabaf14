"""Start our programs (workers and Flower) as children of `up`: forked, or each in an interpreter of its own.

On Linux, a fork server imports the modules of all programs, while `up` starts Postgres and Valkey, and then forks one
process for each. So they share the memory of libraries, tokenizers and model files, and start in less time. As with
the fork server of `multiprocessing`, it has one thread and no connection, so that a fork is safe. Elsewhere, a fork
without an exec may crash in libraries of the system.

A child is killed with its parent on Linux, whatever kills that, so an `up` that is killed leaves none of them behind.
"""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any, NoReturn

import setproctitle

from worker.cli.interruption import SIGNALS
from worker.exit_codes import ExitCode
from worker.services.child import Process

PR_SET_PDEATHSIG = 1  # prctl(2)
POLL_SECONDS = 0.02


class Programs:
    """Starts programs by the arguments of `vector-index`, each in an interpreter of its own."""

    def __init__(self, output: IO[Any] | None = None) -> None:
        self.output = output  # for their stderr; None: ours

    def prepare(self, environment: Mapping[str, str]) -> Callable[[], None]:
        """Begin to check the models of all indexes, and to load what programs can share.

        Returns a function that waits for the end. It raises SettingsError for a wrong model: once, and not from each
        program.
        """

        def check() -> None:
            # here, since with a fork server this process needs none of it
            from worker.celery import startup_checks

            startup_checks.check_models()

        return check

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Start a program under an environment, and return its process."""
        # -P: a file worker.py in the working folder must not hide our package
        return spawn([sys.executable, "-P", "-m", "worker.cli", *arguments], environment, self.output)


@contextmanager
def programs(output: IO[Any] | None = None) -> Iterator[Programs]:
    """Make what starts programs. Call it before anything else is open: a forked program inherits it.

    In a forked program, raises SystemExit with its exit code once it has ended.
    """
    if sys.platform != "linux":
        yield Programs(output)
        return
    server = ForkServer(output)
    try:
        yield server
    finally:
        server.close()


class ForkServer(Programs):
    """Forks programs from a process that has imported their modules.

    Should the server die, its programs die too. Later ones get an interpreter of their own.
    """

    def __init__(self, output: IO[Any] | None = None) -> None:
        super().__init__(output)
        self._connection, theirs = Pipe()
        self._number = 0  # of the last request
        sys.stdout.flush()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            self._connection.close()
            _Server(theirs, parent, output).serve()
        theirs.close()

    def prepare(self, environment: Mapping[str, str]) -> Callable[[], None]:
        """Let the server load the files, while we go on."""
        number = self._send("prepare", dict(environment))

        def wait() -> None:
            answer = self._answer(number)
            if answer is None:
                super(ForkServer, self).prepare(environment)()
            elif answer[0] is not None:
                raise answer[0]

        return wait

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Process:
        """Fork a program, which gets this environment in place of ours."""
        pid = self._ask("start", list(arguments), dict(environment))
        return super().start(arguments, environment) if pid is None else Forked(pid=pid, server=self)

    def exit_code(self, pid: int) -> int | None:
        """Return the exit code of a program, `None` while it runs."""
        answer = self._ask("poll", pid)
        return -signal.SIGKILL if answer is None else answer[0]

    def close(self) -> None:
        """End the server, after its programs have ended."""
        self._connection.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _send(self, *request: Any) -> int:
        """Send a request, and return its number."""
        self._number += 1
        with suppress(OSError):  # the server is dead, and so will be its answer
            self._connection.send((self._number, *request))
        return self._number

    def _answer(self, number: int) -> Any:
        """Return the server's answer to a request, `None` if the server is dead."""
        try:
            # an interruption may have left the answer to an earlier request
            while (answer := self._connection.recv())[0] != number:
                pass
        except (EOFError, OSError):
            return None
        return answer[1]

    def _ask(self, *request: Any) -> Any:
        return self._answer(self._send(*request))


@dataclass(kw_only=True)
class Forked:
    """A program that the server has forked, with the methods of `subprocess.Popen`."""

    pid: int
    server: ForkServer
    returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self.server.exit_code(self.pid)
        return self.returncode

    def send_signal(self, number: int) -> None:
        # the server waits for a program only when it is asked, so the id is still that of the program
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(POLL_SECONDS)
        return code


class _Server:
    """The other end, in the server's process."""

    def __init__(self, connection: Connection, parent: int, output: IO[Any] | None) -> None:
        self._connection = connection
        self._die_with_parent = _death_signal()
        self._die_with_parent(parent)
        os.setpgid(0, 0)  # Ctrl-C on the terminal reaches only the parent
        setproctitle.setproctitle("vector-index fork server")
        # a stop of the whole group of processes must leave the programs the time to end
        self._ignored = {number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN}
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        _redirect(output)
        gc.disable()  # of what imports make, little is garbage
        self._frozen = False  # what exists is left out of garbage collections

    def serve(self) -> NoReturn:
        """Answer requests until the parent closes the connection. Raises SystemExit in each program, at its end."""
        while True:
            try:
                number, request, *values = self._connection.recv()
            except EOFError:
                os._exit(ExitCode.DONE)
            with suppress(OSError):
                self._connection.send((number, self._answer(request, values)))

    def _answer(self, request: str, values: Sequence[Any]) -> Any:
        if request == "prepare":
            self._frozen = False
            return self._prepare(*values)
        return self._start(*values) if request == "start" else _exit_code(*values)

    def _prepare(self, environment: Mapping[str, str]) -> tuple[Exception | None]:
        from worker.cli import preloading  # here, since the parent needs none of it

        try:
            preloading.load(environment)
        except Exception as error:  # noqa: BLE001 - the parent raises it
            return (error,)
        return (None,)

    def _start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
        if not self._frozen:
            from worker.cli import preloading

            preloading.import_modules()
            gc.collect()
            gc.freeze()  # a collection writes to each object, and so copies its shared page
            self._frozen = True
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._die_with_parent(server)
            os.setpgid(0, 0)
            gc.enable()
            self._connection.close()
            for number in set(SIGNALS) - self._ignored:
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
            sys.exit(_run(arguments, environment))
        return pid


def _run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Be the program."""
    from worker.cli import PROGRAM, run

    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [PROGRAM, *arguments]
    setproctitle.setproctitle(" ".join(sys.argv))
    return run(list(arguments))


def _exit_code(pid: int) -> tuple[int | None]:
    found, status = os.waitpid(pid, os.WNOHANG)
    return (os.waitstatus_to_exitcode(status) if found else None,)


def _redirect(output: IO[Any] | None) -> None:
    """Let the programs read nothing, and write logs and errors to stderr alone."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
    if output is not None:
        os.dup2(output.fileno(), 2)


def spawn(command: Sequence[str], environment: Mapping[str, str], output: IO[Any] | None = None) -> Process:
    """Start a process in a group of its own, so that Ctrl-C on the terminal reaches only the parent."""
    parent = os.getpid()
    die_with_parent = _death_signal()
    return subprocess.Popen(  # noqa: S603 - programs and arguments are our own
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # Celery's messages while it stops; logs and errors go to stderr
        stderr=output or sys.stderr,
        process_group=0,
        preexec_fn=(lambda: die_with_parent(parent)) if sys.platform == "linux" else None,
    )


def _death_signal() -> Callable[[int], None]:
    """Return a function for a new process, which asks the kernel to kill it with its parent."""
    # The embedded servers use setpriv instead: it also changes the user, which clears the death signal.
    libc = ctypes.CDLL(None)  # before the fork: importing after it is unsafe

    def request_signal(parent: int) -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the line above
            os._exit(ExitCode.FAILED)

    return request_signal
