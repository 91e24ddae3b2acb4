# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""Attention backward: one kernel for the gradient of q, one for those of k and v, so none adds to another's.

Both compute the softmax's weights again, from the logarithm of each row's sum: sums come in one order, and
two runs give the same bits.

Source: Dao 2023, arXiv:2307.08691, algorithm 2.
"""

import triton
import triton.language as tl

from dsllm.kernels.attention_tiles_triton import (
    LOG2_E,
    dot,
    load_rows,
    put_rows,
    seen_keys,
    store_rows,
    stream_rows,
)
from dsllm.kernels.rounding_triton import round_to


@triton.jit
def _query_step(
    q, dout, dq, log_sum, delta, query, start, k_in, v_in, batch, kv_head, begin, seq_len,
    is_whole, SCALE: tl.constexpr, N_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
    USES_DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    # One block of keys from position `begin` on.
    k = stream_rows(
        k_in, batch, kv_head, begin, seq_len, N_KV_HEADS, HEAD_DIM, BLOCK_K, BLOCK_D,
        USES_DESCRIPTORS,
    )  # fmt: skip
    v = stream_rows(
        v_in, batch, kv_head, begin, seq_len, N_KV_HEADS, HEAD_DIM, BLOCK_K, BLOCK_D,
        USES_DESCRIPTORS,
    )  # fmt: skip
    nothing = tl.zeros([BLOCK_Q, BLOCK_K], tl.float32)
    weights = tl.exp2(dot(q, tl.trans(k), nothing, UPCAST) * (SCALE * LOG2_E) - log_sum[:, None])
    if not is_whole:
        key = (begin + tl.arange(0, BLOCK_K))[None, :]
        weights = tl.where((key <= query[:, None]) & (key >= start[:, None]), weights, 0.0)
    dscores = weights * (dot(dout, tl.trans(v), nothing, UPCAST) - delta[:, None])
    return dot(round_to(dscores, k.dtype), k, dq, UPCAST)


@triton.jit
def backward_query_kernel(
    q_ptr, k_in, v_in, out_ptr, log_sum_ptr, dout_ptr, dq_ptr, delta_ptr, starts_ptr, seq_len,
    SCALE: tl.constexpr, N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
    USES_DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Compute the gradient of q for one block of queries of one head a program.

    And delta = sum(out * dout), (batch, N_HEADS, seq_len), which the other kernel reads.
    """
    n_blocks = tl.cdiv(seq_len, BLOCK_Q)
    q_begin = (n_blocks - 1 - tl.program_id(0) % n_blocks) * BLOCK_Q
    batch_head = tl.program_id(0) // n_blocks
    batch = batch_head // N_HEADS
    head = batch_head % N_HEADS
    kv_head = head // (N_HEADS // N_KV_HEADS)
    row_base = batch.to(tl.int64) * seq_len

    query = q_begin + tl.arange(0, BLOCK_Q)
    out = load_rows(out_ptr, batch, head, q_begin, seq_len, N_HEADS, HEAD_DIM, BLOCK_Q, BLOCK_D)
    dout = load_rows(dout_ptr, batch, head, q_begin, seq_len, N_HEADS, HEAD_DIM, BLOCK_Q, BLOCK_D)
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1)
    statistic = row_base * N_HEADS + head * seq_len + query
    tl.store(delta_ptr + statistic, delta, mask=query < seq_len)
    log_sum = tl.load(log_sum_ptr + statistic, mask=query < seq_len, other=0.0)
    q = load_rows(q_ptr, batch, head, q_begin, seq_len, N_HEADS, HEAD_DIM, BLOCK_Q, BLOCK_D)
    dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    if starts_ptr is None:
        starts_row = None
        start = tl.zeros([BLOCK_Q], tl.int32)
    else:
        starts_row = starts_ptr + row_base
        start = tl.load(starts_row + query, mask=query < seq_len, other=0)
    first, common, end = seen_keys(starts_row, q_begin, seq_len, BLOCK_Q)
    for begin in range(first, end, BLOCK_K):
        is_whole = (begin >= common) & (begin + BLOCK_K <= q_begin + 1)  # all queries see all keys
        dq = _query_step(
            q, dout, dq, log_sum, delta, query, start, k_in, v_in, batch, kv_head, begin, seq_len,
            is_whole, SCALE, N_KV_HEADS, HEAD_DIM, BLOCK_D, BLOCK_Q, BLOCK_K, UPCAST, USES_DESCRIPTORS,
        )  # fmt: skip
    store_rows(dq_ptr, dq * SCALE, batch, head, q_begin, seq_len, N_HEADS, HEAD_DIM, BLOCK_Q, BLOCK_D)


