"""Plots and table of how costs grow: drawn from the figures, and up to date."""

import json
from xml.etree import ElementTree

import pytest

from benchmarks.growth import OUTPUT
from benchmarks.growth_plots import PAGE, Scale, apart, filled, images, table, times


def test_plots_and_table_are_those_of_the_figures() -> None:
    """`python -m benchmarks.growth_plots` writes both."""
    measured = json.loads(OUTPUT.read_text())
    for path, image in images(measured).items():
        assert path.read_text() == image
        ElementTree.fromstring(image)
    assert PAGE.read_text() == filled(PAGE.read_text(), measured)


def test_page_shows_every_plot() -> None:
    measured = json.loads(OUTPUT.read_text())
    assert not [path.name for path in images(measured) if f"../images/{path.name}" not in PAGE.read_text()]


def test_axis_is_logarithmic_and_its_ticks_are_round() -> None:
    scale = Scale(low=9, high=1_100, first=0, last=100)
    assert scale.ticks() == [10, 20, 50, 100, 200, 500, 1000]
    assert scale.at(20) - scale.at(10) == pytest.approx(scale.at(200) - scale.at(100))


def test_labels_do_not_overlap() -> None:
    assert apart([1, 2, 50], distance=10) == [1, 11, 50]


def test_last_column_says_how_many_times_as_much_the_largest_size_takes() -> None:
    sizes = [{"chunks": 1_000, "ms": 2.0}, {"chunks": 10_000, "ms": 3.0}]
    assert (times(sizes, "chunks"), times(sizes, "ms")) == ("10.00", "1.50")
    assert times([{"ms": None}, {"ms": 3.0}], "ms") == ""


def test_table_says_how_busy_the_machine_was() -> None:
    """Figures of a busy machine compare with those of their own run."""
    measured = json.loads(OUTPUT.read_text())
    assert "| load average of the machine |" in table(measured["sizes"])
    assert measured["sizes"][-1]["load_average"] > 0


SHARED_BUFFERS_BYTES = 128 * 2**20  # of the embedded Postgres


def test_nothing_grows_clearly_faster_than_the_chunks() -> None:
    """The page has the factors. A half is left to deeper trees and to a busy machine.

    Twice that is left if only the smallest index fits into SHARED_BUFFERS_BYTES: every page is read from the system.
    """
    first, *_, last = json.loads(OUTPUT.read_text())["sizes"]
    outgrows = last["chunks"] * last["bytes_per_chunk_with_vector_index"] > SHARED_BUFFERS_BYTES
    chunks = last["chunks"] / first["chunks"]
    of_all = [
        "verify_seconds",
        "status_ms",
        "sweep_ms",
        "search_hybrid_ms",
        "search_text_ms",
        "search_vector_ms",
    ]
    of_one = [
        "load_cpu_ms_per_chunk",
        "bytes_per_chunk_with_vector_index",
        "edit_ms",
        "publish_ms",
        "delete_ms",
    ]
    grown = {key: last[key] / first[key] / chunks for key in of_all}
    grown |= {key: last[key] / first[key] for key in of_one}
    assert not {key: factor for key, factor in grown.items() if factor > (3.0 if outgrows else 1.5)}
