"""How a score came about, in one line for a person."""

from collections.abc import Mapping
from typing import Any


def explained(row: Mapping[str, Any]) -> str:
    """Return the steps of a score: both halves, the words, the fusion, the boosts and the reranker."""
    explain = row["explain"]
    steps = []
    if explain["by_vector"] is not None:
        steps.append(f"vector {explain['by_vector']:.4f}{_weight(explain, 0)}")
    if explain["by_words"] is not None:
        words = [f"{each['word']} {each['share']:.4f}" for each in explain["words"] if each["share"]]
        steps.append(f"words {explain['by_words']:.4f}{_weight(explain, 1)} ({', '.join(words) or 'none'})")
    if explain["weights"]:
        steps.append(f"mean {explain['fused']:.4f}")
    steps += [f"{each['field']} {each['value']!r:.40} x {each['factor']:.4f}" for each in explain["boosts"]]
    if explain["searched"] < explain["boosted"]:
        steps.append(f"lowered to {explain['searched']:.4f} behind better rows")
    if (reranked := row.get("rerank", {}).get("score")) is not None:
        steps.append(f"reranked {reranked:.4f}")
    return ", ".join(steps)


def _weight(explain: Mapping[str, Any], at: int) -> str:
    return f" x {explain['weights'][at]:g}" if explain["weights"] else ""
