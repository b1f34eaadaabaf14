"""The invariants of the indexing protocol hold through crashes, outages and races."""

from typing import Any

import pytest

from tests.rebuilds import Rebuilds
from tests.simulation import CALM, DROPS, REBUILDS, STORM, Drops, Simulation, Weather
from worker.configuration import IndexSettings


@pytest.mark.parametrize(
    ("weather", "seconds"),
    [
        (STORM, 6),
        (CALM, 3),
        pytest.param(STORM, 60, marks=[pytest.mark.slow]),
    ],
    ids=["storm", "calm", "long storm"],
)
def test_invariants_hold_through_crashes_and_races(
    database_url: str, index: IndexSettings, weather: Weather, seconds: int, record_property: Any
) -> None:
    simulation = Simulation(database_url, index, weather)
    simulation.run(seconds, at_least=5 * seconds)
    print(simulation)
    record_property("simulation", str(simulation))
    assert simulation.done["stagings"] >= 5 * seconds
    assert simulation.done["crashes"] >= 5 * seconds or not weather.crashes
    assert not +simulation.violations, str(simulation)


@pytest.mark.slow
def test_messages_survive_that_their_index_is_dropped_and_made_anew(
    database_url: str, index: IndexSettings
) -> None:
    simulation = Drops(database_url, index, DROPS)
    simulation.run(4)
    print(simulation)
    assert simulation.done["drops"] >= 3
    assert not +simulation.violations, str(simulation)


@pytest.mark.slow
def test_readers_see_whole_new_documents_through_rebuilds_and_rollbacks(
    database_url: str, index: IndexSettings
) -> None:
    simulation = Rebuilds(database_url, index, REBUILDS)
    simulation.run(6, at_least=5)
    print(simulation)
    assert simulation.done["switches"] >= 2
    assert not +simulation.violations, str(simulation)
