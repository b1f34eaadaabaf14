"""The searches that `eval` measures beside each other: each mode, and each mode with a reranker."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SUFFIX = "+rerank"


def variants(modes: Sequence[str], rerank: str | None) -> dict[str, dict[str, Any]]:
    """Return the arguments of tasks.search by name; with `rerank`, each mode without it and with it."""
    if rerank is None:
        return {mode: {"mode": mode} for mode in modes}
    found: dict[str, dict[str, Any]] = {}
    for mode in modes:
        found[mode] = {"mode": mode, "rerank": False}
        found[mode + SUFFIX] = {"mode": mode, "rerank": rerank}
    return found


class RerankFailures:
    """Counts the searches that kept their order, as the reranker failed."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._errors: dict[str, str] = {}

    def add(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Note what the rows of a search say."""
        error = rows[0].get("rerank", {}).get("error") if rows else None
        if error:
            self._counts[name] += 1
            self._errors[name] = error

    def sentences(self) -> Iterator[str]:
        """Yield a sentence for each variant with failures, with the last error."""
        for name, number in self._counts.items():
            were = "search was" if number == 1 else "searches were"
            yield f"{name}: {number:,} {were} not reranked; the last error: {self._errors[name]}"
