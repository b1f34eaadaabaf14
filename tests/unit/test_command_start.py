"""A command that only sends a task imports what that takes."""

import subprocess
import sys

NEEDLESS = ("numpy", "psycopg", "rich", "tokenizers", "worker.documents", "worker.store", "worker.words")

CODE = f"""
import gc
import sys

from worker.cli import run

assert run(["search", "--help"]) == 0
assert "celery" in sys.modules
assert not {set(NEEDLESS)} & sys.modules.keys(), {set(NEEDLESS)} & sys.modules.keys()
assert gc.get_freeze_count(), "the next collection visits all that was imported"
assert gc.isenabled(), "a command that runs for long needs collections"
"""


def test_search_imports_only_what_sends_a_task() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120, stdout=subprocess.DEVNULL)


def test_settings_without_a_mistake_read_one_time_zone() -> None:
    code = (
        "import zoneinfo; from worker.configuration import load; "
        "zoneinfo.available_timezones = None; load({'TIMEZONE': 'Europe/Berlin'})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_worker_leaves_the_other_commands_of_celery_and_its_shell_alone() -> None:
    code = (
        "import sys, click; from worker.cli.celery_program import run_celery\n"
        "try: run_celery('worker', '--loglevel', 'bogus')\n"
        "except click.ClickException as error: assert 'BOGUS' in error.message, error.message\n"
        "else: raise AssertionError('arguments are not read')\n"
        "assert not {'prompt_toolkit', 'celery.bin.celery', 'flower'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_flower_leaves_the_commands_of_celery_alone() -> None:
    code = (
        "import os, sys; from worker.cli.celery_program import run_celery; import flower.app as flower\n"
        "flower.Flower.start_http_server = lambda self: 0\n"
        "flower.Flower.start = lambda self: print(self.options.port, self.capp.main, flush=True)\n"
        "os.environ.update(FLOWER_PORT='4321', DATABASE_URL='postgresql://h/d', BROKER_URL='redis://h')\n"
        "run_celery('flower')\n"
        "assert not {'prompt_toolkit', 'celery.bin.celery'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True
    )
    assert done.stdout.startswith("4321 ")
