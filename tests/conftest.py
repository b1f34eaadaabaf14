import signal

pytest_plugins = [
    "tests.fixtures.browser",
    "tests.fixtures.ports",
    "tests.fixtures.services",
    "tests.fixtures.system",
    "tests.fixtures.upstream",
]

# A shell lets what it runs in the background ignore Ctrl-C, and nohup the end of the terminal; so would every program
# that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
