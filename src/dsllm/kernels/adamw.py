"""AdamW over many tensors: fp32 moments, and fp32 master copies of weights that are kept in fewer bits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsllm.kernels.backend import Backend, takes_kernel


@dataclass(frozen=True)
class AdamWItem:
    """One parameter and what its update needs; the tensors have one shape and are contiguous.

    Attributes:
        weight: the parameter, fp32, bf16 or fp16.
        master: the weight in fp32, of which `weight` is the rounded copy. None: `weight` is its own master.
        exp_avg: running mean of the gradient, fp32.
        exp_avg_sq: running mean of its square, fp32.
        grad: the gradient, in any of the three dtypes; all else is overwritten.
        n_updates: updates of this parameter, this one included.
        lr: learning rate.
        weight_decay: the weight loses lr * weight_decay of itself.

    Raises:
        ValueError: shapes that differ, tensors that are not contiguous, or a master copy that is missing.
    """

    weight: Tensor
    master: Tensor | None
    exp_avg: Tensor
    exp_avg_sq: Tensor
    grad: Tensor
    n_updates: int
    lr: float
    weight_decay: float

    def __post_init__(self) -> None:
        tensors = (self.weight, self.target, self.exp_avg, self.exp_avg_sq, self.grad)
        if any(x.shape != self.weight.shape or not x.is_contiguous() for x in tensors):
            shapes = ", ".join(str(tuple(x.shape)) for x in tensors)
            raise ValueError(f"tensors differ in shape, or are not contiguous: {shapes}")
        if not self.target.dtype == self.exp_avg.dtype == self.exp_avg_sq.dtype:
            raise ValueError(f"a weight in {self.weight.dtype} needs a master copy in {self.exp_avg.dtype}")

    @property
    def target(self) -> Tensor:
        """The tensor that is updated: the master copy, where there is one."""
        return self.weight if self.master is None else self.master


@dataclass(frozen=True)
class Rates:
    """The numbers of one item's update, found in double precision.

    The target is multiplied by `shrink`; then `step_size` times the mean, over the mean square's root times
    `root_scale` plus epsilon, is taken from it.
    """

    shrink: float
    step_size: float
    root_scale: float

    @classmethod
    def of(cls, item: AdamWItem, betas: tuple[float, float]) -> "Rates":
        """Correct the moments for having begun at zero."""
        first, second = (1 - beta**item.n_updates for beta in betas)
        return cls(1 - item.lr * item.weight_decay, item.lr / first, 1 / math.sqrt(second))


def adamw_(
    items: Sequence[AdamWItem],
    *,
    betas: tuple[float, float],
    eps: float,
    grad_factor: Tensor | None = None,
    backend: Backend = "auto",
) -> None:
    """Update every item's weight, master copy and moments in place.

    Args:
        items: on one device.
        betas: what the two running means keep of themselves.
        eps: added to the root of the mean square.
        grad_factor: gradients are multiplied by it, as clipping wants: fp32, without dims, on the device, so
            nobody waits for it. None: 1.
        backend: "auto" takes the kernel on a GPU, one launch for all items of the same dtypes, and torch
            elsewhere.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, as `torch.optim.AdamW` reads it: the
    decay is multiplied by the learning rate.
    """
    if not items:
        return
    if takes_kernel(items[0].weight, backend):
        from dsllm.kernels.adamw_triton import adamw_triton_

        adamw_triton_(items, betas, eps, grad_factor)
        return
    for item in items:
        adamw_torch_(item, betas, eps, grad_factor)


@torch.no_grad()
def adamw_torch_(
    item: AdamWItem, betas: tuple[float, float], eps: float, grad_factor: Tensor | None = None
) -> None:
    """Update one item as the paper has it: what the kernel is tested against."""
    rates = Rates.of(item, betas)
    grad = item.grad.to(item.exp_avg.dtype)
    if grad_factor is not None:
        grad = grad * grad_factor
    item.exp_avg.lerp_(grad, 1 - betas[0])
    item.exp_avg_sq.mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    root = item.exp_avg_sq.sqrt().mul_(rates.root_scale).add_(eps)
    item.target.mul_(rates.shrink).addcdiv_(item.exp_avg, root, value=-rates.step_size)
    if item.master is not None:
        item.weight.copy_(item.master)
