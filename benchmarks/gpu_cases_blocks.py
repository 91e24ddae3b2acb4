"""RMSNorm, SwiGLU and RoPE, for `gpu_kernels.py`."""

from collections.abc import Iterator
from functools import partial

import torch
from gpu_case import Case, Function, differentiable, draw, expected_of, is_installed
from torch import Tensor
from torch.nn import functional

from dsllm.kernels.rms_norm import add_rms_norm, rms_norm, rms_norm_torch
from dsllm.kernels.rope import apply_rope, rotate
from dsllm.kernels.swiglu import swiglu, swiglu_formula


def list_rms_norm(device: str, *, is_dry: bool) -> Iterator[Case]:
    for shape in [(3, 40)] if is_dry else [(16384, 4096), (16384, 8192)]:
        x, weight, grad = draw(0, shape, device), draw(1, shape[-1:], device), draw(2, shape, device)
        formula = partial(rms_norm_torch, eps=1e-6)
        functions: dict[str, Function] = {
            "dsllm": partial(rms_norm, eps=1e-6, backend="torch" if is_dry else "triton"),
            "torch": lambda x, weight: functional.rms_norm(x, weight.shape, weight, 1e-6),
        }
        if not is_dry:
            functions["torch.compile"] = torch.compile(formula)
        if is_installed("liger_kernel") and not is_dry:
            from liger_kernel.ops.rms_norm import LigerRMSNormFunction

            functions["Liger"] = lambda x, weight: LigerRMSNormFunction.apply(
                x, weight, 1e-6, 0.0, "llama", False
            )  # not in place: others use the gradient too
        yield _case(
            "rms_norm", shape, formula=formula, functions=functions, inputs=[x, weight], grads=[grad],
            n_tensors=(2, 3),
        )  # fmt: skip


def list_add_rms_norm(device: str, *, is_dry: bool) -> Iterator[Case]:
    shape = (3, 40) if is_dry else (16384, 4096)
    # Halves, whose sums are exact: all see the same stream.
    x, residual = ((draw(seed, shape, device) * 2).round() / 2 for seed in (0, 3))
    weight = draw(1, shape[-1:], device)
    grads = [draw(2, shape, device), draw(4, shape, device)]

    def formula(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return rms_norm_torch(x + residual, weight, 1e-6), x + residual

    def eager(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        stream = x + residual
        return functional.rms_norm(stream, weight.shape, weight, 1e-6), stream

    functions: dict[str, Function] = {
        "dsllm": partial(add_rms_norm, eps=1e-6, backend="torch" if is_dry else "triton"),
        "torch": eager,
    }
    if not is_dry:
        functions["torch.compile"] = torch.compile(formula)
    if is_installed("liger_kernel") and not is_dry:
        from liger_kernel.ops.fused_add_rms_norm import LigerFusedAddRMSNormFunction

        functions["Liger"] = lambda x, residual, weight: LigerFusedAddRMSNormFunction.apply(
            x, residual, weight, 1e-6, 0.0, "llama", False
        )
    yield _case(
        "rms_norm, residual", shape, formula=formula, functions=functions, inputs=[x, residual, weight],
        grads=grads, n_tensors=(4, 4),
    )  # fmt: skip


def list_swiglu(device: str, *, is_dry: bool) -> Iterator[Case]:
    shape = (3, 40) if is_dry else (16384, 11008)
    gate, up, grad = (draw(seed, shape, device) for seed in range(3))

    def eager(gate: Tensor, up: Tensor) -> Tensor:
        return functional.silu(gate) * up

    functions: dict[str, Function] = {
        "dsllm": partial(swiglu, backend="torch" if is_dry else "triton"),
        "torch": eager,
    }
    if not is_dry:
        functions["torch.compile"] = torch.compile(eager)
    if is_installed("liger_kernel") and not is_dry:
        from liger_kernel.ops.swiglu import LigerSiLUMulFunction

        functions["Liger"] = LigerSiLUMulFunction.apply
    yield _case(
        "swiglu", shape, formula=swiglu_formula, functions=functions, inputs=[gate, up], grads=[grad],
        n_tensors=(3, 5),
    )  # fmt: skip


def list_rope(device: str, *, is_dry: bool) -> Iterator[Case]:
    batch, seq_len, n_heads, n_kv_heads, head_dim = (1, 9, 4, 2, 16) if is_dry else (4, 4096, 32, 32, 128)
    heads = (n_heads, n_kv_heads)
    q, k = (draw(n, (batch, seq_len, count, head_dim), device) for n, count in enumerate(heads))
    grads = [draw(2, q.shape, device), draw(3, k.shape, device)]
    angles = draw(4, (1, seq_len, 1, head_dim // 2), device, torch.float32)
    cos, sin = angles.cos(), angles.sin()

    def eager(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return apply_rope(q, cos, sin), apply_rope(k, cos, sin)

    def formula(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return apply_rope(q, cos.double(), sin.double()), apply_rope(k, cos.double(), sin.double())

    def in_place(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return rotate(q.view_as(q), k.view_as(k), cos, sin, backend="torch" if is_dry else "triton")

    functions: dict[str, Function] = {"dsllm": in_place, "torch": eager}
    if not is_dry:
        functions["torch.compile"] = torch.compile(eager)
    if is_installed("liger_kernel") and not is_dry:
        functions["Liger"] = liger_rope(cos, sin)
    yield _case(
        "rope",
        (batch, seq_len, n_heads, head_dim),
        formula=formula,
        functions=functions,
        inputs=[q, k],
        grads=grads,
        n_tensors=(2 * (q.numel() + k.numel()) / q.numel(),) * 2,
    )


def liger_rope(cos: Tensor, sin: Tensor) -> Function:
    """Rotate as Liger does, whose angles are those of both halves and which takes heads first."""
    from liger_kernel.ops.rope import LigerRopeFunction

    both = [torch.cat((x, x), dim=-1)[:, :, 0].to(torch.bfloat16) for x in (cos, sin)]

    def run(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        turned = LigerRopeFunction.apply(q.transpose(1, 2), k.transpose(1, 2), *both)
        return turned[0].transpose(1, 2), turned[1].transpose(1, 2)

    return run


def _case(
    kernel: str,
    shape: tuple[int, ...],
    *,
    formula: Function,
    functions: dict[str, Function],
    inputs: list[Tensor],
    grads: list[Tensor],
    n_tensors: tuple[float, float],
) -> Case:
    """Make a case whose passes read and write so many tensors as large as the first input."""
    contenders = {name: differentiable(function, inputs, grads) for name, function in functions.items()}
    n_bytes = [2 * count * inputs[0].numel() for count in n_tensors]
    return Case(
        kernel,
        " x ".join(map(str, shape)),
        expected_of(formula, inputs, grads),
        contenders,
        n_bytes=(n_bytes[0], n_bytes[1]),
    )
