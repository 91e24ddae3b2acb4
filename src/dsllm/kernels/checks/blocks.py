"""Cases of the kernels inside a block: RMSNorm, RoPE, SwiGLU."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from dsllm.kernels.checks.measure import Check, by, judge, random_tensors, worst_error
from dsllm.kernels.rms_norm import add_rms_norm, rms_norm
from dsllm.kernels.rope import apply_rope, rotate
from dsllm.kernels.swiglu import swiglu, swiglu_formula

NORM_SHAPES = ((1, 1), (1, 5), (0, 8), (3, 127), (2, 9, 256), (2, 4096))
# batch, seq_len, n_heads, n_kv_heads, head_dim; then whether each row has positions of its own.
RopeShape = tuple[int, int, int, int, int]
ROPE_SHAPES: tuple[tuple[RopeShape, bool], ...] = (
    ((1, 1, 1, 1, 2), False),
    ((0, 3, 2, 1, 8), False),
    ((2, 5, 3, 1, 10), True),
    ((2, 9, 4, 4, 64), False),
    ((1, 7, 32, 8, 128), True),
)
SWIGLU_SHAPES = ((1, 1), (0, 8), (3, 127), (2, 9, 344), (2, 5504))


def check_norms(dtype: torch.dtype, device: str) -> Iterator[Check]:
    """Check RMSNorm alone and behind an addition."""
    for shape in NORM_SHAPES:
        yield check_rms_norm(shape, dtype, device)
        yield check_add_rms_norm(shape, dtype, dtype, device)
    if dtype == torch.bfloat16:
        yield check_add_rms_norm((3, 127), dtype, torch.float32, device)


def check_rms_norm(shape: Sequence[int], dtype: torch.dtype, device: str) -> Check:
    """Check RMSNorm on activations of `shape`."""
    x, weight, dy = random_tensors([shape, shape[-1:], shape], dtype, device)
    error = worst_error(
        partial(rms_norm, eps=1e-6, backend="triton"),
        partial(rms_norm, eps=1e-6, backend="torch"),
        (x, weight),
        dy,
    )
    return judge("rms_norm", by(shape), dtype, error)


def check_add_rms_norm(
    shape: Sequence[int], dtype: torch.dtype, stream_dtype: torch.dtype, device: str
) -> Check:
    """Check the addition and RMSNorm together, on a residual stream of `stream_dtype`."""
    x, weight, residual, dy, dstream = random_tensors([shape, shape[-1:], shape, shape, shape], dtype, device)
    if stream_dtype == torch.float32:
        residual, dy, dstream = residual.float() / 3, dy.float() / 3, dstream.float() / 3
    else:  # halves, whose sums are exact: both see the same stream
        x, residual = (x * 2).round() / 2, (residual * 2).round() / 2
    error = worst_error(
        partial(add_rms_norm, eps=1e-6, backend="triton"),
        partial(add_rms_norm, eps=1e-6, backend="torch"),
        (x, residual, weight),
        dy,
        dstream,
    )
    wide = ", onto fp32" if stream_dtype != dtype else ""
    return judge("rms_norm, residual", by(shape) + wide, dtype, error)


def check_ropes(dtype: torch.dtype, device: str) -> Iterator[Check]:
    """Check the rotation of queries and keys."""
    for shape, has_rows in ROPE_SHAPES:
        yield check_rope(shape, dtype, device, has_rows=has_rows)


def check_rope(shape: RopeShape, dtype: torch.dtype, device: str, *, has_rows: bool) -> Check:
    """Check RoPE: `shape` is batch, seq_len, n_heads, n_kv_heads, head_dim."""
    batch, seq_len, n_heads, n_kv_heads, head_dim = shape
    queries, keys = (batch, seq_len, n_heads, head_dim), (batch, seq_len, n_kv_heads, head_dim)
    q, k, dq, dk = random_tensors([queries, keys, queries, keys], dtype, device)
    angles_shape = (batch if has_rows else 1, seq_len, 1, head_dim // 2)
    (angles,) = random_tensors([angles_shape], torch.float32, device)
    cos, sin = angles.cos(), angles.sin()

    def kernel(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return rotate(q.clone(), k.clone(), cos, sin, backend="triton")  # a leaf is not overwritten

    def formula(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return apply_rope(q, cos.double(), sin.double()), apply_rope(k, cos.double(), sin.double())

    error = worst_error(kernel, formula, (q, k), dq, dk)
    case = f"{batch} x {seq_len}, {n_heads} heads on {n_kv_heads}, {head_dim} channels"
    return judge("rope", case, dtype, error)


def check_swiglus(dtype: torch.dtype, device: str) -> Iterator[Check]:
    """Check SwiGLU."""
    for shape in SWIGLU_SHAPES:
        yield check_swiglu(shape, dtype, device)


def check_swiglu(shape: Sequence[int], dtype: torch.dtype, device: str) -> Check:
    """Check SwiGLU on gates of `shape`."""
    gate, up, dout = random_tensors([shape, shape, shape], dtype, device)
    error = worst_error(partial(swiglu, backend="triton"), swiglu_formula, (gate, up), dout)
    return judge("swiglu", by(shape), dtype, error)
