"""The immediate end of a worker process."""

import subprocess
import sys

ALREADY_REAPED_CHILD = """
import os
import billiard
from worker.celery import shutdown

child = billiard.Process(target=int)
child.start()
os.waitpid(child.pid, 0)
assert child in billiard.active_children()
shutdown.leave(7)
"""


def test_a_worker_ends_although_its_pool_has_reaped_a_process_already() -> None:
    """Both run at once. An error in the thread that ends the worker would keep it for ever."""
    code = ALREADY_REAPED_CHILD
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")
