"""Cross-entropy over a large vocabulary whose logits never lie whole in memory.

The vocabulary has about 100,000 entries, so the logits of one micro-batch are larger than all the other
activations together. Both functions here go through the tokens in chunks. `cross_entropy` computes the
gradient together with the loss and so needs each chunk's logits once. `token_cross_entropy` gives the tokens'
losses, for objectives whose weights depend on the losses, and computes the logits again in the backward pass.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = 2**22  # held at a time, 16 MiB in fp32, where that is enough tokens
MIN_CHUNK_TOKENS = 512


def chunk_tokens(vocab_size: int, d_model: int) -> int:
    """Say how many tokens' logits are held at a time: vocab_size times that many numbers.

    Each chunk adds its part to the weight's gradient, vocab_size * d_model numbers to read and write. With
    few tokens that costs more than the products, so there are at least 512 and at least d_model / 2.
    """
    return max(CHUNK_LOGITS // vocab_size, MIN_CHUNK_TOKENS, d_model // 2)


def cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy of `hidden @ weight.T` against `targets`.

    Args:
        hidden: activations after the final norm, shape (..., d_model). Under autocast both factors are
            rounded to its dtype; logits become fp32 before the softmax.
        weight: the output projection, shape (vocab_size, d_model).
        targets: token ids, int64, the shape of `hidden` without its last dim.
        ignore_index: target of tokens that do not count; no product is computed for them.

    Returns:
        The sum of the losses in nats, fp32, and the number of targets that counted, int64, both without dims.
        The mean over a global batch is the sum of the first over the sum of the second.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    rows, flat_targets = _flatten(hidden, weight, targets)
    loss: Tensor = _SummedCrossEntropy.apply(
        rows, weight, flat_targets, ignore_index, torch.is_grad_enabled()
    )  # type: ignore[no-untyped-call]
    return loss, (targets != ignore_index).sum()


def token_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, ignore_index: int = -100
) -> Tensor:
    """Compute each token's cross-entropy: arguments as `cross_entropy`.

    Returns:
        The losses in nats, fp32, the shape of `targets`; 0 where the target is `ignore_index`.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    rows, flat_targets = _flatten(hidden, weight, targets)
    losses: Tensor = _TokenCrossEntropy.apply(rows, weight, flat_targets, ignore_index)  # type: ignore[no-untyped-call]
    return losses.view(targets.shape)


class _SummedCrossEntropy(torch.autograd.Function):
    """Loss and gradient in one pass; backward only scales what forward has found."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        hidden, weight, targets, ignore_index, has_gradient = arguments
        gradients = _Gradients.zeros(hidden, weight, [has_gradient and need for need in ctx.needs_input_grad])
        rows, factor = _round_factors(hidden, weight)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _chunks(targets, ignore_index, weight.shape):
                losses, probabilities = _softmax_losses(rows[chunk], factor, targets[chunk])
                loss += losses.sum()
                if gradients.are_needed:
                    gradients.add(_subtract_target(probabilities, targets[chunk]), rows, factor, chunk)
        ctx.save_for_backward(*gradients.finish(weight.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if saved is None else saved * grads[0].to(saved.dtype) for saved in ctx.saved_tensors)
        return (*scaled, None, None, None)


class _TokenCrossEntropy(torch.autograd.Function):
    """Losses first; the logits again when their weights are known."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        hidden, weight, targets, ignore_index = arguments
        rows, factor = _round_factors(hidden, weight)
        result = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _chunks(targets, ignore_index, weight.shape):
                result[chunk] = _softmax_losses(rows[chunk], factor, targets[chunk])[0].float()
        ctx.save_for_backward(hidden, weight, targets)
        ctx.ignore_index, ctx.dtype = ignore_index, factor.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        gradients = _Gradients.zeros(hidden, weight, ctx.needs_input_grad)
        rows, factor = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk in _chunks(targets, ctx.ignore_index, weight.shape):
                _, probabilities = _softmax_losses(rows[chunk], factor, targets[chunk])
                grad_logits = _subtract_target(probabilities, targets[chunk]).mul_(grads[0][chunk, None])
                gradients.add(grad_logits, rows, factor, chunk)
        return (*gradients.finish(weight.dtype), None, None)


@dataclass(frozen=True)
class _Gradients:
    """The gradients of both factors as they grow; that of the weight, a sum over chunks, in fp32 or wider."""

    hidden: Tensor | None  # (n_tokens, d_model)
    weight: Tensor | None  # (vocab_size, d_model)

    @classmethod
    def zeros(cls, hidden: Tensor, weight: Tensor, needs: Sequence[bool]) -> "_Gradients":
        wide = torch.promote_types(weight.dtype, torch.float32)
        return cls(
            hidden=torch.zeros_like(hidden) if needs[0] else None,
            weight=torch.zeros_like(weight, dtype=wide) if needs[1] else None,
        )

    @property
    def are_needed(self) -> bool:
        return self.hidden is not None or self.weight is not None

    def add(self, grad_logits: Tensor, rows: Tensor, factor: Tensor, chunk: Tensor) -> None:
        """Carry one chunk's gradient on to both factors."""
        grad_logits = grad_logits.to(factor.dtype)
        if self.hidden is not None:
            self.hidden[chunk] = (grad_logits @ factor).to(self.hidden.dtype)
        if self.weight is not None:
            self.weight.add_(grad_logits.T @ rows[chunk])

    def finish(self, weight_dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        return self.hidden, None if self.weight is None else self.weight.to(weight_dtype)


def _flatten(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if hidden.shape[:-1] != targets.shape or hidden.shape[-1] != weight.shape[1]:
        shapes = tuple(hidden.shape), tuple(weight.shape), tuple(targets.shape)
        raise ValueError("hidden is {}, weight is {} and targets is {}".format(*shapes))
    return hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)


def _round_factors(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Cast both factors once, as autocast would for each product."""
    device_type = hidden.device.type
    dtype = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else hidden.dtype
    return hidden.to(dtype), weight.to(dtype)


def _chunks(targets: Tensor, ignore_index: int, shape: Sequence[int]) -> Iterator[Tensor]:
    """Yield the indices of the tokens that count, some at a time; `shape` is the weight's."""
    counted = (targets != ignore_index).nonzero().flatten()
    if counted.numel():
        yield from torch.split(counted, chunk_tokens(*shape))


def _softmax_losses(x: Tensor, factor: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute each row's loss and the softmax of its logits, in fp32 or wider, in few passes."""
    logits = x @ factor.T
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    logits.sub_(logits.amax(dim=-1, keepdim=True))
    target_logits = logits.gather(1, targets[:, None]).squeeze(1)
    totals = logits.exp_().sum(dim=-1)
    return totals.log() - target_logits, logits.mul_(totals.reciprocal()[:, None])


def _subtract_target(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Turn softmax into the gradient of the loss by the logits, in place."""
    one = probabilities.new_ones(()).expand(targets.shape[0], 1)
    return probabilities.scatter_add_(1, targets[:, None], -one)
