"""Memory that a step or a batch frees stays with the process, for the next one to take."""

import ctypes
import functools
import sys
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of glibc's mallopt
_LARGEST = 32 << 20  # bytes: the highest threshold that glibc allows
_KEPT = (1 << 31) - 1


@functools.cache
def keep_freed_memory(*, of_any_size: bool = False) -> None:
    """Let glibc keep freed memory of blocks up to 32 MB, or of all; other C libraries are left as they are.

    It gives memory back when a few MB at its end are free, and maps larger blocks one by one. Where the same
    sizes come and go, that memory comes back page by page, each filled with zeros: at every step of training
    some 140 MB for a small model, gradients of embeddings for a larger one, 3 to 7 % of a step on a CPU.
    Batches of documents are a few MB each, and come and go likewise.
    """
    if not sys.platform.startswith("linux"):
        return
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _KEPT)
        if of_any_size:
            mallopt(_MMAP_MAX, 0)
