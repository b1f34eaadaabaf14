"""Workers give back the memory of a large document once it is indexed."""

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import re
from worker.cli.allocator import return_freed_memory

def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1000

if {called}:
    return_freed_memory()
before = resident()
bytes(20_000_000)
kept = []
for _ in range(10):
    large = b"x" * 5_000_000
    kept += [large, b"y" * 100_000]
kept = kept[1::2]
del large
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries return memory as they are")
def test_memory_of_large_texts_goes_back_to_the_system() -> None:
    """Small objects that live on pin nothing: without the call, 50 MB stay."""
    assert kept_megabytes(called=True) < 10 < kept_megabytes(called=False)


def kept_megabytes(*, called: bool) -> float:
    command = [sys.executable, "-c", SCRIPT.format(called=called)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
