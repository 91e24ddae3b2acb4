# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""Causal grouped-query attention as Triton kernels: flash attention, forward and backward.

Blocks of queries meet blocks of keys in registers, so no matrix of scores reaches memory; of the softmax only
the logarithm of each row's sum is kept. Without documents, blocks wholly below the diagonal skip the mask.
With documents, a block begins at its first document and ends with its last, so packed short documents cost
about what they would cost alone.

Proved in Triton's interpreter and by compiling for GPUs; not yet run on one.

Source: Dao 2023, arXiv:2307.08691, algorithms 1 and 2.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.attention import document_ends, document_starts
from dsllm.kernels.attention_launch import Kernel, Launch, arch_of, constants, launch_for
from dsllm.kernels.backend import is_interpreting
from dsllm.kernels.build import Build

LOG2_E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(-1e30)  # a maximum before any score: finite, since -inf - -inf is no number


@triton.jit
def _dot(a, b, UPCAST: tl.constexpr):
    # The interpreter multiplies the bit patterns of bf16, so there both operands are widened first.
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _load_rows(
    base, n_rows, STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
    IS_WHOLE: tl.constexpr,
):  # fmt: skip
    # ROWS rows of one head from `base` on; zeros where there is no such row or channel.
    row = tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, BLOCK_D)[None, :]
    if IS_WHOLE and HEAD_DIM == BLOCK_D:
        tile = tl.load(base + row * STRIDE + channel)
    else:
        tile = tl.load(base + row * STRIDE + channel, mask=(row < n_rows) & (channel < HEAD_DIM), other=0.0)
    return tile


@triton.jit
def _store_rows(
    base, tile, n_rows, STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, BLOCK_D)[None, :]
    inside = (row < n_rows) & (channel < HEAD_DIM)
    tl.store(base + row * STRIDE + channel, tile.to(base.dtype.element_ty), mask=inside)


