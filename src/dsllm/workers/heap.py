"""Memory that a step or a batch frees stays with the process, for the next one to take."""

import ctypes
import functools
import sys
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST = 32 << 20  # bytes: what glibc allows; larger blocks are mapped one by one
_KEPT = (1 << 31) - 1


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep freed memory of blocks up to 32 MB; other C libraries are left as they are.

    It gives memory back when a few MB at its end are free, and so several times a step: the same 140 MB came
    back page by page, each filled with zeros, which took 7 % of a small model's step on a CPU. Batches of
    documents are a few MB each, and come and go likewise.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
