"""Freed memory that stays with the process."""

import platform
import subprocess
import sys

import pytest

# Of `struct mallinfo2`, see mallinfo(3): the first is the size of the heap, the fourth the blocks outside it.
ALLOCATE = """
import ctypes, sys
from dsllm.workers.heap import keep_freed_memory

if sys.argv[1] != "return":
    keep_freed_memory(of_any_size=sys.argv[1] == "any size")

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "heap a b outside c d e f g h".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype, libc.free.argtypes = Info, ctypes.c_void_p, [ctypes.c_void_p]
before = libc.mallinfo2()
block = libc.malloc(int(sys.argv[2]) << 20)
during = libc.mallinfo2()
libc.free(block)
print(during.outside - before.outside, during.heap - before.heap >> 20, libc.mallinfo2().heap - during.heap)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(
    ("kept", "megabytes", "is_of_the_heap"),
    [("return", 20, False), ("keep", 20, True), ("keep", 40, False), ("any size", 40, True)],
)
def test_a_large_block_is_of_the_heap_and_stays(kept, megabytes, is_of_the_heap):
    command = [sys.executable, "-c", ALLOCATE, kept, str(megabytes)]
    n_mapped, heap, given_back = map(
        int, subprocess.run(command, capture_output=True, check=True).stdout.split()
    )
    assert (n_mapped, heap, given_back) == ((0, megabytes, 0) if is_of_the_heap else (1, 0, 0))
