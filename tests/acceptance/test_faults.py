"""Nothing accepted is lost, nothing is embedded twice but what was in flight, and nothing stays stuck: fault by fault.

Each row injects one fault into a running system while documents are on their way, then waits until all is normal
again. `python -m tests.soak` runs the same rows longer, with the product's own times, and prints the table.
"""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.faults import FAULTS, RESULT_SECONDS, Fault, complaints, run
from tests.fixtures.rig import Rig, running_rig


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("rig"), hasty=True) as rig:
        yield rig


_numbers = count()


@pytest.mark.slow
@pytest.mark.timeout(RESULT_SECONDS + 120)
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_no_fault_loses_doubles_or_stops_anything(rig: Rig, fault: Fault) -> None:
    outcome = run(rig, fault, f"index{next(_numbers)}", long=False)
    print(outcome)
    assert not complaints(fault, outcome)
