"""Rotary position embedding: the angles of positions."""

import torch
from torch import Tensor


def rope_tables(positions: Tensor, head_dim: int, rope_theta: float) -> tuple[Tensor, Tensor]:
    """Compute the cosines and sines by which `kernels.rope.apply_rope` rotates.

    Channel pair i of a head turns by position * rope_theta ** (-2 i / head_dim). Both factors and their
    product are fp32 whatever the model's dtype: bf16 cannot tell position 257 from 256.

    Args:
        positions: position of each token within its document, shape (batch or 1, seq_len).
        head_dim: channels of one head, even.
        rope_theta: base of the wave lengths.

    Returns:
        cos and sin, each (batch or 1, seq_len, 1, head_dim / 2), fp32.

    Source: Su et al. 2021, arXiv:2104.09864, equation 15.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    frequencies = 1.0 / rope_theta**exponents
    angles = positions.to(torch.float32)[:, :, None, None] * frequencies
    return angles.cos(), angles.sin()
