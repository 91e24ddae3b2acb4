"""Cases of cross-entropy: in place, and behind the output projection in chunks."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dsllm.kernels.checks.measure import Check, error_of, judge, random_tensors, worst_error
from dsllm.kernels.cross_entropy import cross_entropy, token_cross_entropy
from dsllm.kernels.cross_entropy_logits import (
    IGNORED,
    cross_entropy_formula,
    cross_entropy_in_place,
    overwrite_with_gradient,
)

# Rows, words, numbers from one row to the next.
LOGIT_SHAPES = ((1, 1, 1), (0, 8, 8), (1, 2, 3), (5, 50, 50), (3, 4097, 4100), (2, 102_400, 102_400))
# Tokens, width, words.
LINEAR_SHAPES = ((1, 4, 9), (7, 12, 50), (5, 16, 1000))
Z_LOSSES = (0.0, 0.01)


def check_losses_in_place(dtype: torch.dtype, device: str) -> Iterator[Check]:
    """Check cross-entropy in place, on rows that lie apart and rows that are ignored."""
    for shape in LOGIT_SHAPES:
        for z_loss in Z_LOSSES:
            yield check_in_place(shape, z_loss, dtype, device)


def check_in_place(shape: tuple[int, int, int], z_loss: float, dtype: torch.dtype, device: str) -> Check:
    """Check cross-entropy in place: `shape` is rows, words, and numbers from one row to the next.

    The gradient at the target is near -1 and others are near 1 / vocab_size, so the two are measured apart,
    the latter times vocab_size.
    """
    n_rows, vocab_size, stride = shape
    (wide_rows,) = random_tensors([(n_rows, stride)], dtype, device)
    logits = wide_rows[:, :vocab_size]
    targets = _targets(n_rows, vocab_size).to(device)
    upstream = torch.linspace(0.5, 2.0, n_rows, device=device)
    expected = logits.double().requires_grad_()
    expected_losses = cross_entropy_formula(expected, targets, z_loss=z_loss)
    (expected_gradient,) = torch.autograd.grad(expected_losses, expected, upstream.double())

    losses = overwrite_with_gradient(logits, targets, upstream=upstream, z_loss=z_loss, backend="triton")
    is_target = torch.nn.functional.one_hot(targets.clamp(min=0), vocab_size).bool()
    pairs = [(losses, expected_losses.detach()), *_apart(logits, expected_gradient, is_target, vocab_size)]
    error = max(error_of(a, e) for a, e in pairs)
    case = f"{n_rows} rows of {vocab_size:,}, {stride:,} apart" + _z_case(z_loss)
    return judge("cross_entropy in place", case, dtype, error)


def _apart(
    actual: Tensor, expected: Tensor, is_target: Tensor, vocab_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    yield actual[is_target], expected[is_target]
    yield actual[~is_target].double() * vocab_size, expected[~is_target] * vocab_size


def check_linear_losses(dtype: torch.dtype, device: str) -> Iterator[Check]:
    """Check cross-entropy behind a projection: summed, by token, and in place."""
    for shape in LINEAR_SHAPES:
        for z_loss in Z_LOSSES:
            yield check_linear(shape, z_loss, dtype, device)


def check_linear(shape: tuple[int, int, int], z_loss: float, dtype: torch.dtype, device: str) -> Check:
    """Check the three ways from activations to losses: `shape` is tokens, width, words.

    Factors are small multiples of 1/8, so that logits are exact in bf16 and only what follows is measured.
    """
    n_tokens, d_model, vocab_size = shape
    hidden, weight = (
        x.clamp(-1.5, 1.5)
        for x in random_tensors([(n_tokens, d_model), (vocab_size, d_model)], dtype, device)
    )
    hidden, weight = hidden.round(), (weight * 2).round() / 8
    targets = _targets(n_tokens, vocab_size).to(device)
    weights = torch.linspace(0.5, 2.0, n_tokens, device=device)

    def kernel(hidden: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        summed, _ = cross_entropy(hidden, weight, targets, z_loss=z_loss, backend="triton")
        by_token = token_cross_entropy(hidden, weight, targets, z_loss=z_loss, backend="triton")
        in_place = cross_entropy_in_place(hidden @ weight.T, targets, z_loss=z_loss, backend="triton")
        return summed, by_token, in_place

    def formula(hidden: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        losses = cross_entropy_formula(hidden @ weight.T, targets, z_loss=z_loss)
        return losses.sum(), losses, losses.sum()

    one = torch.tensor(1.0, device=device)
    error = worst_error(kernel, formula, (hidden, weight), one, weights, one / 4)
    case = f"{n_tokens} tokens, {d_model} wide, {vocab_size:,} words" + _z_case(z_loss)
    return judge("cross_entropy, linear", case, dtype, error)


def _targets(n_rows: int, vocab_size: int) -> Tensor:
    """Spread targets over the vocabulary, its last word first; rows 2, 5, 8... are ignored."""
    rows = torch.arange(n_rows)
    targets = (vocab_size - 1 - rows * 7919) % vocab_size
    return torch.where(rows % 3 == 2, IGNORED, targets)


def _z_case(z_loss: float) -> str:
    return f", z-loss {z_loss}" if z_loss else ""
