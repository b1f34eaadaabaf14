"""The command line. Its commands send tasks by name, as an application does.

Exit codes: 0 done, 1 some documents failed, 2 bad usage or settings, 3 a service is unreachable, 130 Ctrl-C.
Every error is one line on stderr. The module of a command is imported when the command runs: the help is
there at once.
"""

import os
import sys
from importlib import import_module

import click

from worker.errors import InputError, SettingsError, TemporaryError, VectorIndexError

PROGRAM = "vector-index"
INTERRUPTED = 130  # 128 + SIGINT, as shells count

# name: (module below worker.cli that defines it, help)
COMMANDS = {
    "up": ("processes", "Run everything in the foreground: Postgres, Valkey, workers, beat, Flower."),
    "demo": ("demo", "Index real text with real services, ask it questions, stop everything."),
    "doctor": ("doctor", "Check the settings, the services and the workers."),
    "models": ("models", "List the models of llm with their limits, and which backend uses them."),
    "index": ("documents", "Index files and folders, and wait until all is searchable."),
    "plan": ("plan", "Count the chunks, tokens and requests that indexing takes, and their price."),
    "delete": ("documents", "Delete documents by their ids."),
    "search": ("documents", "Search an index."),
    "eval": ("eval", "Measure how well an index answers questions whose documents are known."),
    "ask": ("ask", "Answer a question from an index, with sources."),
    "status": ("status", "Show what an index holds and what is pending."),
    "failures": ("upkeep", "List the documents that failed."),
    "retry": ("upkeep", "Try documents that failed again."),
    "reindex": ("upkeep", "Bring an index up to its source."),
    "schedule": ("schedule", "Show when sources were read last, and when they are due next."),
    "pause": ("indexes", "Send nothing of an index to its provider any more."),
    "resume": ("indexes", "Go on with what waits in a paused index."),
    "drop": ("indexes", "Delete an index with all that it holds."),
    "verify": ("verify", "Check that an index is whole; --repair mends it."),
    "worker": ("processes", "Run one worker process."),
    "live": ("health", "Tell whether the workers of this machine turn: for supervisors."),
    "ready": ("health", "Tell whether what is sent is done now: for load balancers."),
    "beat": ("processes", "Run the process that sends what is due."),
    "flower": ("processes", "Run Flower, the monitor of tasks and workers."),
}


class Commands(click.Group):
    """A group that imports a command's module when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"worker.cli.{module}"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vector-index-worker", prog_name=PROGRAM)
def cli() -> None:
    """Semantic search and answers over your own content, on Celery, Postgres and pgvector.

    `vector-index up` starts everything; `vector-index index PATH` and `vector-index search QUERY` use it.
    """


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command; the exit code. What goes wrong is told in one line on stderr."""
    try:
        code = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return 0
    except click.ClickException as error:
        return _failed(error.format_message(), error.exit_code)
    except (InputError, SettingsError) as error:
        return _failed(str(error), 2)
    except TemporaryError as error:
        return _failed(str(error), 3)
    except VectorIndexError as error:
        return _failed(str(error), 1)
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # the reader of a pipe has enough; the interpreter must not flush into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _failed(sentence: str, code: int) -> int:
    click.echo(f"{PROGRAM}: {' '.join(sentence.split())}", err=True)
    return code
