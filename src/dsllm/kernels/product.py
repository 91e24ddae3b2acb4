"""Products with weights, in fp32 on a CPU by the faster of torch's two libraries."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# fp32 inside: 1e-6 of the largest number at most. bf16 inside: 1e-3 and more.
EXACT = 1e-5
MIN_WEIGHTS = 2**15  # below, calling oneDNN costs what it saves


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply rows of `x`, shape (..., n_inputs), by `weight`, shape (n_outputs, n_inputs), transposed.

    Forward and backward of a training step in fp32 on a CPU go through `fast_fp32_products`; all else is
    torch's linear function, which autocast rounds for.
    """
    return products(x, [weight])[0]


def products(x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Multiply rows by several weights, as `product` does by one.

    On a CPU their gradients of `x` are added up as they are computed, in place.
    """
    is_training = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if is_training and all(map(_gains, weights)):
        results: tuple[Tensor, ...] = _Products.apply(x, *weights)  # type: ignore[no-untyped-call]
        return results
    return tuple(functional.linear(x, weight) for weight in weights)


def has_wide_products(x: Tensor) -> bool:
    """Say whether torch adds up products of tensors like `x` in fp32 without rounding them to 16 bits."""
    return x.is_cuda and torch.version.hip is None and x.dtype in {torch.bfloat16, torch.float16}


@contextmanager
def fast_fp32_products(weight: Tensor) -> Iterator[None]:
    """Let oneDNN compute fp32 products with `weight` while the block runs, if it does so in fp32.

    torch's default is MKL, which takes a slow path on processors that are not Intel's: products of a training
    step took 1.08 to 1.29 times as long on an AMD EPYC. The one switch to oneDNN, "medium", also allows bf16
    inside; processors with tile units (AMX) make use of that. So one small product is measured, and MKL stays
    where oneDNN is less exact than fp32. Not for attention: torch's fused operator makes many small products,
    which the switch slows down (1.8 times at 256 tokens).
    """
    before = torch.get_float32_matmul_precision()
    if not _gains(weight) or before != "highest" or not _is_exact():
        yield
        return
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        x, *weights = arguments
        ctx.save_for_backward(x, *weights)
        with fast_fp32_products(weights[0]):
            return tuple(functional.linear(x, weight) for weight in weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        needs_x, *needs_weights = ctx.needs_input_grad
        with fast_fp32_products(weights[0]):
            rows = [grad.flatten(0, -2) for grad in grads]
            dx = rows[0] @ weights[0] if needs_x else None
            for grad, weight in zip(rows[1:], weights[1:], strict=True):
                if dx is not None:
                    dx.addmm_(grad, weight)
            inputs = x.flatten(0, -2)
            dweights = [
                grad.T @ inputs if is_needed else None
                for grad, is_needed in zip(rows, needs_weights, strict=True)
            ]
        return None if dx is None else dx.view(x.shape), *dweights


def _gains(weight: Tensor) -> bool:
    is_fp32 = weight.device.type == "cpu" and weight.dtype == torch.float32
    return is_fp32 and weight.numel() >= MIN_WEIGHTS and not torch.is_autocast_enabled("cpu")


@cache
def _is_exact() -> bool:
    """Measure one product by oneDNN against fp64, by the largest number of that."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator) for size in ((128, 512), (512, 128)))
    torch.set_float32_matmul_precision("medium")
    try:
        found = left @ right
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = left.double() @ right.double()
    return bool((found - exact).abs().max() < EXACT * exact.abs().max())
