"""What `gpu_kernels.py` compares: cases, and who competes in each."""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

Function = Callable[..., Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Contender:
    """One way to compute a case.

    Attributes:
        results: computes what is compared with the case's `expected`, in its order.
        prepare_forward: makes what is timed as the forward pass.
        prepare_backward: the same for the backward pass; None: there is none apart.
    """

    results: Callable[[], list[Tensor]]
    prepare_forward: Callable[[], Callable[[], object]]
    prepare_backward: Callable[[], Callable[[], object]] | None = None


@dataclass(frozen=True)
class Case:
    """One kernel on one shape: who competes, what is right, and the work of each pass.

    `flops` are 0 where memory is the bound. Bytes are of each tensor read or written once.
    """

    kernel: str
    shape: str
    expected: Callable[[], list[Tensor]]
    contenders: dict[str, Contender]
    flops: tuple[float, float] = (0.0, 0.0)  # forward, backward
    n_bytes: tuple[float, float] = (0.0, 0.0)


def draw(seed: int, shape: Sequence[int], device: str, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, device=device).to(dtype)


def differentiable(
    function: Function,
    inputs: Sequence[Tensor],
    grads: Sequence[Tensor],
    cut: Callable[[Tensor], Tensor] = lambda x: x,
) -> Contender:
    """Compete by a function with gradients; `cut` takes the part of a result or gradient that is compared.

    Inputs are copied before anything is timed, as some write over them.
    """

    def leaves() -> list[Tensor]:
        return [x.detach().clone().requires_grad_() for x in inputs]

    def run(inputs: list[Tensor]) -> tuple[Tensor, ...]:
        result = function(*inputs)
        return result if isinstance(result, tuple) else (result,)

    def results() -> list[Tensor]:
        own = leaves()
        outputs = run(own)
        found = torch.autograd.grad(outputs, own, grads)
        return [cut(x.detach()) for x in (*outputs, *found)]

    def prepare_backward() -> Callable[[], object]:
        own = leaves()
        outputs = run(own)
        return lambda: torch.autograd.grad(outputs, own, grads, retain_graph=True)

    return Contender(results, lambda: partial(run, leaves()), prepare_backward)


def expected_of(
    formula: Function, inputs: Sequence[Tensor], grads: Sequence[Tensor]
) -> Callable[[], list[Tensor]]:
    """Compute results and gradients in fp64, when asked."""
    return lambda: differentiable(
        formula, [x.double() for x in inputs], [grad.double() for grad in grads]
    ).results()


def is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
