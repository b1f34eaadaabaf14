"""Requests against the fewest possible, max(ceil(tokens / limit), ceil(inputs / size)), filled in order.

python -m benchmarks.packing
"""

import math
import random

from worker.packing import batches

CHUNKS = 40_000
LIMITS = {
    "OpenAI, 300,000 tokens and 2,048 inputs": (300_000, 2_048),
    "Mistral, 16,000 and 256": (16_000, 256),
    "wordllama, 131,072 and 512": (131_072, 512),
}


def main() -> None:
    print(f"{'requests / fewest possible':<42}" + "".join(f"{name:>18}" for name in distributions()))
    for name, (tokens, size) in LIMITS.items():
        print(
            f"{name:<42}"
            + "".join(f"{over(counts, tokens, size):>18}" for counts in distributions().values())
        )
    mixed = distributions()["mixed to 512"]
    hard = [count * 16 for count in mixed]
    print(f"hard: inputs up to the limit of a request (8,191): {over(hard, 8_191, 2_048).strip()}")


def distributions() -> dict[str, list[int]]:
    """Tokens of 40,000 chunks each."""
    chosen = random.Random(5)
    return {
        "chunks of 512": [min(512, max(170, round(chosen.gauss(350, 70)))) for _ in range(CHUNKS)],
        "short notes": [min(512, max(5, round(chosen.lognormvariate(4.1, 0.6)))) for _ in range(CHUNKS)],
        "mixed to 512": [chosen.randint(5, 512) for _ in range(CHUNKS)],
        "notes and chunks": [
            chosen.choice((chosen.randint(5, 60), chosen.randint(300, 512))) for _ in range(CHUNKS)
        ],
    }


def over(counts: list[int], tokens: int, size: int) -> str:
    made = len(list(batches(counts, lambda count: count, weight_limit=tokens, size_limit=size)))
    fewest = max(math.ceil(sum(counts) / tokens), math.ceil(len(counts) / size))
    return f"{made} / {fewest}  {made / fewest - 1:+.1%}"


if __name__ == "__main__":
    main()
