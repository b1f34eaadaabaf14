"""Under every fault, no accepted document is lost and only requests in flight are embedded again.

Each test injects one fault into a running system while it indexes, then waits until all work is done.
`python -m tests.soak` injects the same faults with the product's own times and more documents, and prints a table.
"""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.faults import FAULTS, RESULT_SECONDS, Fault, run, violations
from tests.fixtures.rig import Rig, running_rig


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with running_rig(tmp_path_factory.mktemp("rig"), fast=True) as rig:
        yield rig


_numbers = count()


@pytest.mark.slow
@pytest.mark.timeout(RESULT_SECONDS + 120)
@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_every_accepted_document_is_searchable_or_failed_after_the_fault(rig: Rig, fault: Fault) -> None:
    outcome = run(rig, fault, f"index{next(_numbers)}", long=False)
    print(outcome)
    assert not violations(fault, outcome)
