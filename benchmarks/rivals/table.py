"""Medians of measurements, as a table."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

COLUMNS = {
    "contender": "contender",
    "runs": "n",
    "rate": "documents/s",
    "times_slower": "times slower",
    "client_ms": "CPU ms a row",
    "postgres_ms": "Postgres",
    "requests": "requests",
    "inputs": "inputs",
    "tokens_per_request": "tokens a request",
    "max_parallel": "in flight",
    "pss_mb": "MB",
    "largest_mb": "largest process",
    "rows": "rows",
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
}
MEASURED = [name for name in COLUMNS if name not in ("contender", "runs", "times_slower")]


def tables(measured: Sequence[Mapping[str, Any]]) -> str:
    """A table for each scenario and latency, in the order in which they were measured; the fastest comes first."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = defaultdict(list)
    for row in measured:
        groups[row["scenario"], row["latency_ms"]].append(row)
    return "\n\n".join(
        f"{scenario}, {latency:g} ms a request: {rows[0]['what']}\n\n{table(rows)}"
        for (scenario, latency), rows in groups.items()
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    failures = dict.fromkeys(f"{row['contender']} failed: {row['error']}" for row in rows if "error" in row)
    found = summarised(rows)
    if not found:
        return "\n".join(failures)
    columns = [name for name in COLUMNS if any(row.get(name) is not None for row in found)]
    cells = [[COLUMNS[name] for name in columns]]
    cells += [[written(row.get(name)) for name in columns] for row in found]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    lines = [_line(line, widths) for line in cells]
    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([lines[0], rule, *lines[1:], *failures])


def summarised(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each contender: the median of each number, over the runs that succeeded."""
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if "error" not in row:
            groups[row["contender"]].append(row)
    found = [
        {"contender": name, "runs": len(runs)}
        | {
            column: median(run.get(column) for run in runs)
            for column in COLUMNS.keys() - {"contender", "runs"}
        }
        for name, runs in groups.items()
    ]
    found.sort(key=_seconds)
    for row in found:
        row["times_slower"] = _seconds(row) / _seconds(found[0])
    return found


def _seconds(row: Mapping[str, Any]) -> float:
    """Of a document, or of a call where the scenario is about its latency."""
    return 1 / row["rate"] if row["rate"] else row["p50_ms"] / 1000


def median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def written(value: float | str | None) -> str:
    """Three digits of a number below 100, and whole numbers above."""
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name, *numbers = cells
    padded = [
        name.ljust(widths[0]),
        *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)),
    ]
    return f"| {' | '.join(padded)} |"
