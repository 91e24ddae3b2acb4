# mypy: allow-incomplete-defs
"""Rounding: every kernel's last step, and what comes before a product of narrow numbers."""

import triton
import triton.language as tl

from dsllm.kernels.backend import is_interpreting

_IS_INTERPRETED = tl.constexpr(is_interpreting())  # fixed, as for the decorators, when kernels are imported


@triton.jit
def round_as(x, ptr):
    """Round fp32 numbers to the dtype that `ptr` points to, ties to even."""
    return round_to(x, ptr.dtype.element_ty)


@triton.jit
def round_to(x, DTYPE: tl.constexpr):
    """Round fp32 numbers to a dtype, ties to even.

    That is the cast itself on a GPU. The interpreter's cast cuts bf16 off instead, so there the upper half of
    the bits is taken after adding half a unit, or less where that would leave a tie odd.
    """
    if _IS_INTERPRETED and tl.bfloat16 == DTYPE:
        bits = x.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        is_number = x == x  # noqa: PLR0124 - NaN is not
        rounded = tl.where(is_number, bits, 0x7FC0).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        rounded = x.to(DTYPE)
    return rounded
