"""The exponential function in fp32, in a form that loops over many numbers at once."""

import numpy as np

from dsllm.text.compiled import compiled
from dsllm.text.vector_blocks import multiply_add, two_to, where_less

_ONE = np.float32(1)
_LOWEST = np.float32(-87)  # below, the exponential is no normal number
_LOG2_E = np.float32(1.4426950408889634)
_ROUNDER = np.float32(1.5 * 2**23)  # added and taken away again, it leaves an integer
# ln 2 in two parts, the first of few bits, so that its product with an integer is exact
_LN2_HIGH, _LN2_LOW = np.float32(0.693145751953125), np.float32(1.4286068203094172e-06)
_C2, _C3, _C4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_C5, _C6, _C7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040)


@compiled
def exponential(x):
    """Compute e**x for x <= 0: Taylor's series about the nearest multiple of ln 2, |r| <= 0.35, to r**7.

    x: a float32, or a block of 16.
    """
    bounded = where_less(x, _LOWEST, _LOWEST, x)  # and NaN stays what it is
    n = multiply_add(bounded, _LOG2_E, _ROUNDER) - _ROUNDER
    r = multiply_add(n, -_LN2_LOW, multiply_add(n, -_LN2_HIGH, bounded))
    tail = multiply_add(r, multiply_add(r, multiply_add(r, multiply_add(r, _C7, _C6), _C5), _C4), _C3)
    return multiply_add(r * r, multiply_add(r, tail, _C2), _ONE + r) * two_to(n)
