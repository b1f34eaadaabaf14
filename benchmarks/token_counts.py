"""Counts against the libraries themselves: exact ones equal, the bound never under, the estimate near the truth.

    python -m benchmarks.token_counts [STRINGS]

Per kind of text: how far the estimate is from each tokenizer's count (1.00: equal, 0.50: half of it), and how far
above it the bound is. Ends with 1 where an exact count differs, or the bound is under one.
"""

import sys
from collections import defaultdict
from collections.abc import Callable

import bpe_openai
from tokenizers import Tokenizer

from benchmarks.languages import strings
from worker.tokens import JOINT, OPENAI_ENCODINGS, Counter, counter, estimate, tokenizer_file, upper_bound

WORDLLAMA = "wordllama:tokenizers/l2_supercat_tokenizer_config.json"
STRINGS = 100_000


def main(number: int) -> bool:
    """Whether all counts are right."""
    libraries = references()
    totals: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    wrong = under = 0
    for kind, text in strings(number):
        totals[kind]["estimate"] += estimate(text)
        totals[kind]["bound"] += upper_bound(text)
        for name, reference in libraries.items():
            tokens = reference(text)
            totals[kind][name] += tokens
            wrong += tokens != counted(name, text)
            under += upper_bound(text) < tokens
    print(f"{number:,} strings: {wrong} exact counts differ, the bound is under {under} counts")
    print(
        f"{'estimate / count':<18}"
        + "".join(f"{name.partition(':')[0]:>14}" for name in libraries)
        + f"{'bound / count':>18}"
    )
    for kind, sums in totals.items():
        shares = "".join(f"{sums['estimate'] / sums[name]:>14.2f}" for name in libraries)
        print(f"{kind:<18}{shares}{sums['bound'] / max(sums[name] for name in libraries):>18.2f}")
    return not wrong and not under


def references() -> dict[str, Callable[[str], int]]:
    """The tokenizers of the libraries, without anything of ours around them."""
    file = Tokenizer.from_file(str(tokenizer_file(WORDLLAMA)))
    file.no_padding()
    file.no_truncation()
    openai = {name: bpe_openai.get_encoding(name).encode_ordinary for name in OPENAI_ENCODINGS}
    return {
        **{name: lambda text, encode=encode: len(encode(text)) for name, encode in openai.items()},
        WORDLLAMA: lambda text: len(file.encode(text).ids),
    }


def counted(name: str, text: str) -> int:
    """Our count, in two parts where the text has a joint."""
    count = counter(name)
    joint = JOINT.search(text, len(text) // 2)
    if joint and isinstance(count, Counter) and count.adds_up(text):
        return count(text[: joint.start()]) + count.inside(text[joint.start() :])
    return count(text)


if __name__ == "__main__":
    sys.exit(not main(int(sys.argv[1]) if len(sys.argv) > 1 else STRINGS))