@triton.jit
def _forward_step(
    q, total, row_max, row_sum, query, start, k_base, v_base, begin, seq_len,
    SCALE: tl.constexpr, KV_STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr, IS_MASKED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # One block of keys from position `begin` on. query, start: (BLOCK_Q,) positions.
    stride = tl.cast(KV_STRIDE, tl.int64)
    n_rows = seq_len - begin
    k = _load_rows(k_base + begin * stride, n_rows, KV_STRIDE, HEAD_DIM, BLOCK_K, BLOCK_D, not IS_MASKED)
    scores = _dot(q, tl.trans(k), UPCAST) * (SCALE * LOG2_E)
    if IS_MASKED:
        key = (begin + tl.arange(0, BLOCK_K))[None, :]
        scores = tl.where((key <= query[:, None]) & (key >= start[:, None]), scores, float("-inf"))

    new_max = tl.maximum(row_max, tl.max(scores, axis=1))
    weights = tl.exp2(scores - new_max[:, None])
    shrink = tl.exp2(row_max - new_max)
    v = _load_rows(v_base + begin * stride, n_rows, KV_STRIDE, HEAD_DIM, BLOCK_K, BLOCK_D, not IS_MASKED)
    total = total * shrink[:, None] + _dot(weights.to(v.dtype), v, UPCAST)
    return total, new_max, row_sum * shrink + tl.sum(weights, axis=1)


@triton.jit
def _forward_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, log_sum_ptr, starts_ptr, seq_len,
    SCALE: tl.constexpr, N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # q, out: (batch, seq_len, N_HEADS, HEAD_DIM). k, v: (batch, seq_len, N_KV_HEADS, HEAD_DIM).
    # log_sum: (batch, N_HEADS, seq_len), base 2. starts: (batch, seq_len), or None.
    # One program a block of queries of one head, the longest first.
    Q_STRIDE: tl.constexpr = N_HEADS * HEAD_DIM
    KV_STRIDE: tl.constexpr = N_KV_HEADS * HEAD_DIM
    n_blocks = tl.cdiv(seq_len, BLOCK_Q)
    q_begin = (n_blocks - 1 - tl.program_id(0) % n_blocks) * BLOCK_Q
    batch_head = tl.program_id(0) // n_blocks
    row_base = (batch_head // N_HEADS).to(tl.int64) * seq_len
    head = batch_head % N_HEADS
    q_place = (row_base + q_begin) * Q_STRIDE + head * HEAD_DIM
    kv_place = row_base * KV_STRIDE + head // (N_HEADS // N_KV_HEADS) * HEAD_DIM

    query = q_begin + tl.arange(0, BLOCK_Q)
    q = _load_rows(q_ptr + q_place, seq_len - q_begin, Q_STRIDE, HEAD_DIM, BLOCK_Q, BLOCK_D, False)
    total = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_Q], NEVER, tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    if starts_ptr is None:
        start = tl.zeros([BLOCK_Q], tl.int32)
        masked_begin = q_begin
        for begin in range(0, q_begin, BLOCK_K):
            total, row_max, row_sum = _forward_step(
                q, total, row_max, row_sum, query, start, k_ptr + kv_place, v_ptr + kv_place, begin, seq_len,
                SCALE, KV_STRIDE, HEAD_DIM, BLOCK_D, BLOCK_K, False, UPCAST,
            )  # fmt: skip
    else:
        start = tl.load(starts_ptr + row_base + query, mask=query < seq_len, other=0)
        masked_begin = tl.load(starts_ptr + row_base + q_begin) // BLOCK_K * BLOCK_K
    for begin in range(masked_begin, tl.minimum(q_begin + BLOCK_Q, seq_len), BLOCK_K):
        total, row_max, row_sum = _forward_step(
            q, total, row_max, row_sum, query, start, k_ptr + kv_place, v_ptr + kv_place, begin, seq_len,
            SCALE, KV_STRIDE, HEAD_DIM, BLOCK_D, BLOCK_K, True, UPCAST,
        )  # fmt: skip

    _store_rows(
        out_ptr + q_place, total / row_sum[:, None], seq_len - q_begin, Q_STRIDE, HEAD_DIM, BLOCK_Q, BLOCK_D
    )
    log_sum = row_max + tl.log2(row_sum)
    tl.store(log_sum_ptr + row_base * N_HEADS + head * seq_len + query, log_sum, mask=query < seq_len)


@triton.jit
def _backward_query_step(
    q, dout, dq, log_sum, delta, query, start, k_base, v_base, begin, seq_len,
    SCALE: tl.constexpr, KV_STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_K: tl.constexpr, IS_MASKED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    stride = tl.cast(KV_STRIDE, tl.int64)
    n_rows = seq_len - begin
    k = _load_rows(k_base + begin * stride, n_rows, KV_STRIDE, HEAD_DIM, BLOCK_K, BLOCK_D, not IS_MASKED)
    v = _load_rows(v_base + begin * stride, n_rows, KV_STRIDE, HEAD_DIM, BLOCK_K, BLOCK_D, not IS_MASKED)
    weights = tl.exp2(_dot(q, tl.trans(k), UPCAST) * (SCALE * LOG2_E) - log_sum[:, None])
    if IS_MASKED:
        key = (begin + tl.arange(0, BLOCK_K))[None, :]
        weights = tl.where((key <= query[:, None]) & (key >= start[:, None]), weights, 0.0)
    dscores = weights * (_dot(dout, tl.trans(v), UPCAST) - delta[:, None])
    return dq + _dot(dscores.to(k.dtype), k, UPCAST)


@triton.jit
def _backward_query_kernel(
    q_ptr, k_ptr, v_ptr, out_ptr, log_sum_ptr, dout_ptr, dq_ptr, delta_ptr, starts_ptr, seq_len,
    SCALE: tl.constexpr, N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # The gradient of q, and delta = sum(out * dout), (batch, N_HEADS, seq_len), which the other kernel reads.
    Q_STRIDE: tl.constexpr = N_HEADS * HEAD_DIM
    KV_STRIDE: tl.constexpr = N_KV_HEADS * HEAD_DIM
    n_blocks = tl.cdiv(seq_len, BLOCK_Q)
    q_begin = (n_blocks - 1 - tl.program_id(0) % n_blocks) * BLOCK_Q
    batch_head = tl.program_id(0) // n_blocks
    row_base = (batch_head // N_HEADS).to(tl.int64) * seq_len
    head = batch_head % N_HEADS
    q_place = (row_base + q_begin) * Q_STRIDE + head * HEAD_DIM
    kv_place = row_base * KV_STRIDE + head // (N_HEADS // N_KV_HEADS) * HEAD_DIM

    query = q_begin + tl.arange(0, BLOCK_Q)
    n_rows = seq_len - q_begin
    out = _load_rows(out_ptr + q_place, n_rows, Q_STRIDE, HEAD_DIM, BLOCK_Q, BLOCK_D, False)
    dout = _load_rows(dout_ptr + q_place, n_rows, Q_STRIDE, HEAD_DIM, BLOCK_Q, BLOCK_D, False)
    delta = tl.sum(out.to(tl.float32) * dout.to(tl.float32), axis=1)
    statistic = row_base * N_HEADS + head * seq_len + query
    tl.store(delta_ptr + statistic, delta, mask=query < seq_len)
    log_sum = tl.load(log_sum_ptr + statistic, mask=query < seq_len, other=0.0)
    q = _load_rows(q_ptr + q_place, n_rows, Q_STRIDE, HEAD_DIM, BLOCK_Q, BLOCK_D, False)
    dq = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    if starts_ptr is None:
        start = tl.zeros([BLOCK_Q], tl.int32)
        masked_begin = q_begin
        for begin in range(0, q_begin, BLOCK_K):
            dq = _backward_query_step(
                q, dout, dq, log_sum, delta, query, start, k_ptr + kv_place, v_ptr + kv_place, begin, seq_len,
                SCALE, KV_STRIDE, HEAD_DIM, BLOCK_D, BLOCK_K, False, UPCAST,
            )  # fmt: skip
    else:
        start = tl.load(starts_ptr + row_base + query, mask=query < seq_len, other=0)
        masked_begin = tl.load(starts_ptr + row_base + q_begin) // BLOCK_K * BLOCK_K
    for begin in range(masked_begin, tl.minimum(q_begin + BLOCK_Q, seq_len), BLOCK_K):
        dq = _backward_query_step(
            q, dout, dq, log_sum, delta, query, start, k_ptr + kv_place, v_ptr + kv_place, begin, seq_len,
            SCALE, KV_STRIDE, HEAD_DIM, BLOCK_D, BLOCK_K, True, UPCAST,
        )  # fmt: skip
    _store_rows(dq_ptr + q_place, dq * SCALE, n_rows, Q_STRIDE, HEAD_DIM, BLOCK_Q, BLOCK_D)


@triton.jit
def _backward_key_step(
    k, v, dk, dv, key, start_base, q_base, dout_base, log_sum_base, delta_base, begin, seq_len,
    SCALE: tl.constexpr, Q_STRIDE: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_Q: tl.constexpr, IS_MASKED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # One block of queries. Rows past the end load zeros, so they add nothing to dk and dv.
    stride = tl.cast(Q_STRIDE, tl.int64)
    n_rows = seq_len - begin
    query = begin + tl.arange(0, BLOCK_Q)
    q = _load_rows(q_base + begin * stride, n_rows, Q_STRIDE, HEAD_DIM, BLOCK_Q, BLOCK_D, False)
    log_sum = tl.load(log_sum_base + query, mask=query < seq_len, other=0.0)
    weights = tl.exp2(_dot(k, tl.trans(q), UPCAST) * (SCALE * LOG2_E) - log_sum[None, :])  # (keys, queries)
    if IS_MASKED:
        is_seen = query[None, :] >= key[:, None]
        if start_base is not None:
            start = tl.load(start_base + query, mask=query < seq_len, other=0)
            is_seen = is_seen & (key[:, None] >= start[None, :])
        weights = tl.where(is_seen, weights, 0.0)
    dout = _load_rows(dout_base + begin * stride, n_rows, Q_STRIDE, HEAD_DIM, BLOCK_Q, BLOCK_D, False)
    dv += _dot(weights.to(dout.dtype), dout, UPCAST)
    delta = tl.load(delta_base + query, mask=query < seq_len, other=0.0)
    dscores = weights * (_dot(v, tl.trans(dout), UPCAST) - delta[None, :])
    dk += _dot(dscores.to(q.dtype), q, UPCAST)
    return dk, dv


@triton.jit
def _backward_key_kernel(
    q_ptr, k_ptr, v_ptr, log_sum_ptr, dout_ptr, delta_ptr, dk_ptr, dv_ptr, starts_ptr, ends_ptr, seq_len,
    SCALE: tl.constexpr, N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    # The gradients of k and v: one program a block of keys of one head, over all queries that may see them.
    Q_STRIDE: tl.constexpr = N_HEADS * HEAD_DIM
    KV_STRIDE: tl.constexpr = N_KV_HEADS * HEAD_DIM
    n_blocks = tl.cdiv(seq_len, BLOCK_K)
    k_begin = tl.program_id(0) % n_blocks * BLOCK_K
    batch_head = tl.program_id(0) // n_blocks
    row_base = (batch_head // N_KV_HEADS).to(tl.int64) * seq_len
    kv_head = batch_head % N_KV_HEADS
    kv_place = (row_base + k_begin) * KV_STRIDE + kv_head * HEAD_DIM

    key = k_begin + tl.arange(0, BLOCK_K)
    n_rows = seq_len - k_begin
    k = _load_rows(k_ptr + kv_place, n_rows, KV_STRIDE, HEAD_DIM, BLOCK_K, BLOCK_D, False)
    v = _load_rows(v_ptr + kv_place, n_rows, KV_STRIDE, HEAD_DIM, BLOCK_K, BLOCK_D, False)
    dk = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    if starts_ptr is None:
        start_base = None
        masked_end = tl.minimum(k_begin + BLOCK_K, seq_len)
    else:
        start_base = starts_ptr + row_base
        masked_end = tl.load(ends_ptr + row_base + tl.minimum(k_begin + BLOCK_K, seq_len) - 1)
    for group in range(N_HEADS // N_KV_HEADS):
        head = kv_head * (N_HEADS // N_KV_HEADS) + group
        q_place = row_base * Q_STRIDE + head * HEAD_DIM
        statistic = row_base * N_HEADS + head * seq_len
        for begin in range(k_begin, masked_end, BLOCK_Q):
            dk, dv = _backward_key_step(
                k, v, dk, dv, key, start_base, q_ptr + q_place, dout_ptr + q_place,
                log_sum_ptr + statistic, delta_ptr + statistic, begin, seq_len,
                SCALE, Q_STRIDE, HEAD_DIM, BLOCK_D, BLOCK_Q, True, UPCAST,
            )  # fmt: skip
        if starts_ptr is None:
            for begin in range(k_begin + BLOCK_K, seq_len, BLOCK_Q):
                dk, dv = _backward_key_step(
                    k, v, dk, dv, key, start_base, q_ptr + q_place, dout_ptr + q_place,
                    log_sum_ptr + statistic, delta_ptr + statistic, begin, seq_len,
                    SCALE, Q_STRIDE, HEAD_DIM, BLOCK_D, BLOCK_Q, False, UPCAST,
                )  # fmt: skip
    _store_rows(dk_ptr + kv_place, dk * SCALE, n_rows, KV_STRIDE, HEAD_DIM, BLOCK_K, BLOCK_D)
    _store_rows(dv_ptr + kv_place, dv, n_rows, KV_STRIDE, HEAD_DIM, BLOCK_K, BLOCK_D)


def attention_triton(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None) -> Tensor:
    """Launch the kernels; the same contract as `attention_torch`, for heads of up to 256 channels."""
    starts = ends = None
    if document_ids is not None:
        starts, ends = document_starts(document_ids).int(), document_ends(document_ids).int()
    out: Tensor = _Attention.apply(q, k, v, starts, ends)
    return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        q, k, v = (x.contiguous() for x in arguments[:3])
        starts, ends = arguments[3:]
        batch, seq_len, n_heads, _ = q.shape
        out = torch.empty_like(q)
        log_sum = torch.empty(batch, n_heads, seq_len, dtype=torch.float32, device=q.device)
        launch = launch_for("forward", arch_of(q), q.shape[3])
        n_programs = triton.cdiv(seq_len, launch.block_q) * batch * n_heads
        _forward_kernel[(n_programs,)](
            q, k, v, out, log_sum, starts, seq_len, **_constants(q, k, launch), **launch.options
        )
        ctx.save_for_backward(q, k, v, out, log_sum, starts, ends)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sum, starts, ends = ctx.saved_tensors
        batch, seq_len, n_heads, head_dim = q.shape
        dout = grads[0].contiguous()
        dq, dk, dv, delta = (torch.empty_like(x) for x in (q, k, v, log_sum))
        launch = launch_for("backward of queries", arch_of(q), head_dim)
        n_programs = triton.cdiv(seq_len, launch.block_q) * batch * n_heads
        _backward_query_kernel[(n_programs,)](
            q, k, v, out, log_sum, dout, dq, delta, starts, seq_len,
            **_constants(q, k, launch), **launch.options,
        )  # fmt: skip
        launch = launch_for("backward of keys", arch_of(q), head_dim)
        n_programs = triton.cdiv(seq_len, launch.block_k) * batch * k.shape[2]
        _backward_key_kernel[(n_programs,)](
            q, k, v, log_sum, dout, delta, dk, dv, starts, ends, seq_len,
            **_constants(q, k, launch), **launch.options,
        )  # fmt: skip
        return dq, dk, dv, None, None


def _constants(q: Tensor, k: Tensor, launch: Launch) -> dict[str, Any]:
    needs_widening = q.dtype == torch.bfloat16 and is_interpreting()
    return constants(q.shape[3], q.shape[2], k.shape[2], launch) | {"UPCAST": needs_widening}


def builds(arch: str, *, head_dim: int, n_heads: int, n_kv_heads: int) -> list[Build]:
    """List what a bf16 model of this shape launches on `arch`, without documents and with them."""
    kernels: dict[Kernel, Any] = {
        "forward": _forward_kernel,
        "backward of queries": _backward_query_kernel,
        "backward of keys": _backward_key_kernel,
    }
    tensors = ("q_ptr", "k_ptr", "v_ptr", "out_ptr", "dout_ptr", "dq_ptr", "dk_ptr", "dv_ptr")
    types = dict.fromkeys(tensors, "*bf16") | dict.fromkeys(("log_sum_ptr", "delta_ptr"), "*fp32")
    types |= dict.fromkeys(("starts_ptr", "ends_ptr"), "*i32") | {"seq_len": "i32:16"}
    shape = f"{n_heads} heads on {n_kv_heads}, {head_dim} channels"
    result = []
    for name, kernel in kernels.items():
        launch = launch_for(name, arch, head_dim)
        fixed = constants(head_dim, n_heads, n_kv_heads, launch) | {"UPCAST": False}
        without = fixed | {"starts_ptr": None, "ends_ptr": None}
        for case, values in ((shape, without), (f"{shape}, documents", fixed)):
            result.append(Build(f"attention {name}", case, kernel, types, values, launch.options, True))
    return result
