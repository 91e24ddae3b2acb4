"""Cross-entropy over a large vocabulary whose logits never lie whole in memory.

The vocabulary has about 100,000 entries, so the logits of one micro-batch are larger than all the other
activations together. Both functions here go through the tokens in chunks. `cross_entropy` computes the
gradient together with the loss and so needs each chunk's logits once. `token_cross_entropy` gives the tokens'
losses, for objectives whose weights depend on the losses, and computes the logits again in the backward pass.
Each chunk's logits become their own gradient where they lie: see `dsllm.kernels.cross_entropy_logits`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.backend import Backend
from dsllm.kernels.cross_entropy_logits import IGNORED, overwrite_with_gradient, scale
from dsllm.kernels.product import fast_fp32_products, has_wide_products

CHUNK_BYTES = 2**24  # of logits held at a time, where that is enough tokens
MIN_CHUNK_TOKENS = 512  # in fp32; of narrower logits so many more as take the same room
NEAR_NUMBERS = 2**19  # of the weight's gradient that a CPU adds to at a time


def chunk_tokens(vocab_size: int, d_model: int, dtype: torch.dtype) -> int:
    """Say how many tokens' logits are held at a time: vocab_size times that many numbers of a dtype.

    Each chunk adds its part to the weight's gradient, vocab_size * d_model numbers to read and write. With
    few tokens that costs more than the products, so there are at least 512, in bf16 1,024, and at least
    d_model / 2.
    """
    n_bytes = dtype.itemsize
    return max(CHUNK_BYTES // (vocab_size * n_bytes), MIN_CHUNK_TOKENS * 4 // n_bytes, d_model // 2)


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORED,
    z_loss: float = 0.0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]:
    """Sum the cross-entropy of `hidden @ weight.T` against `targets`.

    Args:
        hidden: activations after the final norm, shape (..., d_model). Under autocast both factors are
            rounded to its dtype; logits become fp32 before the softmax.
        weight: the output projection, shape (vocab_size, d_model).
        targets: token ids, int64, the shape of `hidden` without its last dim.
        ignore_index: target of tokens that do not count; no product is computed for them.
        z_loss: weight of the squared logarithm of the softmax's denominator, part of the sum.
        backend: who turns logits into losses; the products are torch's.

    Returns:
        The sum of the losses in nats, fp32, and the number of targets that counted, int64, both without dims.
        The mean over a global batch is the sum of the first over the sum of the second.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    rows, flat_targets = _flatten(hidden, weight, targets)
    loss: Tensor = _SummedCrossEntropy.apply(
        rows, weight, flat_targets, _Options(ignore_index, z_loss, backend), torch.is_grad_enabled()
    )  # type: ignore[no-untyped-call]
    return loss, (targets != ignore_index).sum()


def token_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    ignore_index: int = IGNORED,
    z_loss: float = 0.0,
    backend: Backend = "auto",
) -> Tensor:
    """Compute each token's cross-entropy: arguments as `cross_entropy`.

    Returns:
        The losses in nats, fp32, the shape of `targets`; 0 where the target is `ignore_index`.

    Raises:
        ValueError: shapes that do not fit each other.
    """
    rows, flat_targets = _flatten(hidden, weight, targets)
    options = _Options(ignore_index, z_loss, backend)
    losses: Tensor = _TokenCrossEntropy.apply(rows, weight, flat_targets, options)  # type: ignore[no-untyped-call]
    return losses.view(targets.shape)


@dataclass(frozen=True)
class _Options:
    """What both functions pass on."""

    ignore_index: int
    z_loss: float
    backend: Backend

    def overwrite(
        self, logits: Tensor, targets: Tensor, *, upstream: Tensor | None = None, has_gradient: bool = True
    ) -> Tensor:
        """Turn one chunk's logits, all of which count, into their gradient; return the losses."""
        return overwrite_with_gradient(
            logits,
            targets,
            upstream=upstream,
            has_gradient=has_gradient,
            z_loss=self.z_loss,
            ignore_index=self.ignore_index,
            backend=self.backend,
        )


