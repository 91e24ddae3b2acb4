"""Cases of AdamW: three updates of several tensors."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dsllm.kernels.adamw import AdamWItem, adamw_, adamw_torch_
from dsllm.kernels.checks.measure import Check, by, error_of, judge, random_tensors

N_UPDATES = 3
BETAS, EPS, LR = (0.9, 0.95), 1e-8, 0.01
# The last one is longer than one program's part.
SHAPE_SETS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((),),
    ((1,), (0, 4), (3, 5)),
    ((127,), (2, 1024), (67_000,)),
)


def check_adamw(dtype: torch.dtype, device: str) -> Iterator[Check]:
    """Check AdamW on weights of `dtype`."""
    for shapes in SHAPE_SETS:
        yield check_updates(shapes, dtype, device)


def check_updates(shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: str) -> Check:
    """Check all tensors after three updates with a clipping factor.

    The means begin at zero and the learning rate is small, so means and the way that weights have gone are
    measured by themselves, brought to about 1; weights in bf16 against their rounded master copies.
    """
    actual, expected = (
        _States(shapes, dtype, device, is_wide=False),
        _States(shapes, dtype, device, is_wide=True),
    )
    begin = [x.clone() for x in expected.targets]
    factor = torch.tensor(0.5, device=device)
    for update in range(1, N_UPDATES + 1):
        adamw_(actual.items(update), betas=BETAS, eps=EPS, grad_factor=factor, backend="triton")
        for item in expected.items(update):
            adamw_torch_(item, BETAS, EPS, factor.double())
    pairs = []
    for index, first in enumerate(begin):
        # fp32 holds the weights to 2**-24, of which a way of 0.01 is 2**-17: they are measured as they are.
        pairs.append((actual.targets[index], expected.targets[index]))
        pairs.append((actual.means[index] * 4, expected.means[index] * 4))
        pairs.append((actual.squares[index] * 16, expected.squares[index] * 16))
        if dtype != torch.float32:
            way = (actual.targets[index].double() - first) / LR, (expected.targets[index] - first) / LR
            pairs += [way, (actual.weights[index], expected.targets[index])]
    error = max(error_of(a, e) for a, e in pairs)
    return judge("adamw", " and ".join(by(shape) or "one number" for shape in shapes), dtype, error)


class _States:
    """Tensors of all items, drawn; `is_wide` for those of the formula in fp64."""

    def __init__(
        self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: str, *, is_wide: bool
    ) -> None:
        n_tensors = len(shapes)
        drawn = random_tensors(list(shapes) * (1 + N_UPDATES), dtype, device)
        wide = torch.float64 if is_wide else torch.float32
        self.weights = drawn[:n_tensors]
        self.grads = drawn[n_tensors:]
        self.targets = [x.to(wide, copy=True) for x in self.weights]
        if not is_wide and dtype == torch.float32:
            self.targets = self.weights
        self.means: list[Tensor] = [torch.zeros_like(x) for x in self.targets]
        self.squares: list[Tensor] = [torch.zeros_like(x) for x in self.targets]

    def items(self, update: int) -> list[AdamWItem]:
        begin = (update - 1) * len(self.weights)
        grads = self.grads[begin : begin + len(self.weights)]
        masters = [None if t is w else t for t, w in zip(self.targets, self.weights, strict=True)]
        tensors = zip(self.weights, masters, self.means, self.squares, grads, strict=True)
        return [AdamWItem(*five, n_updates=update, lr=LR, weight_decay=0.1) for five in tensors]
