# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""Decode attention as a Triton kernel: one program a text and key head, over that text's pages.

The query heads that share a key head are one tile, so every page is loaded once. The softmax runs along
with the pages, so no score reaches memory. Where texts and heads are too few to fill a GPU, several programs
share the pages of a text, and a second kernel weighs what they found by the logarithms of their sums.

Source: Kwon et al. 2023, arXiv:2309.06180, section 5.1; Dao 2023, arXiv:2307.08691, algorithm 1.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsllm.kernels.backend import is_interpreting
from dsllm.kernels.build import Build
from dsllm.kernels.rounding_triton import round_as, round_to

LOG2_E = tl.constexpr(1.4426950408889634)
NEVER = tl.constexpr(-1e30)
OPTIONS = {"num_warps": 4, "num_stages": 3}
N_PROGRAMS = 528  # four for each multiprocessor of a large GPU; fixed, so sums are too
MIN_SPLIT_TOKENS = 256  # of one program, where several share a text
MAX_SPLITS = 32


@triton.jit
def _dot(a, b, UPCAST: tl.constexpr):
    # The interpreter multiplies the bit patterns of bf16, so there both operands are widened first.
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _decode_kernel(
    q_ptr, keys_ptr, values_ptr, out_ptr, log_sum_ptr, table_ptr, lengths_ptr, table_width, n_splits,
    SCALE: tl.constexpr, N_KV_HEADS: tl.constexpr, N_SHARING: tl.constexpr, HEAD_DIM: tl.constexpr,
    PAGE_TOKENS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_D: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    # q: (batch, N_KV_HEADS * N_SHARING, HEAD_DIM). keys, values: (n_pages, N_KV_HEADS, PAGE_TOKENS,
    # HEAD_DIM). table: (batch, table_width). lengths: (batch,).
    # out: (batch, heads, n_splits, HEAD_DIM). log_sum: (batch, heads, n_splits), base 2; None: one split.
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.program_id(2)
    n_tokens = tl.load(lengths_ptr + row)
    channel = tl.arange(0, BLOCK_D)
    query = tl.arange(0, BLOCK_Q)
    query_head = (row * N_KV_HEADS + head) * N_SHARING + query
    q_inside = (query[:, None] < N_SHARING) & (channel[None, :] < HEAD_DIM)
    q = tl.load(q_ptr + query_head[:, None] * HEAD_DIM + channel[None, :], mask=q_inside, other=0.0)

    split_tokens = tl.cdiv(tl.cdiv(n_tokens, PAGE_TOKENS), n_splits) * PAGE_TOKENS
    end = tl.minimum((split + 1) * split_tokens, n_tokens)
    total = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    row_max = tl.full([BLOCK_Q], NEVER, tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    token = tl.arange(0, BLOCK_K)
    for begin in range(split * split_tokens, end, PAGE_TOKENS):
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
        total = total * shrink[:, None] + _dot(round_to(weights, v.dtype), v, UPCAST)
        row_sum = row_sum * shrink + tl.sum(weights, axis=1)
        row_max = new_max
    place = query_head * n_splits + split
    if log_sum_ptr is not None:
        row_sum = tl.where(row_sum > 0.0, row_sum, 1.0)  # without tokens, its maximum takes its weight away
        tl.store(log_sum_ptr + place, row_max + tl.log2(row_sum), mask=query < N_SHARING)
    out = round_as(total / row_sum[:, None], out_ptr)
    tl.store(out_ptr + place[:, None] * HEAD_DIM + channel[None, :], out, mask=q_inside)


@triton.jit
def _join_kernel(
    parts_ptr, log_sums_ptr, out_ptr, n_splits,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SPLITS: tl.constexpr,
):  # fmt: skip
    # parts: (batch * heads, n_splits, HEAD_DIM), fp32. log_sums: (batch * heads, n_splits), base 2.
    # out: (batch * heads, HEAD_DIM). One program a text and head.
    row = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, BLOCK_SPLITS)
    channel = tl.arange(0, BLOCK_D)
    place = row * n_splits + split
    log_sums = tl.load(log_sums_ptr + place, mask=split < n_splits, other=float("-inf"))
    weights = tl.exp2(log_sums - tl.max(log_sums, axis=0))
    inside = (split[:, None] < n_splits) & (channel[None, :] < HEAD_DIM)
    parts = tl.load(parts_ptr + place[:, None] * HEAD_DIM + channel[None, :], mask=inside, other=0.0)
    out = tl.sum(parts * weights[:, None], axis=0) / tl.sum(weights, axis=0)
    tl.store(out_ptr + row * HEAD_DIM + channel, round_as(out, out_ptr), mask=channel < HEAD_DIM)


def decode_attention_triton(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: Tensor
) -> Tensor:
    """Launch the kernels; the same contract as `decode_attention_torch`, with the page table alone."""
    batch, n_heads, head_dim = q.shape
    n_kv_heads, page_tokens = keys.shape[1:3]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    fixed = _constants(n_heads, n_kv_heads, head_dim, page_tokens)
    needs_widening = q.dtype == torch.bfloat16 and is_interpreting()
    n_splits = split_count(batch * n_kv_heads, table.shape[1] * page_tokens)
    parts, log_sums = out, None
    if n_splits > 1:
        parts = torch.empty(batch, n_heads, n_splits, head_dim, dtype=torch.float32, device=q.device)
        log_sums = torch.empty(parts.shape[:3], dtype=torch.float32, device=q.device)
    _decode_kernel[(batch, n_kv_heads, n_splits)](
        q.contiguous(), keys, values, parts, log_sums, table, lengths, table.shape[1], n_splits,
        **fixed, UPCAST=needs_widening, **OPTIONS,
    )  # fmt: skip
    if log_sums is not None:
        blocks = {"BLOCK_D": fixed["BLOCK_D"], "BLOCK_SPLITS": triton.next_power_of_2(n_splits)}
        _join_kernel[(batch * n_heads,)](parts, log_sums, out, n_splits, HEAD_DIM=head_dim, **blocks)
    return out


def split_count(n_alone: int, most_tokens: int) -> int:
    """Choose how many programs share a text: as many as fill a GPU, each with enough to do.

    Args:
        n_alone: programs that there would be if none shared: texts times key heads.
        most_tokens: of a text, as known without asking the GPU.
    """
    return max(1, min(N_PROGRAMS // max(1, n_alone), most_tokens // MIN_SPLIT_TOKENS, MAX_SPLITS))


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
    types = dict.fromkeys(("q_ptr", "keys_ptr", "values_ptr"), "*bf16")
    types |= dict.fromkeys(("table_ptr", "lengths_ptr"), "*i32")
    types |= dict.fromkeys(("table_width", "n_splits"), "i32")
    types |= dict.fromkeys(("log_sum_ptr", "log_sums_ptr", "parts_ptr"), "*fp32")
    case = f"{n_heads} heads on {n_kv_heads}, {head_dim} channels, pages of {page_tokens}"
    fixed = _constants(n_heads, n_kv_heads, head_dim, page_tokens) | {"UPCAST": False}
    alone = fixed | {"log_sum_ptr": None}
    join = {"HEAD_DIM": head_dim, "BLOCK_D": fixed["BLOCK_D"], "BLOCK_SPLITS": MAX_SPLITS}
    narrow, wide = types | {"out_ptr": "*bf16"}, types | {"out_ptr": "*fp32"}
    # No bar for tensor cores: memory is its bound, and a token's few queries do not fill Hopper's 64 rows.
    return [
        Build("decode attention", case, _decode_kernel, narrow, alone, OPTIONS),
        Build("decode attention", f"{case}, shared", _decode_kernel, wide, fixed, OPTIONS),
        Build("decode attention join", case, _join_kernel, narrow, join, {"num_warps": 4}),
    ]