@triton.jit
def _key_step(
    k, v, dk, dv, key, starts_row, q_in, dout_in, log_sum_row, delta_row, batch, head, begin, seq_len,
    is_whole, SCALE: tl.constexpr, N_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr, USES_DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    # One block of queries. Rows past the end load zeros, so they add nothing to dk and dv.
    query = begin + tl.arange(0, BLOCK_Q)
    q = stream_rows(
        q_in, batch, head, begin, seq_len, N_HEADS, HEAD_DIM, BLOCK_Q, BLOCK_D, USES_DESCRIPTORS,
    )  # fmt: skip
    log_sum = tl.load(log_sum_row + query, mask=query < seq_len, other=0.0)
    nothing = tl.zeros([BLOCK_K, BLOCK_Q], tl.float32)
    weights = tl.exp2(dot(k, tl.trans(q), nothing, UPCAST) * (SCALE * LOG2_E) - log_sum[None, :])
    if not is_whole:
        is_seen = query[None, :] >= key[:, None]
        if starts_row is not None:
            start = tl.load(starts_row + query, mask=query < seq_len, other=0)
            is_seen = is_seen & (key[:, None] >= start[None, :])
        weights = tl.where(is_seen, weights, 0.0)
    dout = stream_rows(
        dout_in, batch, head, begin, seq_len, N_HEADS, HEAD_DIM, BLOCK_Q, BLOCK_D, USES_DESCRIPTORS,
    )  # fmt: skip
    dv = dot(round_to(weights, dout.dtype), dout, dv, UPCAST)
    delta = tl.load(delta_row + query, mask=query < seq_len, other=0.0)
    dscores = weights * (dot(v, tl.trans(dout), nothing, UPCAST) - delta[None, :])
    return dot(round_to(dscores, q.dtype), q, dk, UPCAST), dv


@triton.jit
def backward_key_kernel(
    q_in, k_ptr, v_ptr, log_sum_ptr, dout_in, delta_ptr, dk_out, dv_out, starts_ptr, ends_ptr, seq_len,
    SCALE: tl.constexpr, N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
    USES_DESCRIPTORS: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of k and v for one block of keys a program, over all queries that see them."""
    n_blocks = tl.cdiv(seq_len, BLOCK_K)
    k_begin = tl.program_id(0) % n_blocks * BLOCK_K
    batch_head = tl.program_id(0) // n_blocks
    batch = batch_head // N_KV_HEADS
    kv_head = batch_head % N_KV_HEADS
    row_base = batch.to(tl.int64) * seq_len

    key = k_begin + tl.arange(0, BLOCK_K)
    k = load_rows(k_ptr, batch, kv_head, k_begin, seq_len, N_KV_HEADS, HEAD_DIM, BLOCK_K, BLOCK_D)
    v = load_rows(v_ptr, batch, kv_head, k_begin, seq_len, N_KV_HEADS, HEAD_DIM, BLOCK_K, BLOCK_D)
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    end = tl.minimum(k_begin + BLOCK_K, seq_len)
    if starts_ptr is None:
        starts_row = None
        last_end = seq_len
        first_end = seq_len
    else:
        starts_row = starts_ptr + row_base
        last_end = tl.load(ends_ptr + row_base + end - 1)
        first_end = tl.load(ends_ptr + row_base + k_begin)
    # All heads that read these keys in one loop: the loads of the next begin while the last is computed.
    n_queries = tl.cdiv(last_end - k_begin, BLOCK_Q) * BLOCK_Q
    for step in range(0, n_queries * (N_HEADS // N_KV_HEADS), BLOCK_Q):
        head = kv_head * (N_HEADS // N_KV_HEADS) + step // n_queries
        begin = k_begin + step % n_queries
        statistic = row_base * N_HEADS + head * seq_len
        is_whole = (begin + 1 >= k_begin + BLOCK_K) & (begin + BLOCK_Q <= first_end)
        dk, dv = _key_step(
            k, v, dk, dv, key, starts_row, q_in, dout_in, log_sum_ptr + statistic, delta_ptr + statistic,
            batch, head, begin, seq_len, is_whole, SCALE, N_HEADS, HEAD_DIM, BLOCK_D, BLOCK_Q, BLOCK_K,
            UPCAST, USES_DESCRIPTORS,
        )  # fmt: skip
    put_rows(
        dk_out, dk * SCALE, batch, kv_head, k_begin, seq_len, N_KV_HEADS, HEAD_DIM, BLOCK_K, BLOCK_D,
        USES_DESCRIPTORS,
    )  # fmt: skip
    put_rows(
        dv_out, dv, batch, kv_head, k_begin, seq_len, N_KV_HEADS, HEAD_DIM, BLOCK_K, BLOCK_D,
        USES_DESCRIPTORS,
    )  # fmt: skip
