"""Rotary position embedding, applied: each pair of channels turned by its position's angle."""

import torch
from torch import Tensor


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
