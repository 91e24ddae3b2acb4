"""What lies between the products where tokens are read into a paged cache, in fp32 on a CPU: compiled loops.

With few rows torch's operators spend more on being called than on computing, and attention over pages takes a
dozen of them; its fused attention is slow where texts are short. `decode_attention.py` has the formula.
"""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsllm.text.vector_floats import LANES

MIN_SHARED_WORK = 1 << 22  # products of queries and keys of one layer, from which on threads share them


@dataclass(frozen=True)
class RowPlan:
    """Where the new tokens of one step belong, the same for every layer.

    Attributes:
        table: pages of each text in order, int64, shape (n_texts, most pages of a text); the rest is 0.
        owners: the text of each new token, int64, shape (n_new,).
        ends: tokens of its text up to and with each new token, int64, shape (n_new,).
        turns: cosines and sines of the new positions, fp32, shape (n_new, 2, head_dim): both for both halves,
            the first of the sines negative.
        mixed: room for a layer's results, fp32, shape (n_rows, n_heads, head_dim); rows behind `n_new` zero.
        shares: what each thread does: its first row and the one behind its last.
    """

    table: NDArray[np.int64]
    owners: NDArray[np.int64]
    ends: NDArray[np.int64]
    turns: NDArray[np.float32]
    mixed: Tensor
    shares: tuple[NDArray[np.int64], ...]


def suits_rows(x: Tensor, head_dim: int) -> bool:
    """Say whether a model with weights like `x`, shape (vocab_size, d_model), can be read by these loops."""
    fits = x.shape[1] % LANES == 0 and head_dim % LANES == 0
    return fits and x.device.type == "cpu" and x.dtype == torch.float32


def plan_rows(
    pages_of: Sequence[Sequence[int]],
    reaches: Sequence[range],
    page_tokens: int,
    turns: Tensor,
    mixed: Tensor,
) -> RowPlan:
    """Plan one step.

    Args:
        pages_of: each text's pages in order, enough for its tokens.
        reaches: the positions of each text's new tokens, one behind the other.
        page_tokens: tokens of a page, a multiple of 4.
        turns: as `RowPlan` has them.
        mixed: the same.
    """
    width = -(-max(reach.stop for reach in reaches) // page_tokens)
    table = np.zeros((len(reaches), width), np.int64)
    for row, (pages, reach) in enumerate(zip(pages_of, reaches, strict=True)):
        n_pages = -(-reach.stop // page_tokens)
        table[row, :n_pages] = pages[:n_pages]
    owners = np.repeat(np.arange(len(reaches)), [len(reach) for reach in reaches])
    ends = np.concatenate([np.arange(reach.start, reach.stop) for reach in reaches]) + 1
    return RowPlan(table, owners, ends, turns.numpy(), mixed, _share(ends, mixed.shape[1] * mixed.shape[2]))


def store_rows(heads: Tensor, keys: Tensor, values: Tensor, plan: RowPlan) -> None:
    """Rotate the queries and keys of new tokens where they lie, and store keys and values.

    Args:
        heads: queries, keys and values as projected, shape (n_rows, n_heads + 2 n_kv_heads, head_dim),
            contiguous.
        keys: a layer's cache, shape (n_pages, n_kv_heads, page_tokens, head_dim), contiguous and finite.
        values: the same.
        plan: which pages are whose.
    """
    from dsllm.kernels import cached_rows_compiled as loops

    cached = keys.numpy(), values.numpy()
    loops.store_rows(heads.numpy(), plan.turns, *cached, plan.table, plan.owners, plan.ends)


def attend_rows(heads: Tensor, keys: Tensor, values: Tensor, plan: RowPlan) -> Tensor:
    """Let each new token look at itself and at all tokens of its text before it.

    Args:
        heads: what `store_rows` has left.
        keys: a layer's cache with the new tokens.
        values: the same.
        plan: which pages are whose.

    Returns:
        The plan's `mixed`, filled: it is written over by the next call.
    """
    from dsllm.kernels import cached_rows_compiled as loops

    arrays = heads.numpy(), keys.numpy(), values.numpy()
    out, n_tokens = plan.mixed.numpy(), plan.table.shape[1] * keys.shape[2]

    def attend(rows: NDArray[np.int64]) -> None:
        scores = np.empty(n_tokens, np.float32)
        loops.attend_rows(*arrays, plan.table, plan.owners, plan.ends, rows, scores, out)

    if len(plan.shares) == 1:
        attend(plan.shares[0])
    else:
        list(_pool(len(plan.shares)).map(attend, plan.shares))
    return plan.mixed


def norm_rows(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute `rms_norm` of `x`, fp32, shape (n_rows, d_model), contiguous."""
    from dsllm.kernels import cached_rows_compiled as loops

    out = torch.empty_like(x)
    loops.norm_rows(x.numpy(), weight.numpy(), eps, out.numpy())
    return out


def _share(ends: NDArray[np.int64], n_channels: int) -> tuple[NDArray[np.int64], ...]:
    """Cut the rows into a part for each of torch's threads, about equal in keys, if that pays."""
    totals = ends.cumsum()
    n_shares = torch.get_num_threads() if totals[-1] * n_channels >= MIN_SHARED_WORK else 1
    cuts = np.searchsorted(totals, totals[-1] * np.arange(1, n_shares) / n_shares)
    return tuple(map(np.array, zip([0, *cuts], [*cuts, len(ends)], strict=True)))


@functools.cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="dsllm-attention")
