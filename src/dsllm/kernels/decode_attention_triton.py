# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""Decode attention as a Triton kernel: one program a text and key head, over that text's pages.

The query heads that share a key head are one tile, so every page is loaded once. The softmax runs along
with the pages, so no score reaches memory.

Proved in Triton's interpreter and by compiling for GPUs; not yet run on one.

Source: Kwon et al. 2023, arXiv:2309.06180, section 5.1; Dao 2023, arXiv:2307.08691, algorithm 1.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsllm.kernels.backend import is_interpreting
from dsllm.kernels.build import Build

LOG2_E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(-1e30)
OPTIONS = {"num_warps": 4, "num_stages": 3}


@triton.jit
def _dot(a, b, UPCAST: tl.constexpr):
    # The interpreter multiplies the bit patterns of bf16, so there both operands are widened first.
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _decode_kernel(
    q_ptr, keys_ptr, values_ptr, out_ptr, table_ptr, lengths_ptr, table_width,
    SCALE: tl.constexpr, N_KV_HEADS: tl.constexpr, N_SHARING: tl.constexpr, HEAD_DIM: tl.constexpr,
    PAGE_TOKENS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    # q, out: (batch, N_KV_HEADS * N_SHARING, HEAD_DIM). keys, values: (n_pages, N_KV_HEADS, PAGE_TOKENS,
    # HEAD_DIM). table: (batch, table_width). lengths: (batch,).
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    n_tokens = tl.load(lengths_ptr + row)
    channel = tl.arange(0, BLOCK_D)
    query = tl.arange(0, BLOCK_Q)
    q_place = (
        (row * N_KV_HEADS + head) * (N_SHARING * HEAD_DIM) + query[:, None] * HEAD_DIM + channel[None, :]
    )
    q_inside = (query[:, None] < N_SHARING) & (channel[None, :] < HEAD_DIM)
    q = tl.load(q_ptr + q_place, mask=q_inside, other=0.0)

    total = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_Q], NEVER, tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    token = tl.arange(0, BLOCK_K)
    for begin in range(0, n_tokens, PAGE_TOKENS):
        page = tl.load(table_ptr + row * table_width + begin // PAGE_TOKENS).to(tl.int64)
        base = (page * N_KV_HEADS + head) * (PAGE_TOKENS * HEAD_DIM)
        place = base + token[:, None] * HEAD_DIM + channel[None, :]
        inside = (token < PAGE_TOKENS) & (begin + token < n_tokens)
        kv_inside = inside[:, None] & (channel[None, :] < HEAD_DIM)
        k = tl.load(keys_ptr + place, mask=kv_inside, other=0.0)
        scores = _dot(q, tl.trans(k), UPCAST) * (SCALE * LOG2_E)
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_max = tl.maximum(row_max, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_max[:, None])
        shrink = tl.exp2(row_max - new_max)
        v = tl.load(values_ptr + place, mask=kv_inside, other=0.0)
        total = total * shrink[:, None] + _dot(weights.to(v.dtype), v, UPCAST)
        row_sum = row_sum * shrink + tl.sum(weights, axis=1)
        row_max = new_max
    tl.store(out_ptr + q_place, (total / row_sum[:, None]).to(out_ptr.dtype.element_ty), mask=q_inside)


def decode_attention_triton(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
) -> Tensor:
    """Launch the kernel; the same contract as `decode_attention_torch`, with the page table alone."""
    batch, n_heads, head_dim = q.shape
    n_kv_heads, page_tokens = keys.shape[1:3]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    fixed = _constants(n_heads, n_kv_heads, head_dim, page_tokens)
    needs_widening = q.dtype == torch.bfloat16 and is_interpreting()
    _decode_kernel[(batch, n_kv_heads)](
        q.contiguous(), keys, values, out, table, lengths, table.shape[1],
        **fixed, UPCAST=needs_widening, **OPTIONS,
    )  # fmt: skip
    return out


def _constants(n_heads: int, n_kv_heads: int, head_dim: int, page_tokens: int) -> dict[str, Any]:
    """Fill the compile-time arguments; products take no fewer than 16 rows or columns."""
    n_sharing = n_heads // n_kv_heads
    return {
        "SCALE": head_dim**-0.5,
        "N_KV_HEADS": n_kv_heads,
        "N_SHARING": n_sharing,
        "HEAD_DIM": head_dim,
        "PAGE_TOKENS": page_tokens,
        "BLOCK_Q": max(16, triton.next_power_of_2(n_sharing)),
        "BLOCK_K": max(16, triton.next_power_of_2(page_tokens)),
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
    }


def builds(*, head_dim: int, n_heads: int, n_kv_heads: int, page_tokens: int) -> list[Build]:
    """List what a bf16 model of this shape launches."""
    types = dict.fromkeys(("q_ptr", "keys_ptr", "values_ptr", "out_ptr"), "*bf16")
    types |= dict.fromkeys(("table_ptr", "lengths_ptr"), "*i32") | {"table_width": "i32"}
    case = f"{n_heads} heads on {n_kv_heads}, {head_dim} channels, pages of {page_tokens}"
    fixed = _constants(n_heads, n_kv_heads, head_dim, page_tokens) | {"UPCAST": False}
    # No bar for tensor cores: memory is its bound, and a token's few queries do not fill Hopper's 64 rows.
    return [Build("decode attention", case, _decode_kernel, types, fixed, OPTIONS)]