class _SummedCrossEntropy(torch.autograd.Function):
    """Loss and gradient in one pass; backward only scales what forward has found."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        hidden, weight, targets, options, has_gradient = arguments
        gradients = _Gradients.zeros(hidden, weight, [has_gradient and need for need in ctx.needs_input_grad])
        rows, factor = _round_factors(hidden, weight)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False), fast_fp32_products(factor):
            for chunk, logits in _logits(rows, factor, targets, options.ignore_index):
                losses = options.overwrite(logits, targets[chunk], has_gradient=gradients.are_needed)
                loss += losses.sum()
                if gradients.are_needed:
                    gradients.add(logits, rows, factor, chunk)
        ctx.gradients = gradients.finish(weight.dtype)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Scale in place, and let go, so that autograd takes the tensors over instead of copying them."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of this loss have been given away: backward can run once")
        gradients, ctx.gradients = ctx.gradients, None
        scaled = (None if found is None else scale(found, grads[0], out=found) for found in gradients)
        return (*scaled, None, None, None)


class _TokenCrossEntropy(torch.autograd.Function):
    """Losses first; the logits again when their weights are known."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        hidden, weight, targets, options = arguments
        rows, factor = _round_factors(hidden, weight)
        result = torch.zeros(targets.shape, dtype=torch.float32, device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk, logits in _logits(rows, factor, targets, options.ignore_index):
                result[chunk] = options.overwrite(logits, targets[chunk], has_gradient=False).float()
        ctx.save_for_backward(hidden, weight, targets)
        ctx.options, ctx.dtype = options, factor.dtype
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets = ctx.saved_tensors
        gradients = _Gradients.zeros(hidden, weight, ctx.needs_input_grad)
        rows, factor = hidden.to(ctx.dtype), weight.to(ctx.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for chunk, logits in _logits(rows, factor, targets, ctx.options.ignore_index):
                ctx.options.overwrite(logits, targets[chunk], upstream=grads[0][chunk])
                gradients.add(logits, rows, factor, chunk)
        return (*gradients.finish(weight.dtype), None, None)


@dataclass
class _Gradients:
    """The gradients of both factors as they grow; that of the weight, a sum over chunks, in fp32 or wider."""

    hidden: Tensor | None  # (n_tokens, d_model)
    weight: Tensor | None  # (vocab_size, d_model)
    is_begun: bool = False
    product: Tensor | None = None  # room for a chunk's part, where that is rounded

    @classmethod
    def zeros(cls, hidden: Tensor, weight: Tensor, needs: Sequence[bool]) -> "_Gradients":
        """Make room; the weight's is filled by the first chunk, or by `finish` without any."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        return cls(
            hidden=torch.zeros_like(hidden) if needs[0] else None,
            weight=torch.empty_like(weight, dtype=wide) if needs[1] else None,
        )

    @property
    def are_needed(self) -> bool:
        return self.hidden is not None or self.weight is not None

    def add(self, grad_logits: Tensor, rows: Tensor, factor: Tensor, chunk: Tensor) -> None:
        """Carry one chunk's gradient on to both factors."""
        if self.hidden is not None:
            self.hidden[chunk] = (grad_logits @ factor).to(self.hidden.dtype)
        if self.weight is None:
            return
        if self.weight.dtype == grad_logits.dtype:
            self.weight.addmm_(grad_logits.T, rows[chunk], beta=float(self.is_begun))
        elif has_wide_products(grad_logits):  # not rounded in between, and in one pass
            torch.addmm(
                self.weight,
                grad_logits.T,
                rows[chunk],
                beta=float(self.is_begun),
                out_dtype=self.weight.dtype,
                out=self.weight,
            )
        else:
            if self.product is None:
                self.product = torch.empty_like(self.weight, dtype=grad_logits.dtype)
            torch.mm(grad_logits.T, rows[chunk], out=self.product)
            _add_narrow(self.weight, self.product, is_begun=self.is_begun)
        self.is_begun = True

    def finish(self, weight_dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        if self.weight is None:
            return self.hidden, None
        if not self.is_begun:
            self.weight.zero_()
        return self.hidden, self.weight.to(weight_dtype)


def _add_narrow(total: Tensor, part: Tensor, *, is_begun: bool) -> None:
    """Add a matrix in fewer bits; on a CPU some rows at a time, whose widened copies stay near."""
    n_near = max(1, NEAR_NUMBERS // total.shape[1]) if total.device.type == "cpu" else len(total)
    for own, other in zip(torch.split(total, n_near), torch.split(part, n_near), strict=True):
        if is_begun:
            own.add_(other)
        else:
            own.copy_(other)


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


def _logits(
    rows: Tensor, factor: Tensor, targets: Tensor, ignore_index: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the indices of the tokens that count, some at a time, and their logits, in one room for all."""
    counted = (targets != ignore_index).nonzero().flatten()
    if not counted.numel():
        return
    vocab_size, d_model = factor.shape
    chunks = torch.split(counted, chunk_tokens(vocab_size, d_model, rows.dtype))
    room = rows.new_empty(len(chunks[0]), len(factor))
    for chunk in chunks:
        yield chunk, torch.mm(rows[chunk], factor.T, out=room[: len(chunk)])
