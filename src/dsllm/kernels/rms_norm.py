"""RMSNorm: the formula, and the choice between it and its Triton kernel."""

import torch
from torch import Tensor

from dsllm.kernels.backend import Backend, takes_kernel


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, *, backend: Backend = "auto") -> Tensor:
    """Scale each row of `x` to unit root-mean-square, then by `weight`.

    Args:
        x: activations, shape (..., d_model), fp32 or bf16.
        weight: learned gain, shape (d_model,).
        eps: added to the mean square, so in units of x squared.
        backend: "auto" takes the kernel on a GPU and the formula elsewhere.

    Returns:
        The shape and dtype of `x`; computed in fp32, rounded once.

    Raises:
        ValueError: the last dim of `x` is not the length of `weight`.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """
    if x.shape[-1:] != weight.shape:
        raise ValueError(f"x has {x.shape[-1]} columns but weight has {weight.numel()}")
    if takes_kernel(x, backend):
        from dsllm.kernels.rms_norm_triton import rms_norm_triton

        return rms_norm_triton(x, weight, eps)
    return rms_norm_torch(x, weight, eps)


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute RMSNorm as written in the paper, in fp32 or wider: what the kernel is tested against."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean_square = wide.square().mean(dim=-1, keepdim=True)
    return (wide * torch.rsqrt(mean_square + eps) * weight.to(wide.dtype)).to(x.dtype)
