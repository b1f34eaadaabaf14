import signal

import pytest

pytest_plugins = [
    "tests.fixtures.browser",
    "tests.fixtures.ports",
    "tests.fixtures.provider",
    "tests.fixtures.services",
    "tests.fixtures.system",
]

# pytest explains a failed assertion only in test modules and plugins, unless it is told of others.
pytest.register_assert_rewrite("tests.faults", "tests.fixtures", "tests.simulation")

# A shell lets what it runs in the background ignore Ctrl-C, and nohup the end of the terminal; so would every program
# that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
