"""bf16 as whole numbers: its bits are the upper half of fp32's."""

import numpy as np

from dsllm.text.compiled import compiled

_HALF = np.int32(16)


@compiled
def widen(bits):
    """Give the fp32 number that the bits of a bf16 number (int16) stand for."""
    return np.int32(np.int32(bits) << _HALF).view(np.float32)


@compiled
def narrow(number):
    """Give the bits of the nearest bf16 number, the even one of two as near."""
    bits = np.float32(number).view(np.int32)
    return np.int16((bits + np.int32(0x7FFF) + (bits >> _HALF & np.int32(1))) >> _HALF)
