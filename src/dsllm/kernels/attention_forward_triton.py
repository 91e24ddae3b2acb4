# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""Attention forward: blocks of queries meet blocks of keys in registers.

Source: Dao 2023, arXiv:2307.08691, algorithm 1.
"""

import triton
import triton.language as tl

from dsllm.kernels.attention_tiles_triton import (
    LOG2_E,
    NEVER,
    dot,
    load_rows,
    seen_keys,
    store_rows,
    stream_rows,
)
from dsllm.kernels.rounding_triton import round_to


@triton.jit
def _step(
    q, total, row_max, row_sum, query, start, k_in, v_in, batch, kv_head, begin, seq_len,
    is_whole, SCALE: tl.constexpr, N_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
    USES_DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    # One block of keys from position `begin` on. query, start: (BLOCK_Q,) positions.
    k = stream_rows(
        k_in, batch, kv_head, begin, seq_len, N_KV_HEADS, HEAD_DIM, BLOCK_K, BLOCK_D, USES_DESCRIPTORS,
    )  # fmt: skip
    scores = dot(q, tl.trans(k), tl.zeros([BLOCK_Q, BLOCK_K], tl.float32), UPCAST)
    if not is_whole:
        key = (begin + tl.arange(0, BLOCK_K))[None, :]
        scores = tl.where((key <= query[:, None]) & (key >= start[:, None]), scores, float("-inf"))

    new_max = tl.maximum(row_max, tl.max(scores, axis=1) * (SCALE * LOG2_E))
    weights = tl.exp2(scores * (SCALE * LOG2_E) - new_max[:, None])  # one fused multiply-add and one exp2
    shrink = tl.exp2(row_max - new_max)
    row_sum = row_sum * shrink + tl.sum(weights, axis=1)
    v = stream_rows(
        v_in, batch, kv_head, begin, seq_len, N_KV_HEADS, HEAD_DIM, BLOCK_K, BLOCK_D, USES_DESCRIPTORS,
    )  # fmt: skip
    total = dot(round_to(weights, v.dtype), v, total * shrink[:, None], UPCAST)
    return total, new_max, row_sum


@triton.jit
def forward_kernel(
    q_ptr, k_in, v_in, out_ptr, log_sum_ptr, starts_ptr, seq_len,
    SCALE: tl.constexpr, N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
    USES_DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Compute one block of queries of one head a program, the longest blocks of a head first."""
    # q, out: (batch, seq_len, N_HEADS, HEAD_DIM). k, v: (batch, seq_len, N_KV_HEADS, HEAD_DIM).
    # log_sum: (batch, N_HEADS, seq_len), base 2. starts: (batch, seq_len), or None.
    n_blocks = tl.cdiv(seq_len, BLOCK_Q)
    q_begin = (n_blocks - 1 - tl.program_id(0) % n_blocks) * BLOCK_Q
    batch_head = tl.program_id(0) // n_blocks
    batch = batch_head // N_HEADS
    head = batch_head % N_HEADS
    kv_head = head // (N_HEADS // N_KV_HEADS)
    row_base = batch.to(tl.int64) * seq_len

    query = q_begin + tl.arange(0, BLOCK_Q)
    # Through a pointer: from a descriptor, Triton 3.9 would hold the queries in registers all the way.
    q = load_rows(q_ptr, batch, head, q_begin, seq_len, N_HEADS, HEAD_DIM, BLOCK_Q, BLOCK_D)
    total = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_Q], NEVER, tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    if starts_ptr is None:
        starts_row = None
        start = tl.zeros([BLOCK_Q], tl.int32)
    else:
        starts_row = starts_ptr + row_base
        start = tl.load(starts_row + query, mask=query < seq_len, other=0)
    first, common, end = seen_keys(starts_row, q_begin, seq_len, BLOCK_Q)
    for begin in range(first, end, BLOCK_K):
        is_whole = (begin >= common) & (begin + BLOCK_K <= q_begin + 1)  # all queries see all keys
        total, row_max, row_sum = _step(
            q, total, row_max, row_sum, query, start, k_in, v_in, batch, kv_head, begin, seq_len,
            is_whole, SCALE, N_KV_HEADS, HEAD_DIM, BLOCK_D, BLOCK_Q, BLOCK_K, UPCAST, USES_DESCRIPTORS,
        )  # fmt: skip
    out = total / row_sum[:, None]
    store_rows(out_ptr, out, batch, head, q_begin, seq_len, N_HEADS, HEAD_DIM, BLOCK_Q, BLOCK_D)
    log_sum = row_max + tl.log2(row_sum)
    tl.store(log_sum_ptr + row_base * N_HEADS + head * seq_len + query, log_sum, mask=query < seq_len)
