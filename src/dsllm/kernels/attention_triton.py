"""Causal grouped-query attention as Triton kernels: flash attention, forward and backward.

Blocks of queries meet blocks of keys in registers, so no matrix of scores reaches memory; of the softmax only
the logarithm of each row's sum is kept. Blocks that all their rows see whole skip the mask. With documents,
blocks that none of them sees are never visited, so packed short documents cost about what they would cost
alone. On Hopper and Blackwell the blocks that stream past come by tensor descriptors, which the hardware
copies by itself; elsewhere the same source reads through pointers.

Source: Dao 2023, arXiv:2307.08691, algorithms 1 and 2.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from triton.tools.tensor_descriptor import TensorDescriptor

from dsllm.kernels.attention import document_ends, document_starts
from dsllm.kernels.attention_backward_triton import backward_key_kernel, backward_query_kernel
from dsllm.kernels.attention_forward_triton import forward_kernel
from dsllm.kernels.attention_launch import KERNELS, Kernel, Launch, arch_of, constants, launch_for, work_of
from dsllm.kernels.backend import is_interpreting
from dsllm.kernels.build import Build

_FUNCTIONS: dict[Kernel, Any] = {
    "forward": forward_kernel,
    "backward of queries": backward_query_kernel,
    "backward of keys": backward_key_kernel,
}


def attention_triton(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None) -> Tensor:
    """Launch the kernels; the same contract as `attention_torch`, for heads of up to 256 channels."""
    starts, ends = (None, None) if document_ids is None else find_bounds(document_ids)
    out: Tensor = _Attention.apply(q, k, v, starts, ends)
    return out


_last_bounds: list[tuple[weakref.ref[Tensor], int, tuple[Tensor, Tensor]]] = []  # one at most


def find_bounds(document_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Find where each token's document begins and ends, int32; the layers of a model ask for the same."""
    version = -1 if document_ids.is_inference() else document_ids._version
    for known, known_version, bounds in _last_bounds:
        if known() is document_ids and known_version == version >= 0:
            return bounds
    found = document_starts(document_ids).int(), document_ends(document_ids).int()
    _last_bounds[:] = [(weakref.ref(document_ids), version, found)]
    return found


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        q, k, v = (x.contiguous() for x in arguments[:3])
        starts, ends = arguments[3:]
        batch, seq_len, n_heads, _ = q.shape
        out = torch.empty_like(q)
        log_sum = torch.empty(batch, n_heads, seq_len, dtype=torch.float32, device=q.device)
        launch_forward((q, k, v, out, log_sum, starts), _choose("forward", q))
        ctx.save_for_backward(q, k, v, out, log_sum, starts, ends)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sum, starts, ends = ctx.saved_tensors
        dout = grads[0].contiguous()
        dq, dk, dv, delta = (torch.empty_like(x) for x in (q, k, v, log_sum))
        launch = _choose("backward of queries", q)
        launch_backward_query((q, k, v, out, log_sum, dout, dq, delta, starts), launch)
        launch = _choose("backward of keys", q)
        launch_backward_key((q, k, v, log_sum, dout, delta, dk, dv, starts, ends), launch)
        return dq, dk, dv, None, None


def launch_forward(tensors: Sequence[Any], launch: Launch) -> None:
    """Fill out and log_sum; `tensors` as the kernel names them."""
    q, k, v, *others = tensors
    n_programs = _count(q, launch.block_q)
    if n_programs:
        streams = [_stream(x, launch.block_k, launch) for x in (k, v)]
        forward_kernel[(n_programs,)](
            q, *streams, *others, q.shape[1], **_constants(q, k, launch), **launch.options
        )


def launch_backward_query(tensors: Sequence[Any], launch: Launch) -> None:
    """Fill dq and delta; `tensors` as the kernel names them."""
    q, k, v, *others = tensors
    n_programs = _count(q, launch.block_q)
    if n_programs:
        streams = [_stream(x, launch.block_k, launch) for x in (k, v)]
        backward_query_kernel[(n_programs,)](
            q, *streams, *others, q.shape[1], **_constants(q, k, launch), **launch.options
        )


