# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""SwiGLU as Triton kernels: one pass each way; the backward pass computes silu again."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.build import Build
from dsllm.kernels.launch import warps_for
from dsllm.kernels.rounding_triton import round_as

BLOCK_NUMBERS = 2048
N_PER_THREAD = 16  # two loads of 16 bytes from each tensor


@triton.jit
def _forward_kernel(gate_ptr, up_ptr, out_ptr, n_numbers, BLOCK: tl.constexpr):
    # gate, up, out: n_numbers, contiguous.
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n_numbers
    gate = tl.load(gate_ptr + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + place, round_as(gate * tl.sigmoid(gate) * up, out_ptr), mask=inside)


@triton.jit
def _backward_kernel(gate_ptr, up_ptr, dout_ptr, dgate_ptr, dup_ptr, n_numbers, BLOCK: tl.constexpr):
    # All n_numbers, contiguous.
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n_numbers
    gate = tl.load(gate_ptr + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=inside, other=0.0).to(tl.float32)
    dout = tl.load(dout_ptr + place, mask=inside, other=0.0).to(tl.float32)

    opening = tl.sigmoid(gate)
    silu = gate * opening
    dsilu = opening * (1.0 + gate - silu)  # the slope of gate * sigmoid(gate)
    tl.store(dgate_ptr + place, round_as(dout * up * dsilu, dgate_ptr), mask=inside)
    tl.store(dup_ptr + place, round_as(dout * silu, dup_ptr), mask=inside)


def swiglu_triton(gate: Tensor, up: Tensor) -> Tensor:
    """Launch the kernels; the same contract as `swiglu_formula`."""
    out: Tensor = _SwiGLU.apply(gate, up)
    return out


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        gate, up = (x.contiguous() for x in arguments)
        out = torch.empty_like(gate)
        if gate.numel():
            _forward_kernel[_grid(gate)](gate, up, out, gate.numel(), BLOCK=BLOCK_NUMBERS, **_options())
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        if gate.numel():
            dout = grads[0].contiguous()
            _backward_kernel[_grid(gate)](
                gate, up, dout, dgate, dup, gate.numel(), BLOCK=BLOCK_NUMBERS, **_options()
            )
        return dgate, dup


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), BLOCK_NUMBERS),)


def _options(arch: str | None = None) -> dict[str, int]:
    return {"num_warps": warps_for(BLOCK_NUMBERS, N_PER_THREAD, arch)}


def builds(d_ff: int, arch: str = "sm_90") -> list[Build]:
    """List what a bf16 model launches, for `dsllm.kernels.report`."""
    types = dict.fromkeys(("gate_ptr", "up_ptr", "out_ptr", "dout_ptr", "dgate_ptr", "dup_ptr"), "*bf16")
    types["n_numbers"] = "i32:16"
    kernels = (("forward", _forward_kernel), ("backward", _backward_kernel))
    constants, options, case = {"BLOCK": BLOCK_NUMBERS}, _options(arch), f"d_ff {d_ff}"
    return [Build(f"swiglu {name}", case, kernel, types, constants, options) for name, kernel in kernels]
