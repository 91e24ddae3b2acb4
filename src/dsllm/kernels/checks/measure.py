"""How far a kernel is from its formula."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# What a unit in the last place is of the largest number: between this and twice this, so a result rounded
# once is within one of these units.
UNITS = {torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}
# Error allowed, relative to the largest number: a hundred roundings of fp32, two units of bf16.
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2 * UNITS[torch.bfloat16]}
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Check:
    """One kernel on one input; `worst_error` of its results and gradients, relative to the largest number.

    `unit` is that of the dtype's last place, likewise.
    """

    kernel: str
    case: str
    worst_error: float
    tolerance: float
    unit: float = UNITS[torch.float32]

    @property
    def is_right(self) -> bool:
        """Whether the error is allowed; one that is no number is not."""
        return self.worst_error <= self.tolerance

    @property
    def worst_units(self) -> float:
        """The error in units in the last place."""
        return self.worst_error / self.unit

    @property
    def allowed_units(self) -> float:
        """The tolerance in units in the last place."""
        return self.tolerance / self.unit


Function = Callable[..., Tensor | tuple[Tensor, ...]]


def worst_error(
    kernel: Function, formula: Function, inputs: Sequence[Tensor], *result_grads: Tensor
) -> float:
    """Compare the results and the gradients of all inputs with the formula's in fp64.

    Args:
        kernel: maps the inputs to one result or several.
        formula: the same for inputs in fp64.
        inputs: what both get; the formula sees them as they are after rounding.
        result_grads: the gradient of each result.
    """
    actual = _with_gradients(kernel, inputs, result_grads)
    wide_grads = [grad.double() for grad in result_grads]
    expected = _with_gradients(formula, [x.double() for x in inputs], wide_grads)
    return max(error_of(a, e) for a, e in zip(actual, expected, strict=True))


def _with_gradients(function: Function, inputs: Sequence[Tensor], grads: Sequence[Tensor]) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    result = function(*leaves)
    results = result if isinstance(result, tuple) else (result,)
    return [*(x.detach() for x in results), *torch.autograd.grad(results, leaves, grads)]


def error_of(actual: Tensor, expected: Tensor) -> float:
    """Measure the largest difference against the largest number, or against 1 where all are tiny.

    A shape that differs is an error without end; empty tensors have none.
    """
    if actual.shape != expected.shape:
        return torch.inf
    if not expected.numel():
        return 0.0
    scale = expected.abs().max().clamp(min=1.0)
    return float((actual.double() - expected).abs().max() / scale)


def random_tensors(shapes: Sequence[Sequence[int]], dtype: torch.dtype, device: str) -> list[Tensor]:
    """Draw normal numbers, the same ones every time."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tuple(shape), generator=generator).to(device, dtype) for shape in shapes]


def judge(kernel: str, case: str, dtype: torch.dtype, error: float) -> Check:
    """Hold an error against what is allowed in `dtype`."""
    return Check(kernel, f"{case}, {NAMES[dtype]}", error, TOLERANCES[dtype], UNITS[dtype])


def by(shape: Sequence[int]) -> str:
    """Write a shape in words."""
    return " x ".join(map(str, shape))
