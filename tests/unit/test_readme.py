"""README.md: short enough to read, a complete run first, and targets, tasks and queues that exist."""

import re
from pathlib import Path

from worker.keyspace import QUEUES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_readme_has_at_most_150_lines() -> None:
    assert len(README.splitlines()) <= 150


def test_readme_begins_with_a_complete_run_of_at_most_30_lines() -> None:
    language, run = BLOCKS[0]
    assert language == "console"
    assert run.startswith("$ make demo\n")
    assert len(run.splitlines()) <= 30


def test_every_make_target_in_readme_exists() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"`(?:\$ )?make ([\w-]+)", README)) <= set(targets)


def test_every_queue_in_readme_exists() -> None:
    assert set(re.findall(r'queue="([\w.]+)"', README)) <= set(QUEUES)