def launch_backward_key(tensors: Sequence[Any], launch: Launch) -> None:
    """Fill dk and dv; `tensors` as the kernel names them."""
    q, k, v, log_sum, dout, delta, dk, dv, *bounds = tensors
    n_programs = _count(k, launch.block_k)
    if n_programs:
        q_in, dout_in = (_stream(x, launch.block_q, launch) for x in (q, dout))
        dk_out, dv_out = (_stream(x, launch.block_k, launch) for x in (dk, dv))
        backward_key_kernel[(n_programs,)](
            q_in, k, v, log_sum, dout_in, delta, dk_out, dv_out, *bounds, q.shape[1],
            **_constants(q, k, launch), **launch.options,
        )  # fmt: skip


def _choose(kernel: Kernel, q: Tensor) -> Launch:
    return launch_for(kernel, arch_of(q), q.shape[3], q.dtype)


def _count(x: Tensor, block: int) -> int:
    return -(-x.shape[1] // block) * x.shape[0] * x.shape[2]


def _stream(x: Tensor, rows: int, launch: Launch) -> Any:
    if not launch.takes_descriptors(x.shape[3]):
        return x
    return TensorDescriptor.from_tensor(x, [1, rows, 1, x.shape[3]])


def _constants(q: Tensor, k: Tensor, launch: Launch) -> dict[str, Any]:
    needs_widening = q.dtype == torch.bfloat16 and is_interpreting()
    return constants(q.shape[3], q.shape[2], k.shape[2], launch) | {"UPCAST": needs_widening}


def builds(
    arch: str, *, head_dim: int, n_heads: int, n_kv_heads: int, dtype: torch.dtype = torch.bfloat16
) -> list[Build]:
    """List what a model of this shape launches on `arch`, without documents and with them."""
    result = []
    name = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[dtype]
    shape = f"{n_heads} heads on {n_kv_heads}, {head_dim} channels"
    if dtype != torch.bfloat16:
        shape += f", {name}"
    for kernel in KERNELS:
        launch = launch_for(kernel, arch, head_dim, dtype)
        fixed = constants(head_dim, n_heads, n_kv_heads, launch) | {"UPCAST": False}
        types = _types(name, head_dim, launch)
        work = work_of(
            kernel,
            launch,
            head_dim=head_dim,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            n_bytes=dtype.itemsize,
        )
        without = fixed | {"starts_ptr": None, "ends_ptr": None}
        for case, values in ((shape, without), (f"{shape}, documents", fixed)):
            build = Build(
                f"attention {kernel}", case, _FUNCTIONS[kernel], types, values, launch.options,
                uses_tensor_cores=dtype != torch.float32, work=work,
            )  # fmt: skip
            result.append(build)
    return result


def _types(name: str, head_dim: int, launch: Launch) -> dict[str, str]:
    pointers = ("q_ptr", "k_ptr", "v_ptr", "out_ptr", "dout_ptr", "dq_ptr")
    types = dict.fromkeys(pointers, f"*{name}") | dict.fromkeys(("log_sum_ptr", "delta_ptr"), "*fp32")
    types |= dict.fromkeys(("starts_ptr", "ends_ptr"), "*i32") | {"seq_len": "i32:16"}
    streams = {"k_in": launch.block_k, "v_in": launch.block_k, "q_in": launch.block_q}
    streams |= {"dout_in": launch.block_q, "dk_out": launch.block_k, "dv_out": launch.block_k}
    is_descriptor = launch.takes_descriptors(head_dim)
    for stream, rows in streams.items():
        types[stream] = f"tensordesc<{name}[1, {rows}, 1, {head_dim}]>" if is_descriptor else f"*{name}"
    return types
