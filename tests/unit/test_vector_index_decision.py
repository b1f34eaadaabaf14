"""When a vector index is created and dropped."""

from dataclasses import replace

import pytest

from worker.store import hnsw
from worker.store.builds import Build
from worker.store.hnsw import MIN_NUMBERS, MOST_DROPPED_NUMBERS, MOST_EXACT_NUMBERS, Action, State, decide

SMALL = State(numbers=MIN_NUMBERS - 1, pending=0.0, calm_seconds=1e6, is_usable=False)
LARGE = replace(SMALL, numbers=MIN_NUMBERS)
LOADING = replace(LARGE, pending=2.0, calm_seconds=0.0)
INDEXED = replace(LARGE, is_usable=True)
MET_BY_LOAD = replace(LOADING, is_usable=True)

CASES: dict[str, tuple[State, Action | None]] = {
    "a small build needs none": (SMALL, None),
    "a large one gets it": (LARGE, "create"),
    "it grows fast": (LOADING, None),
    "its queue is empty for a moment": (replace(LOADING, pending=0.0), None),
    "the load has ended": (replace(LOADING, pending=0.0, calm_seconds=hnsw.CALM_SECONDS), "create"),
    "the load pauses": (replace(LOADING, calm_seconds=hnsw.CALM_SECONDS), None),
    "the load is stalled": (replace(LOADING, calm_seconds=hnsw.STALLED_SECONDS), "create"),
    "comparing all has become slow": (replace(LOADING, numbers=MOST_EXACT_NUMBERS), "create"),
    "it has one": (INDEXED, None),
    "a small load meets the index": (replace(MET_BY_LOAD, pending=0.4), None),
    "a large load meets the index": (MET_BY_LOAD, "drop"),
    "a large queue of a provider that is down": (replace(MET_BY_LOAD, calm_seconds=99.0), None),
    "a large load, too large to search without": (
        replace(MET_BY_LOAD, numbers=MOST_DROPPED_NUMBERS + 1),
        None,
    ),
    "an interrupted task left one": (replace(INDEXED, invalid=["a"]), "clean"),
    "the same in a small build": (replace(SMALL, invalid=["a"]), "clean"),
    "the settings ask for another one": (replace(LARGE, others=["old"]), "create"),
    "the same during a small load": (replace(LOADING, pending=0.2, others=["old"]), None),
    "it is turned off": (replace(INDEXED, is_wanted=False), "drop"),
    "it is off": (replace(LARGE, is_wanted=False), None),
    "the new one is there": (replace(INDEXED, others=["old"]), "clean"),
}


@pytest.mark.parametrize(("state", "action"), CASES.values(), ids=CASES)
def test_decision(state: State, action: Action | None) -> None:
    assert decide(state) == action


@pytest.mark.parametrize(
    "name", [name for name, (_, action) in CASES.items() if action in ("create", "drop")]
)
def test_no_decision_is_taken_back_at_once(name: str) -> None:
    """What is true right after an index was created or dropped leads to no further step."""
    state, action = CASES[name]
    after = replace(state, is_usable=action == "create", others=(), invalid=())
    assert decide(after) is None


@pytest.mark.parametrize(
    ("dimensions", "vectors"), [(8, 50_000), (256, 50_000), (512, 25_000), (3072, 4_167)]
)
def test_short_vectors_are_bounded_by_their_rows(dimensions: int, vectors: int) -> None:
    """A search joins each row, however few numbers it has."""
    build = Build(build=1, index_id=1, index="x", state="live", recipe={"dimensions": dimensions})
    numbers = [at * hnsw.width(build) for at in (vectors - 1, vectors)]
    assert [decide(replace(LARGE, numbers=number)) for number in numbers] == [None, "create"]
