"""What `text/vector.py` says of compiling."""

import numba

from dsllm.text.vector import announce_compiling


def test_compiling_is_announced_once_and_only_inside():
    def add(a, b):
        return a + b

    said = []
    with announce_compiling(said.append):
        assert numba.njit(add)(1, 2) == 3
        assert numba.njit(add)(1.0, 2.0) == 3.0
    assert len(said) == 1
    numba.njit(add)(1j, 2j)
    assert len(said) == 1
