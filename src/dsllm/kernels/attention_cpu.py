"""Attention on a CPU with 512-bit vectors, by compiled loops over tiles: forward and backward.

torch's fused operator cuts rows into many small products, for which it calls a library each; here a tile of
sums stays in registers. In fp32 it takes 1.3 to 2.2 times as long at 256 to 2,048 tokens, and products of
blocks in bf16 take 1.9 to 2.7 times as long (`benchmarks/cpu_loops.py`).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.rows_cpu import CHANNELS
from dsllm.kernels.threads import count_threads, numbers_of, share_loop

MIN_PRODUCTS = 1 << 22  # of numbers: with fewer, the loops gain nothing
MIN_THREAD_PRODUCTS = 1 << 22


def suits_loops(q: Tensor) -> bool:
    """Say whether queries like these, (batch, seq_len, n_heads, head_dim), are worth the loops."""
    batch, seq_len, n_heads, head_dim = q.shape
    return batch * seq_len**2 * n_heads * head_dim >= MIN_PRODUCTS and head_dim % CHANNELS == 0


def attention_cpu(q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None) -> Tensor:
    """Compute attention by the loops; the same contract as `attention_torch`.

    Args:
        q: queries, shape (batch, seq_len, n_heads, head_dim), as `suits_loops` wants them; fp32 or bf16.
        k: keys, shape (batch, seq_len, n_kv_heads, head_dim).
        v: values, the shape of `k`.
        starts: where each token's document begins, int64, shape (batch, seq_len), or None for at 0.
    """
    if starts is None:
        starts = torch.zeros(1, q.shape[1], dtype=torch.int64)
    out: Tensor = _Loops.apply(q, k, v, starts)  # type: ignore[no-untyped-call]
    return out


class _Loops(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        from dsllm.kernels.attention_cpu_compiled import attend_heads

        q, k, v, starts = (x.contiguous() for x in arguments)
        batch, seq_len, n_heads, _ = q.shape
        out, sums = torch.empty_like(q), q.new_empty(batch, n_heads, seq_len, dtype=torch.float32)
        n_threads = _count_threads(q, 1)
        arrays: list[Any] = [numbers_of(x) for x in (q, k, v, starts)]
        arrays += [q.shape[3] ** -0.5, numbers_of(out), sums.numpy()]
        share_loop(attend_heads, arrays, n_threads)
        ctx.save_for_backward(q, k, v, starts, out, sums)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        from dsllm.kernels.attention_cpu_compiled import attend_heads_backward

        q, k, v, starts, out, sums = ctx.saved_tensors
        found = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        n_threads = _count_threads(q, 2)
        given = (q, k, v, out, grads[0], starts, sums)
        arrays: list[Any] = [numbers_of(x.contiguous()) for x in given]
        arrays += [q.shape[3] ** -0.5, *map(numbers_of, found)]
        share_loop(attend_heads_backward, arrays, n_threads)
        return *found, None


def _count_threads(q: Tensor, n_times: int) -> int:
    batch, seq_len, n_heads, head_dim = q.shape
    return count_threads(n_times * batch * seq_len**2 * n_heads * head_dim, MIN_THREAD_PRODUCTS)
