"""Chunking with exact counts, against counting alone: what the boundaries cost on top."""

import time
from pydoc_data.topics import topics

from worker.chunking import chunk
from worker.tokens import counter


def main() -> None:
    prose = "\n\n".join(topics[name] for name in sorted(topics))
    count = counter("cl100k_base")
    count("")
    for size in (200_000, 4_000_000):
        text = (prose * (size // len(prose) + 1))[:size]
        counting = _seconds(lambda text=text: count(text))
        chunking = _seconds(lambda text=text: chunk(text, chunk_tokens=512, token_limit=8191, count=count))
        print(
            f"chunking    {size / 1e6:.1f} MB: {size / chunking / 1e6:.1f} MB/s with exact counts, "
            f"{chunking / counting:.2f} times the seconds of counting the whole text once"
        )


def _seconds(run: object) -> float:
    assert callable(run)
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
