"""Attention on a CPU as plain batched products of blocks: what beats torch's fused operator on short rows.

A block of queries meets the keys from the start of its first document to its own end, so half of the square
above the diagonal and other documents' keys are left out. Scores are fp32, the softmax's weights are rounded
to the dtype of the values once, as in the kernels, and kept for the backward pass.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.product import fast_fp32_products

BLOCK, WIDE_BLOCK = 64, 128  # queries; the second for more than 64 channels. Of 64 to 512 mostly the fastest


@dataclass(frozen=True)
class _Block:
    """Queries from `begin` to `end` of some rows, which see keys from `first` on.

    Of the keys from `masked` on, `hidden`, bool, (queries, keys), are those that a query does not see.
    """

    rows: slice
    first: int
    begin: int
    end: int
    masked: int
    hidden: Tensor


def attention_blocks(q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None) -> Tensor:
    """Compute attention block by block; the same contract as `attention_torch`.

    Args:
        q: queries, shape (batch, seq_len, n_heads, head_dim).
        k: keys, shape (batch, seq_len, n_kv_heads, head_dim).
        v: values, the shape of `k`.
        starts: where each token's document begins, shape (batch, seq_len), or None.
    """
    with torch.autocast(q.device.type, enabled=False):  # it would round the scores
        out: Tensor = _Blocks.apply(q, k, v, starts)  # type: ignore[no-untyped-call]
    return out


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        with fast_fp32_products(arguments[0].float()):
            return _forward(ctx, *arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        with fast_fp32_products(grads[0].float()):
            return *_backward(ctx, grads[0]), None


def _forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, starts: Tensor | None) -> Tensor:
    n_kv_heads, scale = k.shape[2], q.shape[3] ** -0.5
    queries, keys, values = (_by_head(x, n_kv_heads) for x in (q, k, v))
    keys, values = keys[:, 0], values[:, 0]  # (batch * n_kv_heads, seq_len, head_dim)
    wide_keys = keys.float()
    out = torch.empty_like(queries)
    blocks = list(_list_blocks(q, starts, n_kv_heads))
    all_weights = []
    for block in blocks:
        part = queries[block.rows, :, block.begin : block.end]
        scores = _product(part.float() * scale, wide_keys[block.rows, block.first : block.end].mT)
        scores[..., block.masked - block.first :].masked_fill_(block.hidden, -math.inf)
        weights = torch.softmax(scores, dim=-1).to(values.dtype)
        own = values[block.rows, block.first : block.end]
        out[block.rows, :, block.begin : block.end] = _product(weights, own)
        all_weights.append(weights)
    ctx.blocks, ctx.shapes = blocks, (q.shape, k.shape)
    ctx.save_for_backward(queries, keys, values, out, *all_weights)
    return _by_token(out, q.shape)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    queries, keys, values, out, *all_weights = ctx.saved_tensors
    q_shape, k_shape = ctx.shapes
    dout = _by_head(grad.to(values.dtype), k_shape[2])
    scale = q_shape[3] ** -0.5
    wide_dout, wide_values = dout.float(), values.float()
    delta = (wide_dout * out.float()).sum(dim=-1, keepdim=True)
    dq = torch.empty_like(queries)
    dk, dv = (torch.zeros(keys.shape, dtype=torch.float32) for _ in range(2))
    for block, weights in zip(ctx.blocks, all_weights, strict=True):
        place = block.rows, slice(block.first, block.end)
        own = block.rows, slice(None), slice(block.begin, block.end)
        part = dout[own]
        dv[place] += torch.bmm(weights.flatten(1, 2).mT, part.flatten(1, 2))
        dscores = _product(wide_dout[own], wide_values[place].mT).sub_(delta[own])
        dscores = dscores.mul_(weights).to(values.dtype)
        dq[own] = _product(dscores, keys[place]).mul_(scale)
        dk[place] += torch.bmm(dscores.flatten(1, 2).mT, queries[own].flatten(1, 2))
    dk, dv = (x[:, None].to(keys.dtype) for x in (dk.mul_(scale), dv))
    return _by_token(dq, q_shape), _by_token(dk, k_shape), _by_token(dv, k_shape)


def _list_blocks(q: Tensor, starts: Tensor | None, n_kv_heads: int) -> Iterator[_Block]:
    batch, seq_len = q.shape[:2]
    size = BLOCK if q.shape[3] <= BLOCK else WIDE_BLOCK
    rows = [slice(None)]
    if starts is not None:
        rows = [slice(row * n_kv_heads, (row + 1) * n_kv_heads) for row in range(batch)]
    for index, own in enumerate(rows):
        for begin in range(0, seq_len, size):
            end = min(begin + size, seq_len)
            first = 0 if starts is None else int(starts[index, begin])
            masked = begin if starts is None or first == int(starts[index, end - 1]) else first
            key = torch.arange(masked, end)
            hidden = key > torch.arange(begin, end)[:, None]
            if starts is not None and masked == first:
                hidden |= key < starts[index, begin:end, None]
            yield _Block(own, first, begin, end, masked, hidden)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply each group's rows, (heads, group, rows, n), by what the group shares, (heads, n, m)."""
    return torch.bmm(a.flatten(1, 2), b).view(*a.shape[:3], b.shape[2])


def _by_head(x: Tensor, n_kv_heads: int) -> Tensor:
    """Lay out (batch, seq_len, heads, head_dim) as (batch * n_kv_heads, group, seq_len, head_dim)."""
    batch, seq_len, _, head_dim = x.shape
    grouped = x.reshape(batch, seq_len, n_kv_heads, -1, head_dim).permute(0, 2, 3, 1, 4)
    return grouped.reshape(batch * n_kv_heads, -1, seq_len, head_dim)


def _by_token(x: Tensor, shape: torch.Size) -> Tensor:
    batch, seq_len, n_heads, head_dim = shape
    n_kv_heads = x.shape[0] // batch
    grouped = x.view(batch, n_kv_heads, n_heads // n_kv_heads, seq_len, head_dim)
    return grouped.permute(0, 3, 1, 2, 4).reshape(shape)
