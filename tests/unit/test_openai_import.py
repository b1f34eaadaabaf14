"""openai is slow to import, so it is imported at its first use."""

import subprocess
import sys

import pytest

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


BEFORE_THE_TIMEOUT = """
import sys

from worker.backends import load_plugins

load_plugins()

from worker.backends.llm import chat, embedding

class Sent(BaseException):
    pass

def send(seconds, call):
    assert "openai.types" in sys.modules, "to be imported in the time of the request"
    raise Sent

embedding.call_with_timeout = chat.iterate_with_timeout = send
made = {made}
assert "openai.types" not in sys.modules, "imported before a request"
try:
    {used}
except Sent:
    sys.exit(0)
sys.exit("nothing was sent")
"""


@pytest.mark.parametrize(
    ("made", "used"),
    [
        (
            "embedding.LLMEmbeddingBackend(name='default', model_id='3-small', init_kwargs={'key': 'x'}, dimensions=8)",
            "made.embed(['a word'])",
        ),
        (
            "chat.LLMChatBackend(name='default', model_id='gpt-4o', init_kwargs={'key': 'x'})",
            "made.reply([{'role': 'user', 'content': 'Why?'}])",
        ),
    ],
    ids=["embedding", "chat"],
)
def test_the_timeout_of_a_request_begins_after_the_import(made: str, used: str) -> None:
    code = BEFORE_THE_TIMEOUT.format(made=made, used=used)
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
