"""Exit of a process that cannot start: one sentence on stderr, and an exit code."""

import sys
from typing import NoReturn

from worker.errors import ServiceUnreachable, VectorIndexError


def exit_with_error(error: VectorIndexError) -> NoReturn:
    """End the process with an error's sentence. Exit code 3 if a service is unreachable, else 2."""
    exit_with(str(error), 3 if isinstance(error, ServiceUnreachable) else 2)


def exit_with(sentence: str, code: int) -> NoReturn:
    print(f"vector-index: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
    raise SystemExit(code)
