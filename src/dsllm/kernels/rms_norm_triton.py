# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""RMSNorm as Triton kernels: one row at a time, held in registers, forward and backward.

The same two kernels also add the residual stream before the norm and its gradient behind it, so that neither
sum is a pass of its own. Each program of the backward pass sums the gain's gradient over rows that are fixed
by their number, and the partial sums are added in a fixed order: the same bits every time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.build import Build
from dsllm.kernels.launch import is_amd, warps_for
from dsllm.kernels.rounding_triton import round_as

N_PROGRAMS = 132  # of the backward pass: one for each multiprocessor of a large GPU; fixed, so sums are too
MAX_STAGES = 4
MAX_AHEAD_BYTES = 96 << 10  # of rows that the backward pass loads ahead, which lie in shared memory
N_PER_THREAD = 16


@triton.jit
def _forward_kernel(
    x_ptr, residual_ptr, weight_ptr, stream_ptr, y_ptr, scale_ptr, d_model,
    EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # x, residual, stream, y: (n_rows, d_model), contiguous; without a residual, x is the stream.
    # weight: (d_model,). scale: (n_rows,), 1 / root-mean-square.
    row = tl.program_id(0).to(tl.int64)  # int64: n_rows * d_model passes 2**31
    column = tl.arange(0, BLOCK)
    inside = column < d_model
    place = row * d_model + column
    x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if residual_ptr is not None:
        x += tl.load(residual_ptr + place, mask=inside, other=0.0).to(tl.float32)
        stream = round_as(x, stream_ptr)
        tl.store(stream_ptr + place, stream, mask=inside)
        x = stream.to(tl.float32)

    scale = tl.rsqrt(tl.sum(x * x, axis=0) / d_model + EPS)
    tl.store(scale_ptr + row, scale)
    tl.store(y_ptr + place, round_as(x * scale * weight, y_ptr), mask=inside)


@triton.jit
def _backward_kernel(
    x_ptr, weight_ptr, scale_ptr, dy_ptr, dstream_ptr, dx_ptr, dnarrow_ptr, dweight_ptr, n_rows, d_model,
    BLOCK: tl.constexpr, N_STAGES: tl.constexpr,
):  # fmt: skip
    # x, dy, dx: (n_rows, d_model); so is dstream, the gradient that reaches the stream beside the norm, or
    # None; and dnarrow, dx once more in another dtype, or None.
    # scale: (n_rows,). dweight: (n_programs, d_model), a partial sum each.
    column = tl.arange(0, BLOCK)
    inside = column < d_model
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    dweight = tl.zeros([BLOCK], tl.float32)
    row_stride = tl.cast(d_model, tl.int64)
    for row in tl.range(tl.program_id(0), n_rows, tl.num_programs(0), num_stages=N_STAGES):
        place = row * row_stride + column
        x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + place, mask=inside, other=0.0).to(tl.float32)
        scale = tl.load(scale_ptr + row)

        unit = x * scale
        dunit = dy * weight
        along = tl.sum(unit * dunit, axis=0) / d_model  # the part that would change the row's length
        dx = (dunit - unit * along) * scale
        if dstream_ptr is not None:
            dx += tl.load(dstream_ptr + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx_ptr + place, round_as(dx, dx_ptr), mask=inside)
        if dnarrow_ptr is not None:
            tl.store(dnarrow_ptr + place, round_as(dx, dnarrow_ptr), mask=inside)
        dweight += dy * unit
    tl.store(dweight_ptr + tl.program_id(0) * d_model + column, dweight, mask=inside)


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Launch the kernels; the same contract as `rms_norm_torch`."""
    y: Tensor = _RMSNorm.apply(x, weight, eps)
    return y


def add_rms_norm_triton(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Launch the kernels; the same contract as `dsllm.kernels.rms_norm.add_rms_norm`."""
    result: tuple[Tensor, Tensor] = _AddRMSNorm.apply(x, residual, weight, eps)
    return result


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, weight, eps = arguments
        stream = x.contiguous()
        y, scale = _launch_forward(stream, None, weight, None, eps)
        ctx.save_for_backward(stream, weight, scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        stream, weight, scale = ctx.saved_tensors
        dx, _, dweight = _launch_backward(stream, weight, scale, grads[0], None, stream.dtype)
        return dx, dweight, None


class _AddRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        x, residual, weight, eps = arguments
        wide = torch.promote_types(x.dtype, residual.dtype)
        stream = torch.empty(x.shape, dtype=wide, device=x.device)
        y, scale = _launch_forward(x.contiguous(), residual.contiguous(), weight, stream, eps)
        ctx.save_for_backward(stream, weight, scale)
        ctx.dtypes = x.dtype, residual.dtype
        return y, stream

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        stream, weight, scale = ctx.saved_tensors
        narrow = next((dtype for dtype in ctx.dtypes if dtype != stream.dtype), stream.dtype)
        dstream, dnarrow, dweight = _launch_backward(stream, weight, scale, grads[0], grads[1], narrow)
        dx, dresidual = (dstream if dtype == stream.dtype else dnarrow for dtype in ctx.dtypes)
        return dx, dresidual, dweight, None


def _launch_forward(
    x: Tensor, residual: Tensor | None, weight: Tensor, stream: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the normed rows and the factor of each."""
    d_model = x.shape[-1]
    n_rows = x.numel() // d_model
    y = torch.empty_like(x if stream is None else stream)
    scale = torch.empty(n_rows, dtype=torch.float32, device=x.device)
    if n_rows:
        block, options = _launch(d_model)
        _forward_kernel[(n_rows,)](
            x, residual, weight, stream, y, scale, d_model, EPS=eps, BLOCK=block, **options
        )
    return y, scale


def _launch_backward(
    stream: Tensor,
    weight: Tensor,
    scale: Tensor,
    dy: Tensor,
    dstream: Tensor | None,
    narrow: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradient of the stream, the same in `narrow`, and that of the gain."""
    n_rows, d_model = scale.numel(), stream.shape[-1]
    dx = torch.empty_like(stream)
    dnarrow = None if narrow == stream.dtype else torch.empty_like(stream, dtype=narrow)
    n_programs = min(n_rows, N_PROGRAMS)
    dweight = torch.empty(n_programs, d_model, dtype=torch.float32, device=stream.device)
    if n_rows:
        block, options = _launch(d_model)
        beside = None if dstream is None else dstream.contiguous()
        _backward_kernel[(n_programs,)](
            stream, weight, scale, dy.contiguous(), beside, dx, dnarrow, dweight, n_rows, d_model,
            BLOCK=block, N_STAGES=_stage_count(block, stream, dy, beside), **options,
        )  # fmt: skip
    return dx, dx if dnarrow is None else dnarrow, dweight.sum(dim=0).to(weight.dtype)


def _launch(d_model: int, arch: str | None = None) -> tuple[int, dict[str, int]]:
    """Choose the columns held by one program, which is all, and its options."""
    block = triton.next_power_of_2(d_model)
    return block, {"num_warps": warps_for(block, N_PER_THREAD, arch)}


def _stage_count(block: int, *streams: Tensor | None) -> int:
    """Say how many rows of these tensors are under way at a time in the backward pass."""
    row_bytes = block * sum(x.element_size() for x in streams if x is not None)
    return _stages(row_bytes)


def _stages(row_bytes: int, arch: str | None = None) -> int:
    """Two are slower than one; of the third on, a multiprocessor's memory is busy with one program."""
    n_stages = min(MAX_STAGES, 1 + MAX_AHEAD_BYTES // row_bytes)
    return 1 if n_stages < 3 or is_amd(arch) else n_stages


def builds(d_model: int, arch: str = "sm_90") -> list[Build]:
    """List what a bf16 model of this width launches, for `dsllm.kernels.report`."""
    block, options = _launch(d_model, arch)
    tensors = (
        "x_ptr",
        "residual_ptr",
        "stream_ptr",
        "weight_ptr",
        "y_ptr",
        "dy_ptr",
        "dx_ptr",
        "dstream_ptr",
    )
    types = dict.fromkeys(tensors, "*bf16") | dict.fromkeys(("scale_ptr", "dweight_ptr"), "*fp32")
    types |= {"n_rows": "i32:16", "d_model": "i32:16" if d_model % 16 == 0 else "i32"}
    fixed: dict[str, Any] = {"EPS": 1e-6, "BLOCK": block, "dnarrow_ptr": None}
    alone = fixed | dict.fromkeys(("residual_ptr", "stream_ptr", "dstream_ptr"))
    return [
        Build(
            f"rms_norm {name}",
            f"d_model {d_model}{case}",
            kernel,
            types,
            constants | {"N_STAGES": _stages(2 * block * n_streams, arch)},
            options,
        )
        for name, kernel in (("forward", _forward_kernel), ("backward", _backward_kernel))
        for case, constants, n_streams in (("", alone, 2), (", residual", fixed, 3))
    ]
