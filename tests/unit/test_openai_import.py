"""openai is slow to import, so it is imported at its first use."""

import subprocess
import sys

CODE = """
import sys
from threading import Thread

from worker.backends import load_plugins

load_plugins()
assert "openai.types" not in sys.modules, "imported without a use"

import openai

found = []
threads = [Thread(target=lambda: found.append(openai.OpenAI)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert found == [openai.OpenAI] * 8
"""


def test_openai_is_imported_at_its_first_use_in_any_thread() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120)
