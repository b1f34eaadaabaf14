"""How long a drainer waits after failures: between attempts at an input, and between probes of a provider."""

import random

BACKOFF_SECONDS = 2.0  # after the first failure; doubled with each further one, with jitter
BACKOFF_LIMIT_SECONDS = 120.0  # between two attempts at an input, before the jitter
PAUSE_SECONDS = 15.0  # of a provider that cannot be used, or whose rate limit names no time


def backoff_seconds(failures: int, limit_seconds: float) -> float:
    """The wait after so many failures in a row, of at least 1: exponential, with 50% jitter."""
    doubled: float = BACKOFF_SECONDS * 2 ** min(failures - 1, 20)  # an outage may last for months
    return min(doubled, limit_seconds) * random.uniform(0.5, 1.5)  # noqa: S311
