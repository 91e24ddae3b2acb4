"""RMSNorm, SwiGLU and RoPE on a CPU by compiled loops, the last two in bf16 too: one pass each way.

torch goes over the numbers once for each operation of a formula, and some four times as often backward.
"""

from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.threads import count_threads, numbers_of, share_loop

DTYPES = frozenset({torch.float32, torch.bfloat16})  # of SwiGLU and RoPE; norms are of fp32
CHANNELS = 16  # what rows are made of, a whole number
MIN_NUMBERS = 1 << 16  # with fewer, calling costs what the loops gain
MIN_THREAD_NUMBERS = 1 << 17

Arrays = list[NDArray[Any]]


def suits_loops(x: Tensor) -> bool:
    """Say whether rows like these, (..., n_channels), are worth the loops."""
    return x.numel() >= MIN_NUMBERS and x.shape[-1] % CHANNELS == 0


def rms_norm_cpu(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Norm rows, or their sum with a residual: returns the normed rows, and what they were made of."""
    if residual is None:
        normed: Tensor = _Norm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
        return normed, x
    both: tuple[Tensor, Tensor] = _AddNorm.apply(x, residual, weight, eps)  # type: ignore[no-untyped-call]
    return both


def swiglu_cpu(gate: Tensor, up: Tensor) -> Tensor:
    """Compute silu(gate) * up."""
    result: Tensor = _Gate.apply(gate, up)  # type: ignore[no-untyped-call]
    return result


def rotate_cpu(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate heads, shape (batch, seq_len, n_heads, head_dim), as `apply_rope` does."""
    result: Tensor = _Turn.apply(x, cos, sin)  # type: ignore[no-untyped-call]
    return result


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, weight, eps = arguments
        return _norm(ctx, x, None, weight, eps)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *_norm_backward(ctx, grads[0], None), None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        return _norm(ctx, *arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx, dweight = _norm_backward(ctx, *grads)
        return dx, dx, dweight, None


def _norm(ctx: Any, x: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from dsllm.kernels.rows_cpu_compiled import norm_rows

    x, weight = x.contiguous(), weight.contiguous()
    d_model = x.shape[-1]
    out, factors = torch.empty_like(x), x.new_empty(x.numel() // d_model)
    none = x.new_empty(0, d_model)
    stream = none if residual is None else torch.empty_like(x)
    other = none if residual is None else residual.contiguous()
    rows = [each.detach().view(-1, d_model).numpy() for each in (x, other, stream, out)]
    arrays = [*rows[:2], weight.detach().numpy(), float(eps), *rows[2:], factors.numpy()]
    _share(norm_rows, arrays, x.numel())
    made_of = x if residual is None else stream
    ctx.save_for_backward(made_of, weight, factors)
    return out, made_of


def _norm_backward(ctx: Any, dout: Tensor, dstream: Tensor | None) -> tuple[Tensor, Tensor]:
    from dsllm.kernels.rows_cpu_compiled import CHUNK_ROWS, norm_rows_backward

    made_of, weight, factors = ctx.saved_tensors
    d_model = weight.shape[0]
    dx = torch.empty_like(made_of)
    dweights = weight.new_empty(-(-len(factors) // CHUNK_ROWS), d_model)
    other = made_of.new_empty(0, d_model) if dstream is None else dstream
    rows = [each.contiguous().view(-1, d_model).numpy() for each in (dout, other, made_of.detach())]
    arrays = [*rows, weight.detach().numpy(), factors.numpy(), dx.view(-1, d_model).numpy(), dweights.numpy()]
    _share(norm_rows_backward, arrays, dx.numel())
    return dx, dweights.sum(dim=0)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        from dsllm.kernels.rows_cpu_compiled import gate_rows

        gate, up = (each.contiguous() for each in arguments)
        out = torch.empty_like(gate)
        _share(gate_rows, _flat(gate, up, out), out.numel())
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        from dsllm.kernels.rows_cpu_compiled import gate_rows_backward

        gate, up = ctx.saved_tensors
        dgate, dup = torch.empty_like(gate), torch.empty_like(up)
        _share(gate_rows_backward, _flat(grads[0].contiguous(), gate, up, dgate, dup), dup.numel())
        return dgate, dup


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        x, cos, sin = (each.contiguous() for each in arguments)
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0].contiguous(), cos, sin, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    from dsllm.kernels.rows_cpu_compiled import turn_rows

    out = torch.empty_like(x)
    angles = [each.squeeze(2).numpy() for each in (cos, sin)]
    _share(turn_rows, [numbers_of(x), *angles, sign, numbers_of(out)], x.numel())
    return out


def _flat(*tensors: Tensor) -> Arrays:
    return [numbers_of(each.view(-1)) for each in tensors]


def _share(loop: Callable[..., None], arguments: list[Any], n_numbers: int) -> None:
    """Run a loop over so many numbers on as many threads as they are worth."""
    share_loop(loop, arguments, count_threads(n_numbers, MIN_THREAD_NUMBERS))
