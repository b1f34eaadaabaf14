"""Draw the figures of `benchmarks.growth` as SVG: python -m benchmarks.growth_plots

Reads benchmarks/growth.json, writes docs/images/growth-*.svg, and puts a table into docs/operate/speed.md, which shows
all of them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.growth import OUTPUT

DOCS = Path(__file__).parents[1] / "docs"
PAGE, IMAGES = DOCS / "operate" / "speed.md", DOCS / "images"
BEGIN, END = "<!-- written by benchmarks/growth_plots.py -->\n", "<!-- to here -->"
WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 70, 170, 40, 45  # margins, with room for the names of lines
MARGIN = 1.3  # around the values of an axis, as a factor
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df")
TEXT = 'font-family="sans-serif" font-size="12" fill="#57606a"'


@dataclass(frozen=True, kw_only=True)
class Plot:
    name: str  # of the file
    title: str
    lines: Mapping[str, str]  # name to the key of a figure


PLOTS = (
    Plot(
        name="growth-search",
        title="Median search, ms, by chunks in the index",
        lines={"hybrid": "search_hybrid_ms", "words": "search_text_ms", "vectors": "search_vector_ms"},
    ),
    Plot(name="growth-load", title="Chunks loaded a second", lines={"load": "load_chunks_per_second"}),
    Plot(
        name="growth-changes",
        title="Milliseconds a document, in batches",
        lines={"edited": "edit_ms", "other metadata": "publish_ms", "deleted": "delete_ms"},
    ),
    Plot(
        name="growth-upkeep",
        title="Status, sweep and verify, ms",
        lines={"verify": "verify_ms", "status": "status_ms", "sweep": "sweep_ms"},
    ),
    Plot(
        name="growth-disk",
        title="Bytes on disk for each chunk",
        lines={"with vector index": "bytes_per_chunk_with_vector_index", "without": "bytes_per_chunk"},
    ),
)

ROWS = {
    "load, chunks a second": "load_chunks_per_second",
    "load, ms of CPU a chunk": "load_cpu_ms_per_chunk",
    "vector index made after the load, s": "vector_index_seconds",
    "search, hybrid, ms": "search_hybrid_ms",
    "search, words, ms": "search_text_ms",
    "search, vectors, ms": "search_vector_ms",
    "100 edited documents, ms each": "edit_ms",
    "100 documents with other metadata, ms each": "publish_ms",
    "20 deleted documents, ms each": "delete_ms",
    "status, ms": "status_ms",
    "sweep, ms": "sweep_ms",
    "verify, s": "verify_seconds",
    "bytes on disk for each chunk": "bytes_per_chunk",
    "the same with the vector index": "bytes_per_chunk_with_vector_index",
    "load average of the machine": "load_average",
}


def draw(plot: Plot, sizes: Sequence[Mapping[str, Any]]) -> str:
    """Lines over two logarithmic axes, each with its name and its last value."""
    values = [size[key] for key in plot.lines.values() for size in sizes]
    across = Scale.over([size["chunks"] for size in sizes], LEFT, WIDTH - RIGHT)
    up = Scale.over(values, HEIGHT - BOTTOM, TOP)
    parts = [f'<text x="{LEFT}" y="20" {TEXT} font-weight="bold">{plot.title}</text>']
    for value in (size["chunks"] for size in sizes):
        x = across.at(value)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#d0d7de"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" {TEXT} text-anchor="middle">{value:,.10g}</text>'
        )
    for value in up.ticks():
        y = up.at(value)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#d0d7de"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" {TEXT} text-anchor="end">{value:,.10g}</text>')
    ends = []
    for colour, (name, key) in zip(COLOURS, plot.lines.items(), strict=False):
        points = [(across.at(size["chunks"]), up.at(size[key])) for size in sizes]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        ends.append((points[-1][1], f"{name} {written(sizes[-1][key])}", colour))
    for y, (_, label, colour) in zip(apart([end[0] for end in sorted(ends)]), sorted(ends), strict=True):
        place = f'x="{WIDTH - RIGHT + 10}" y="{y + 4:.1f}"'
        parts.append(f'<text {place} font-family="sans-serif" font-size="12" fill="{colour}">{label}</text>')
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', background, *parts, "</svg>", ""])


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A logarithmic axis."""

    low: float
    high: float
    first: float  # pixels
    last: float

    @classmethod
    def over(cls, values: Sequence[float], first: float, last: float) -> "Scale":
        return cls(low=min(values) / MARGIN, high=max(values) * MARGIN, first=first, last=last)

    def at(self, value: float) -> float:
        return self.first + math.log(value / self.low) / math.log(self.high / self.low) * (
            self.last - self.first
        )

    def ticks(self) -> list[float]:
        """1, 2 and 5 with zeros."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)))
        values = (step * 10.0**power for power in powers for step in (1, 2, 5))
        return [value for value in values if self.low <= value <= self.high]


def apart(places: Sequence[float], distance: float = 14) -> list[float]:
    """Places in ascending order, moved so that labels do not overlap."""
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + distance) if found else place)
    return found


def written(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def table(sizes: Sequence[Mapping[str, Any]]) -> str:
    """A column for each size, and how many times the first one the last one is."""
    heads = [*(f"{size['chunks']:,} chunks" for size in sizes), f"{times(sizes, 'chunks')} times the chunks"]
    lines = [["figure", *heads], ["---", *("---:" for _ in heads)]]
    lines += [[name, *(cell(size[key]) for size in sizes), times(sizes, key)] for name, key in ROWS.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def times(sizes: Sequence[Mapping[str, Any]], key: str) -> str:
    """How many times as much the largest size takes as the smallest that has the figure; empty for one size."""
    values = [size[key] for size in sizes if size[key] is not None]
    return f"{values[-1] / values[0]:.2f}" if len(values) > 1 else ""


def cell(value: float | None) -> str:
    return "–" if value is None else written(value) if value >= 10 else f"{value:.2g}"


def machine(found: Mapping[str, Any]) -> str:
    """A sentence about where the figures come from."""
    return (
        f"{found['date']}, {found['cores']} cores, {found['system']}, "
        f"Python {found['python']}, PostgreSQL {found['postgres']}, pgvector {found['pgvector']}.\n"
    )


def filled(page: str, measured: Mapping[str, Any]) -> str:
    """The page with the machine and the table between its marks."""
    before, _, rest = page.partition(BEGIN)
    tables = f"{machine(measured['machine'])}\n{table(measured['sizes'])}"
    return f"{before}{BEGIN}{tables}{END}{rest.partition(END)[2]}"


def images(measured: Mapping[str, Any]) -> dict[Path, str]:
    sizes = [{**size, "verify_ms": 1000 * size["verify_seconds"]} for size in measured["sizes"]]
    return {IMAGES / f"{plot.name}.svg": draw(plot, sizes) for plot in PLOTS}


def main() -> None:
    measured = json.loads(OUTPUT.read_text())
    PAGE.write_text(filled(PAGE.read_text(), measured))
    for path, image in images(measured).items():
        path.write_text(image)


if __name__ == "__main__":
    main()
