import signal

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

# A shell starts background jobs with SIGINT ignored, nohup with SIGHUP ignored. Programs that a test interrupts would
# inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
