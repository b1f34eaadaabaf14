import os
import shutil
import signal
import tempfile

import pytest

pytest_plugins = [
    "tests.fixtures.answering",
    "tests.fixtures.browser",
    "tests.fixtures.ports",
    "tests.fixtures.provider",
    "tests.fixtures.services",
    "tests.fixtures.sites",
    "tests.fixtures.system",
    "tests.fixtures.upstream",
]

# So that failed assertions in these modules show their values.
pytest.register_assert_rewrite("tests.faults", "tests.fixtures", "tests.simulation")

# Postgres makes and removes 400 files for each test. A disk takes 150 ms for that, memory takes 25.
MEMORY = "/dev/shm"
MEMORY_BYTES = 2 << 30  # free, at least; containers have 64 MB
if (
    "TMPDIR" not in os.environ
    and os.path.isdir(MEMORY)
    and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC
    and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES
):
    os.environ["TMPDIR"] = tempfile.tempdir = MEMORY

# A shell starts background jobs with SIGINT ignored, nohup with SIGHUP ignored. Programs that a test interrupts would
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of shared systems, so that one xdist worker runs them all and starts each system once."""
    items.sort(key=lambda item: "start_system" not in getattr(item, "fixturenames", ()))
