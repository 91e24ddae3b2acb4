"""SwiGLU: the gate of the MLP."""

import torch
from torch import Tensor
from torch.nn import functional

from dsllm.kernels.backend import Backend, takes_kernel, takes_loops
from dsllm.kernels.rows_cpu import DTYPES, suits_loops, swiglu_cpu


def swiglu(gate: Tensor, up: Tensor, *, backend: Backend = "auto") -> Tensor:
    """Let `up` through by `gate`: silu(gate) * up.

    Args:
        gate: x times the gate's weights, shape (..., d_ff).
        up: x times the up-projection's weights, the same shape and dtype.
        backend: "auto" takes the kernel on a GPU, and compiled loops in training on a CPU, which keep
            nothing but `gate` and `up` for the backward pass and round once, and torch elsewhere, which keeps
            silu(gate) too and rounds it.

    Raises:
        ValueError: shapes or dtypes that differ.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(f"gate is {tuple(gate.shape)} {gate.dtype}, up is {tuple(up.shape)} {up.dtype}")
    if takes_kernel(gate, backend):
        from dsllm.kernels.swiglu_triton import swiglu_triton

        return swiglu_triton(gate, up)
    if takes_loops(backend, gate, up, dtypes=DTYPES) and suits_loops(gate):
        return swiglu_cpu(gate, up)
    return functional.silu(gate) * up


def swiglu_formula(gate: Tensor, up: Tensor) -> Tensor:
    """Compute SwiGLU in fp32 or wider, rounded once: what the kernel is tested against."""
    wide = torch.promote_types(gate.dtype, torch.float32)
    return (gate.to(wide) * torch.sigmoid(gate.to(wide)) * up.to(wide)).to(gate.dtype)
