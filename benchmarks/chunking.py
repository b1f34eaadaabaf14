"""Speed and memory of chunking, against two text splitters, in one run.

    python -m benchmarks.chunking

Prose and Markdown; each size and splitter in a process of its own, of which the CPU seconds (another process on the
machine changes them less than the clock) and the growth of peak memory are taken. Limit: 512 tokens of cl100k_base.
semantic-text-splitter is quadratic in the length of its text: it gets no longer ones after SECONDS.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from threading import Event, Thread

from benchmarks.texts import LIMIT, langchain_splitter, long_text, semantic_splitter
from worker.chunking import chunk
from worker.tokens import counter

SIZES = (200_000, 4_000_000, 20_000_000)
SECONDS = 20


def main() -> None:
    for splitter in SPLITTERS.values():
        splitter(False)  # says here what is not installed
    print(f"{'chunking':<12}" + "".join(f"{size / 1e6:>24} MB" for size in SIZES))
    for kind in ("prose", "markdown"):
        for name in SPLITTERS:
            line = f"{kind:<9}{name:<10}"
            for size in SIZES:
                found = run(name, kind, size)
                if found is None:
                    print(f"{line}  over {SECONDS} s", flush=True)
                    break
                line += f"{found['megabytes_per_second']:>7.1f} MB/s {found['peak_megabytes']:>6.0f} MB "
                line += f"{found['stall_milliseconds']:>4.0f} ms" if name == "ours" else ""
            else:
                print(line, flush=True)
    print(
        "peak: above the text itself; ms: longest time for which another thread did not get the interpreter lock"
    )


def run(name: str, kind: str, size: int) -> dict[str, float] | None:
    """What `child` printed; None when it took too long."""
    command = [sys.executable, "-m", "benchmarks.chunking", name, kind, str(size)]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=SECONDS, check=True)
    except subprocess.TimeoutExpired:
        return None
    result: dict[str, float] = json.loads(done.stdout)
    return result


def child(name: str, kind: str, size: int) -> None:
    text = long_text(kind, size)
    split = SPLITTERS[name](kind == "markdown")
    split(text[:2_000])  # loads tokenizers and compiles patterns
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stalls = Stalls()
    started = time.process_time()
    chunks = split(text)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert chunks
    print(
        json.dumps(
            {
                "megabytes_per_second": len(text.encode()) / seconds / 1e6,
                "peak_megabytes": peak / (1e6 if sys.platform == "darwin" else 1e3),
                "stall_milliseconds": stalls.longest() * 1e3,
            }
        )
    )


class Stalls:
    """How long a thread that wants to run every millisecond has to wait."""

    def __init__(self) -> None:
        self._ended, self._longest = Event(), 0.0
        self._thread = Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.is_set():
            started = time.perf_counter()
            time.sleep(0.001)
            self._longest = max(self._longest, time.perf_counter() - started - 0.001)

    def longest(self) -> float:
        self._ended.set()
        self._thread.join()
        return self._longest


def ours(markdown: bool) -> Callable[[str], Sequence[object]]:
    count = counter("cl100k_base")
    return lambda text: chunk(
        text, title="A title", chunk_tokens=LIMIT, token_limit=8191, count=count, sections=True
    )


def counting(markdown: bool) -> Callable[[str], Sequence[object]]:
    """Nothing but the exact count of the whole text: what no splitter with exact counts can be faster than."""
    count = counter("cl100k_base")
    return lambda text: [count(text)]


SPLITTERS: dict[str, Callable[[bool], Callable[[str], Sequence[object]]]] = {
    "counting": counting,
    "ours": ours,
    "langchain": langchain_splitter,
    "semantic": semantic_splitter,
}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    else:
        main()
