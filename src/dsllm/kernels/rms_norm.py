"""RMSNorm, alone or with the addition before it: the formulas, and the choice of their Triton kernels."""

import torch
from torch import Tensor

from dsllm.kernels.backend import Backend, takes_kernel, takes_loops
from dsllm.kernels.rows_cpu import rms_norm_cpu, suits_loops


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6, *, backend: Backend = "auto") -> Tensor:
    """Scale each row of `x` to unit root-mean-square, then by `weight`.

    Args:
        x: activations, shape (..., d_model), fp32 or bf16.
        weight: learned gain, shape (d_model,).
        eps: added to the mean square, so in units of x squared.
        backend: "auto" takes the kernel on a GPU, compiled loops in fp32 training on a CPU, and the formula
            elsewhere.

    Returns:
        The shape and dtype of `x`; computed in fp32, rounded once.

    Raises:
        ValueError: the last dim of `x` is not the length of `weight`.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.
    """
    _check_width(x, weight)
    if takes_kernel(x, backend):
        from dsllm.kernels.rms_norm_triton import rms_norm_triton

        return rms_norm_triton(x, weight, eps)
    if takes_loops(backend, x, weight) and suits_loops(x):
        return rms_norm_cpu(x, None, weight, eps)[0]
    return rms_norm_torch(x, weight, eps)


def add_rms_norm(
    x: Tensor, residual: Tensor, weight: Tensor, eps: float = 1e-6, *, backend: Backend = "auto"
) -> tuple[Tensor, Tensor]:
    """Add what a layer computed to the residual stream, and norm the sum for the next layer.

    Args:
        x: a layer's result, shape (..., d_model).
        residual: the stream so far, the same shape; its dtype may be wider.
        weight: as in `rms_norm`, and so `eps` and `backend`.
        eps: see there.
        backend: see there.

    Returns:
        The normed sum and the sum, which is the new stream; both in the wider dtype of the two. The norm is
        taken of the rounded sum, as if the two were computed one after the other.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    _check_width(x, weight)
    if x.shape != residual.shape:
        raise ValueError(f"x is {tuple(x.shape)} but the residual is {tuple(residual.shape)}")
    if takes_kernel(x, backend):
        from dsllm.kernels.rms_norm_triton import add_rms_norm_triton

        return add_rms_norm_triton(x, residual, weight, eps)
    if takes_loops(backend, x, residual, weight) and suits_loops(x):
        return rms_norm_cpu(x, residual, weight, eps)
    stream = x + residual
    return rms_norm_torch(stream, weight, eps), stream


def rms_norm_torch(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Compute RMSNorm as written in the paper, in fp32 or wider: what the kernel is tested against."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    mean_square = wide.square().mean(dim=-1, keepdim=True)
    return (wide * torch.rsqrt(mean_square + eps) * weight.to(wide.dtype)).to(x.dtype)


def _check_width(x: Tensor, weight: Tensor) -> None:
    if x.shape[-1:] != weight.shape:
        raise ValueError(f"x has {x.shape[-1]} columns but weight has {weight.numel()}")
