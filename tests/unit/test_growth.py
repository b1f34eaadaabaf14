"""Plots and table of how costs grow: drawn from the figures, and up to date."""

import json
from xml.etree import ElementTree

import pytest

from benchmarks.growth import OUTPUT
from benchmarks.growth_plots import PAGE, Scale, apart, filled, images


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
