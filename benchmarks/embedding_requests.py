"""CPU of one embedding request of 100 inputs: our class against `llm`'s own, and base64 against floats.

The provider is the stand-in of the tests in a process of its own, so that only the client's CPU is counted.
"""

import os
import time

from llm.default_plugins.openai_models import OpenAIEmbeddingModel

from benchmarks.pipeline import provider
from worker.backends.llm import LLMEmbeddingBackend

INPUTS, DIMENSIONS, REQUESTS = 100, 1536, 20


def main() -> None:
    texts = [f"text number {number}" for number in range(INPUTS)]
    with provider() as url:
        os.environ |= {"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "none"}
        ours = LLMEmbeddingBackend(name="benchmark", model_id="ada-002")
        plain = LLMEmbeddingBackend(name="benchmark", model_id="ada-002", init_kwargs={"takes_base64": False})
        theirs = OpenAIEmbeddingModel("text-embedding-ada-002", "text-embedding-ada-002")
        seconds = {
            "ours": _cpu_seconds(lambda: ours.embed(texts)),
            "ours with floats": _cpu_seconds(lambda: plain.embed(texts)),
            "llm's own": _cpu_seconds(lambda: list(theirs.embed_multi(texts, batch_size=INPUTS))),
        }
    for name, spent in seconds.items():
        print(
            f"requests    {name}: {1000 * spent:.1f} ms of CPU for {INPUTS} inputs x {DIMENSIONS} dimensions, "
            f"{spent / seconds['ours']:.1f} times ours"
        )


def _cpu_seconds(request: object) -> float:
    """Of one request, after a first one that makes what lasts."""
    assert callable(request)
    request()
    started = time.process_time()
    for _ in range(REQUESTS):
        request()
    return (time.process_time() - started) / REQUESTS


if __name__ == "__main__":
    main()
