"""The allocator of the C library, set for processes that run for weeks with many threads."""

import ctypes
from contextlib import suppress

# mallopt(3), of glibc; other libraries have neither the function nor the habit
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
LARGE_BYTES = 1_048_576
ARENAS = 2


def return_freed_memory() -> None:
    """Give large blocks back to the system once they are free, and let threads share two arenas.

    After the first free block of 20 MB, glibc takes all of less from its heap, and keeps what lies below a block in
    use. It also makes eight arenas per core, each of which keeps memory for itself.
    """
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(M_ARENA_MAX, ARENAS)
