# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""RMSNorm as Triton kernels: one row at a time, held in registers, forward and backward.

Proved in Triton's interpreter and by compiling for GPUs; not yet run on one.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.build import Build

N_PROGRAMS = 256  # of the backward pass: two for each multiprocessor of a large GPU; fixed, so sums are too


@triton.jit
def _forward_kernel(x_ptr, weight_ptr, y_ptr, scale_ptr, d_model, EPS: tl.constexpr, BLOCK: tl.constexpr):
    # x, y: (n_rows, d_model), contiguous. weight: (d_model,). scale: (n_rows,), 1 / root-mean-square.
    row = tl.program_id(0).to(tl.int64)  # int64: n_rows * d_model passes 2**31
    column = tl.arange(0, BLOCK)
    inside = column < d_model
    x = tl.load(x_ptr + row * d_model + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)

    scale = tl.rsqrt(tl.sum(x * x, axis=0) / d_model + EPS)
    tl.store(scale_ptr + row, scale)
    tl.store(y_ptr + row * d_model + column, (x * scale * weight).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward_kernel(
    x_ptr, weight_ptr, scale_ptr, dy_ptr, dx_ptr, dweight_ptr, n_rows, d_model, BLOCK: tl.constexpr
):
    # x, dy, dx: (n_rows, d_model). scale: (n_rows,). dweight: (n_programs, d_model), a partial sum each.
    column = tl.arange(0, BLOCK)
    inside = column < d_model
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK], tl.float32)
    row_stride = tl.cast(d_model, tl.int64)
    for row in range(tl.program_id(0), n_rows, tl.num_programs(0)):
        place = row * row_stride + column
        x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + place, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + row)

        unit = x * scale
        dunit = dy * weight
        along = tl.sum(unit * dunit, axis=0) / d_model  # the part that would change the row's length
        dx = (dunit - unit * along) * scale
        tl.store(dx_ptr + place, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        dweight += dy * unit
    tl.store(dweight_ptr + tl.program_id(0) * d_model + column, dweight, mask=inside)


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Launch the kernels; the same contract as `rms_norm_torch`."""
    y: Tensor = _RMSNorm.apply(x, weight, eps)
    return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, weight, eps = arguments
        rows = x.contiguous().view(-1, x.shape[-1])
        n_rows, d_model = rows.shape
        y = torch.empty_like(rows)
        scale = torch.empty(n_rows, dtype=torch.float32, device=x.device)
        block, n_warps = _block(d_model)
        if n_rows:
            _forward_kernel[(n_rows,)](
                rows, weight, y, scale, d_model, EPS=eps, BLOCK=block, num_warps=n_warps
            )
        ctx.save_for_backward(rows, weight, scale)
        return y.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        rows, weight, scale = ctx.saved_tensors
        n_rows, d_model = rows.shape
        dy = grads[0].contiguous()
        dx = torch.empty_like(rows)
        n_programs = min(n_rows, N_PROGRAMS)
        dweight = torch.empty(n_programs, d_model, dtype=torch.float32, device=rows.device)
        block, n_warps = _block(d_model)
        if n_rows:
            _backward_kernel[(n_programs,)](
                rows, weight, scale, dy, dx, dweight, n_rows, d_model, BLOCK=block, num_warps=n_warps
            )
        return dx.view_as(dy), dweight.sum(dim=0).to(weight.dtype), None


def _block(d_model: int) -> tuple[int, int]:
    """Choose the columns held by one program, and its warps: 16 columns a thread where that gives 4 to 16."""
    block = triton.next_power_of_2(d_model)
    return block, min(16, max(4, block // 512))


def builds(d_model: int) -> list[Build]:
    """List what a bf16 model of this width launches, for `dsllm.kernels.report`."""
    block, n_warps = _block(d_model)
    types = dict.fromkeys(("x_ptr", "weight_ptr", "y_ptr", "dy_ptr", "dx_ptr"), "*bf16")
    types |= dict.fromkeys(("scale_ptr", "dweight_ptr"), "*fp32")
    types |= {"n_rows": "i32:16", "d_model": "i32:16" if d_model % 16 == 0 else "i32"}
    case, options = f"d_model {d_model}", {"num_warps": n_warps}
    forward = Build("rms_norm forward", case, _forward_kernel, types, {"EPS": 1e-6, "BLOCK": block}, options)
    return [forward, Build("rms_norm backward", case, _backward_kernel, types, {"BLOCK": block}, options)]
