# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""What the attention kernels share: products, and blocks of rows that come from memory and go there."""

import triton
import triton.language as tl

from dsllm.kernels.rounding_triton import round_as, round_to

LOG2_E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(-1e30)  # a maximum before any score: finite, since -inf - -inf is no number


@triton.jit
def dot(a, b, total, UPCAST: tl.constexpr):
    """Add the product of `a` and `b` to `total`."""
    # The interpreter multiplies the bit patterns of bf16, so there both operands are widened first.
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")


@triton.jit
def stream_rows(
    tensor, batch, head, begin, seq_len, N_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr, USES_DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Load ROWS rows of one head from position `begin` on, (ROWS, BLOCK_D); zeros past the end.

    `tensor` is (batch, seq_len, N_HEADS, HEAD_DIM): a pointer, or a descriptor, whose blocks the hardware
    copies by itself.
    """
    if USES_DESCRIPTORS:
        tile = tensor.load([batch, begin, head, 0]).reshape(ROWS, BLOCK_D)
    else:
        tile = load_rows(tensor, batch, head, begin, seq_len, N_HEADS, HEAD_DIM, ROWS, BLOCK_D)
    return tile


@triton.jit
def load_rows(
    ptr, batch, head, begin, seq_len, N_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Load rows through a pointer."""
    row = tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, BLOCK_D)[None, :]
    STRIDE: tl.constexpr = N_HEADS * HEAD_DIM
    base = ptr + (tl.cast(batch, tl.int64) * seq_len + begin) * STRIDE + head * HEAD_DIM
    inside = (row < seq_len - begin) & (channel < HEAD_DIM)
    return tl.load(base + row * STRIDE + channel, mask=inside, other=0.0)


@triton.jit
def put_rows(
    tensor, tile, batch, head, begin, seq_len, N_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, USES_DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Store the rows that exist, rounded once, to a pointer or a descriptor.

    A descriptor needs no register for addresses while a loop runs.
    """
    if USES_DESCRIPTORS:
        tensor.store([batch, begin, head, 0], round_to(tile, tensor.dtype).reshape(1, ROWS, 1, BLOCK_D))
    else:
        store_rows(tensor, tile, batch, head, begin, seq_len, N_HEADS, HEAD_DIM, ROWS, BLOCK_D)


@triton.jit
def store_rows(
    ptr, tile, batch, head, begin, seq_len, N_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store the rows that exist, rounded once."""
    row = tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, BLOCK_D)[None, :]
    STRIDE: tl.constexpr = N_HEADS * HEAD_DIM
    base = ptr + (tl.cast(batch, tl.int64) * seq_len + begin) * STRIDE + head * HEAD_DIM
    inside = (row < seq_len - begin) & (channel < HEAD_DIM)
    tl.store(base + row * STRIDE + channel, round_as(tile, ptr), mask=inside)


@triton.jit
def seen_keys(starts_row, q_begin, seq_len, BLOCK_Q: tl.constexpr):
    """Find the keys that the queries from `q_begin` on see; blocks before and after are never visited.

    Returns:
        The first key of the first query's document; the first that all these queries see; the end.
    """
    end = tl.minimum(q_begin + BLOCK_Q, seq_len)
    if starts_row is None:
        first = 0
        common = 0
    else:
        first = tl.load(starts_row + q_begin)
        common = tl.load(starts_row + end - 1)
    return first, common, end
