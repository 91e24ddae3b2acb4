# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""Rotary position embedding as a Triton kernel: queries and keys in one launch, where they lie.

A token's angles are loaded once for all its heads. The gradient is the rotation by the negative angle; it is
written to memory of its own, since others may hold the gradient that came in.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.build import Build
from dsllm.kernels.launch import warps_for
from dsllm.kernels.rounding_triton import round_as

N_PER_THREAD = 16
MAX_WARPS = 4  # more would have single numbers to load where keys have few heads


@triton.jit
def _rotate_heads(
    x_base, out_base, cos, sin,
    N_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
):  # fmt: skip
    # One token's heads, (N_HEADS, 2 * HALF), contiguous. cos, sin: (1, BLOCK_HALF), fp32.
    head = tl.arange(0, BLOCK_HEADS)[:, None]
    pair = tl.arange(0, BLOCK_HALF)[None, :]
    inside = (head < N_HEADS) & (pair < HALF)
    place = head * (2 * HALF) + pair
    first = tl.load(x_base + place, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(x_base + place + HALF, mask=inside, other=0.0).to(tl.float32)
    tl.debug_barrier()  # few numbers are read by several warps each: all have them before one is overwritten
    tl.store(out_base + place, round_as(first * cos - second * sin, out_base), mask=inside)
    tl.store(out_base + place + HALF, round_as(second * cos + first * sin, out_base), mask=inside)


@triton.jit
def _rotate_kernel(
    q_ptr, k_ptr, q_out_ptr, k_out_ptr, cos_ptr, sin_ptr, seq_len,
    q_row, q_token, k_row, k_token, q_out_row, q_out_token, k_out_row, k_out_token, angle_row,
    N_HEADS: tl.constexpr, N_KV_HEADS: tl.constexpr, HALF: tl.constexpr, BLOCK_Q_HEADS: tl.constexpr,
    BLOCK_K_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr, IS_BACK: tl.constexpr,
):  # fmt: skip
    # q: (batch, seq_len, N_HEADS, 2 * HALF), of which heads and channels are contiguous; k likewise.
    # cos, sin: (batch or 1, seq_len, HALF); angle_row is 0 where all rows share them. One program a token.
    token = tl.program_id(0) % seq_len
    row = (tl.program_id(0) // seq_len).to(tl.int64)
    pair = tl.arange(0, BLOCK_HALF)[None, :]
    angle = row * angle_row + token * HALF + pair
    cos = tl.load(cos_ptr + angle, mask=pair < HALF, other=0.0).to(tl.float32)
    sin = tl.load(sin_ptr + angle, mask=pair < HALF, other=0.0).to(tl.float32)
    if IS_BACK:
        sin = -sin
    token = token.to(tl.int64)
    _rotate_heads(
        q_ptr + row * q_row + token * q_token, q_out_ptr + row * q_out_row + token * q_out_token, cos, sin,
        N_HEADS, HALF, BLOCK_Q_HEADS, BLOCK_HALF,
    )  # fmt: skip
    _rotate_heads(
        k_ptr + row * k_row + token * k_token, k_out_ptr + row * k_out_row + token * k_out_token, cos, sin,
        N_KV_HEADS, HALF, BLOCK_K_HEADS, BLOCK_HALF,
    )  # fmt: skip


def rotate_triton(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Launch the kernel; the same contract as `dsllm.kernels.rope.rotate`."""
    result: tuple[Tensor, Tensor] = _Rotation.apply(q, k, cos, sin)
    return result


class _Rotation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        q, k, cos, sin = arguments
        cos, sin = cos.contiguous(), sin.contiguous()
        q, k = _with_whole_heads(q), _with_whole_heads(k)
        _launch(q, k, q, k, cos, sin, is_back=False)
        # Autograd cannot know that a kernel wrote here; now whoever kept the old numbers gets an error.
        torch.autograd.graph.increment_version((q, k))
        ctx.save_for_backward(cos, sin)
        return q, k

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        dq_out, dk_out = (_with_whole_heads(grad) for grad in grads)
        dq, dk = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (dq_out, dk_out))
        _launch(dq_out, dk_out, dq, dk, *ctx.saved_tensors, is_back=True)
        return dq, dk, None, None


def _with_whole_heads(x: Tensor) -> Tensor:
    """Copy `x` unless the heads and channels of each token are contiguous, and no two tokens are one."""
    head_dim = x.shape[3]
    return x if x.stride()[2:] == (head_dim, 1) and 0 not in x.stride() else x.contiguous()


def _launch(
    q: Tensor, k: Tensor, q_out: Tensor, k_out: Tensor, cos: Tensor, sin: Tensor, *, is_back: bool
) -> None:
    batch, seq_len, n_heads, head_dim = q.shape
    if not q.numel():
        return
    strides = (stride for x in (q, k, q_out, k_out) for stride in x.stride()[:2])
    angle_row = 0 if cos.shape[0] == 1 else seq_len * head_dim // 2
    constants, options = _constants(head_dim, n_heads, k.shape[2])
    _rotate_kernel[(batch * seq_len,)](
        q, k, q_out, k_out, cos, sin, seq_len, *strides, angle_row, **constants, IS_BACK=is_back, **options
    )


def _constants(
    head_dim: int, n_heads: int, n_kv_heads: int, arch: str | None = None
) -> tuple[dict[str, int], dict[str, int]]:
    half = head_dim // 2
    blocks = [triton.next_power_of_2(number) for number in (n_heads, n_kv_heads, half)]
    names = ("N_HEADS", "N_KV_HEADS", "HALF", "BLOCK_Q_HEADS", "BLOCK_K_HEADS", "BLOCK_HALF")
    constants = dict(zip(names, (n_heads, n_kv_heads, half, *blocks), strict=True))
    return constants, {"num_warps": min(MAX_WARPS, warps_for(2 * blocks[0] * blocks[2], N_PER_THREAD, arch))}


def builds(head_dim: int, n_heads: int, n_kv_heads: int, arch: str = "sm_90") -> list[Build]:
    """List what a bf16 model of this shape launches, for `dsllm.kernels.report`."""
    constants, options = _constants(head_dim, n_heads, n_kv_heads, arch)
    types = dict.fromkeys(("q_ptr", "k_ptr", "q_out_ptr", "k_out_ptr"), "*bf16")
    types |= dict.fromkeys(("cos_ptr", "sin_ptr"), "*fp32")
    tensors = ("q", "k", "q_out", "k_out")
    numbers = ("seq_len", "angle_row", *(f"{name}_{dim}" for name in tensors for dim in ("row", "token")))
    types |= dict.fromkeys(numbers, "i32:16")
    case = f"{n_heads} heads on {n_kv_heads}, {head_dim} channels"
    return [
        Build(f"rope {name}", case, _rotate_kernel, types, constants | {"IS_BACK": is_back}, options)
        for name, is_back in (("forward", False), ("backward", True))
    ]
