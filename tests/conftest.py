import signal

pytest_plugins = ["tests.fixtures.browser", "tests.fixtures.services", "tests.fixtures.system"]

# A shell lets what it runs in the background ignore Ctrl-C, and so would every program that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
