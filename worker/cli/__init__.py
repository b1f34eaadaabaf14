"""The command line `vector-index`. Most commands send tasks by name through the broker, as an application does.

The command NAME is defined in the module `worker.cli.NAME`, which is imported only when that command runs. `import`, a
keyword of Python, is in `worker.cli.import_`. The other modules are shared by several commands.

A command ends with an ExitCode. An error is one line on stderr.
"""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from keyword import iskeyword

import click

from worker.cli.streams import discard_stdout, echo, flush, prepare_streams
from worker.errors import InputError, SettingsError, TemporaryError, VectorIndexError
from worker.exit_codes import ExitCode

PROGRAM = "vector-index"

# section of the help: command: first line of its help
SECTIONS = {
    "Run": {
        "up": "Start everything: Postgres, Valkey, workers and Flower.",
        "worker": "Run one worker process, for one kind of task or for all.",
        "beat": "Run the scheduler that sends periodic tasks.",
        "flower": "Run Flower, the web dashboard of tasks and workers.",
        "live": "Liveness check: exit 0 if this machine's workers are responsive.",
        "ready": "Readiness check: exit 0 if Postgres, broker and workers respond.",
        "addresses": "Print the addresses of Postgres and the broker, with their passwords.",
        "schema": "Create or migrate the schema vector_index in Postgres, and start nothing.",
        "demo": "Index sample documents, ask questions about them, and clean up.",
    },
    "Index documents": {
        "index": "Index files and folders, and wait until they are searchable.",
        "plan": "Estimate chunks, tokens, requests and price of indexing files.",
        "delete": "Delete documents by id.",
        "reindex": "Sync an index with its source.",
        "export": "Write an index with its vectors to a file of JSON lines.",
        "import": "Take over documents and vectors that `export` wrote, or others.",
        "rebuild": "Take an index to other settings, such as another model, while it is searched.",
        "schedule": "Show the last and the next scheduled sync of each index.",
    },
    "Search": {
        "search": "Search an index; print the best passages first.",
        "ask": "Answer a question from an index, with numbered sources.",
        "questions": "Write a question set for `eval` from an index itself.",
        "eval": "Measure search quality on questions whose documents you know.",
    },
    "Inspect and repair": {
        "doctor": "Diagnose settings, models, services, sources and workers.",
        "models": "List the models that MODEL_ID may name, with limits and keys.",
        "llm": "Run a command of `llm`, with the workers' plugins, keys and models.",
        "status": "Show document counts and pending work, or single documents.",
        "failures": "List documents that failed or were refused, with their errors.",
        "retry": "Retry failed documents: those you name, or all of the index.",
        "verify": "Check an index for inconsistencies; --repair fixes them.",
        "pause": "Pause embedding for an index; indexing and search still work.",
        "resume": "Resume embedding for a paused index.",
        "drop": "Delete an index with all its documents. This cannot be undone.",
    },
}
COMMANDS = {name: text for commands in SECTIONS.values() for name, text in commands.items()}


class Commands(click.Group):
    """A group that imports the module of a command when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        with _uncollected():
            command: click.Command = getattr(import_module(f"worker.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section, commands in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in commands.items()])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause garbage collection while modules are imported, and leave what they made out of later collections."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vector-index-worker", prog_name=PROGRAM)
def cli() -> None:
    """Semantic search and answers over your own content, on Celery, Postgres and pgvector.

    Start everything with `vector-index up`. In a second terminal, run `vector-index index PATH`, then
    `vector-index search QUERY`. `vector-index COMMAND --help` explains a command.
    """


def main() -> None:
    """Run the command line and exit with its code."""
    code = run(sys.argv[1:])
    gc.freeze()  # the collection at the exit would visit every object, a fifth of the time of a short command
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code. Errors are printed as one line on stderr."""
    prepare_streams()
    try:
        code = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        flush()
        return code if isinstance(code, int) else ExitCode.DONE
    except click.exceptions.NoArgsIsHelpError as error:
        echo(error.ctx.get_help() if error.ctx else "")
        return ExitCode.DONE
    except click.ClickException as error:
        return _failed(error.format_message(), error.exit_code)
    except (InputError, SettingsError) as error:
        return _failed(str(error), ExitCode.REFUSED)
    except TemporaryError as error:
        return _failed(str(error), ExitCode.UNREACHABLE)
    except VectorIndexError as error:
        return _failed(str(error), ExitCode.FAILED)
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        discard_stdout()  # the reader of the pipe has closed it
        return ExitCode.FAILED
    except Exception as error:
        if sys.flags.dev_mode:
            raise
        from worker.backends.redaction import redact

        # of a library or of a class of your own, whose message may quote a password
        said = redact(f"{type(error).__name__}: {error}")
        advice = "`PYTHONDEVMODE=1` before the command shows where; please report it"
        return _failed(f"the command ended in an unexpected error ({said}); {advice}", ExitCode.FAILED)


def _failed(sentence: str, code: int) -> int:
    with suppress(OSError, click.ClickException):  # nobody may read stderr
        echo(f"{PROGRAM}: {' '.join(sentence.split())}", err=True)
    return code
