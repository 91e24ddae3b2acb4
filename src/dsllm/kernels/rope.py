"""Rotary position embedding, applied: each pair of channels turned by its position's angle."""

import torch
from torch import Tensor

from dsllm.kernels.backend import Backend, takes_kernel, takes_loops
from dsllm.kernels.rows_cpu import CHANNELS, DTYPES, rotate_cpu, suits_loops


def rotate(
    q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """Rotate the queries and keys of a layer, as `apply_rope` does each.

    Takes `q` and `k` over: the kernel writes the results where they lie, if their heads are contiguous, so
    use only what is returned.

    Args:
        q: queries, shape (batch, seq_len, n_heads, head_dim).
        k: keys, shape (batch, seq_len, n_kv_heads, head_dim).
        cos: as in `apply_rope`.
        sin: as in `apply_rope`.
        backend: "auto" takes the kernel on a GPU, one launch for both, compiled loops in training on a CPU,
            and the formula elsewhere.

    Raises:
        ValueError: shapes that do not fit each other, or `q` or `k` is a leaf that wants a gradient.
    """
    _check_shapes(q, k, cos, sin)
    if takes_kernel(q, backend):
        from dsllm.kernels.rope_triton import rotate_triton

        return rotate_triton(q, k, cos, sin)
    by_loops = takes_loops(backend, q, k, dtypes=DTYPES) and takes_loops(backend, cos, sin)
    if by_loops and suits_loops(q) and q.shape[3] % (2 * CHANNELS) == 0:
        return rotate_cpu(q, cos, sin), rotate_cpu(k, cos, sin)
    return apply_rope(q, cos, sin), apply_rope(k, cos, sin)


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate channel i and channel i + head_dim / 2 of every head by the angle of its position.

    The pairs lie half a head apart ("rotate half"), as in Llama's released weights, not side by side as in
    the paper; the two differ by a fixed permutation of the rows of the query and key weights.

    Args:
        x: queries or keys, shape (batch, seq_len, n_heads, head_dim).
        cos: cosines of the angles, shape (batch or 1, seq_len, 1, head_dim / 2), fp32.
        sin: their sines, the same shape.

    Returns:
        The shape and dtype of `x`; computed in the dtype of `cos`, rounded once.

    Source: Su et al. 2021, arXiv:2104.09864, equation 34.
    """
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def _check_shapes(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    batch, seq_len, _, head_dim = q.shape
    if k.shape[:2] != (batch, seq_len) or k.shape[3] != head_dim or k.dtype != q.dtype:
        raise ValueError(f"q is {tuple(q.shape)} {q.dtype}, k is {tuple(k.shape)} {k.dtype}")
    fitting = {(rows, seq_len, 1, head_dim // 2) for rows in (1, batch)}
    if head_dim % 2 or cos.shape != sin.shape or tuple(cos.shape) not in fitting:
        raise ValueError(f"cos is {tuple(cos.shape)} and sin {tuple(sin.shape)}, q is {tuple(q.shape)}")
    if any(x.is_leaf and x.requires_grad and torch.is_grad_enabled() for x in (q, k)):
        raise ValueError("q or k is a leaf that wants a gradient, so it cannot be overwritten")
