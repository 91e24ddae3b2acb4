"""Cross-entropy in place: the gradient is written over the logits that it is computed from.

Logits of a large vocabulary are the largest tensor of a training step, so a second one for their gradient is
what memory runs out on. They stay bf16 in memory; what is computed from them is fp32.

Source: arXiv:2401.02954, section 2.4: "in-place cross-entropy".
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from dsllm.kernels.backend import Backend, can_loop, takes_kernel
from dsllm.kernels.cross_entropy_cpu import DTYPES, overwrite_by_loops

IGNORED = -100
# A CPU goes over so many at a time, seven times: they stay near, and their widened copy is small. 384 rows
# in bf16 take half the time so; in fp32 0.64 of it at 102,400 words, at 32,000 the same.
NEAR_LOGITS = 2**20
MIN_LOOP_LOGITS = 2**14  # with fewer, calling the loops costs what they gain


def cross_entropy_formula(
    logits: Tensor, targets: Tensor, *, z_loss: float = 0.0, ignore_index: int = IGNORED
) -> Tensor:
    """Compute each row's loss in fp32 or wider: what all else is tested against.

    Args:
        logits: shape (n_rows, vocab_size).
        targets: token ids, int64, shape (n_rows,).
        z_loss: weight of the squared logarithm of the softmax's denominator, which keeps that near 1.
        ignore_index: target of rows that do not count: their loss is 0.

    Source: for the z-loss, Chowdhery et al. 2022, arXiv:2204.02311, section 5.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    is_counted = targets != ignore_index
    log_sums = wide.logsumexp(dim=-1)
    target_logits = wide.gather(1, torch.where(is_counted, targets, 0)[:, None]).squeeze(1)
    return torch.where(is_counted, log_sums - target_logits + z_loss * log_sums.square(), 0.0)


def cross_entropy_in_place(
    logits: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    ignore_index: int = IGNORED,
    backend: Backend = "auto",
) -> Tensor:
    """Sum the losses of all rows; `logits` are overwritten, and are their own gradient from then on.

    Args:
        logits: shape (n_rows, vocab_size), rows of any stride; not a leaf that wants a gradient.
        targets: as in `cross_entropy_formula`, and so `z_loss` and `ignore_index`.
        z_loss: see there.
        ignore_index: see there.
        backend: "auto" takes the kernel on a GPU, compiled loops on a CPU with 512-bit vectors, else torch.

    Returns:
        The sum in nats, fp32, without dims. Its backward pass can run once.

    Raises:
        ValueError: shapes that do not fit each other, columns that are not contiguous, rows that overlap, or
            a leaf.
    """
    _check(logits, targets)
    if logits.is_leaf and logits.requires_grad and torch.is_grad_enabled():
        raise ValueError("logits are a leaf that wants a gradient, so they cannot be overwritten")
    loss: Tensor = _InPlace.apply(logits, targets, z_loss, ignore_index, backend)  # type: ignore[no-untyped-call]
    return loss


class _InPlace(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        logits, targets, z_loss, ignore_index, backend = arguments
        losses = overwrite_with_gradient(
            logits.detach(), targets, z_loss=z_loss, ignore_index=ignore_index, backend=backend
        )
        ctx.save_for_backward(logits)
        return losses.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return scale(gradient, grads[0], out=gradient), None, None, None, None


def scale(x: Tensor, factor: Tensor, *, out: Tensor | None = None) -> Tensor:
    """Multiply by a factor without dims in its own precision, and round once to the dtype of `x`.

    One over the tokens of a batch, rounded to bf16 beforehand, would be off by up to 0.2 %.
    """
    # torch takes a tensor without dims into the dtype of `x`; a number, or a tensor with dims, as it is.
    exact = factor.item() if factor.device.type == "cpu" else factor.reshape(1)
    return torch.mul(x, exact, out=torch.empty_like(x) if out is None else out)


def overwrite_with_gradient(
    logits: Tensor,
    targets: Tensor,
    *,
    upstream: Tensor | None = None,
    has_gradient: bool = True,
    z_loss: float = 0.0,
    ignore_index: int = IGNORED,
    backend: Backend = "auto",
) -> Tensor:
    """Turn `logits` into the gradient of their losses, and return the losses; nothing for autograd.

    Args:
        logits: as in `cross_entropy_in_place`.
        targets: as in `cross_entropy_formula`, and so `z_loss` and `ignore_index`. A target outside of the
            vocabulary is an error in torch; the kernel gives it a loss that is no number.
        upstream: what each row's loss is multiplied with further on, fp32, shape (n_rows,); the gradient
            then has it in. None: 1.
        has_gradient: False is quicker, and leaves `logits` with no meaning.
        z_loss: see there.
        ignore_index: see there.
        backend: as in `cross_entropy_in_place`.

    Returns:
        The losses in nats, fp32 or wider, shape (n_rows,), without `upstream`.

    Raises:
        ValueError: as `cross_entropy_in_place`.
    """
    _check(logits, targets)
    if takes_kernel(logits, backend):
        from dsllm.kernels.cross_entropy_logits_triton import cross_entropy_triton_

        return cross_entropy_triton_(logits, targets, upstream, has_gradient, z_loss, ignore_index)
    if backend == "auto" and _suits_loops(logits, targets, ignore_index):
        return overwrite_by_loops(
            logits,
            targets,
            upstream,
            has_gradient=has_gradient,
            z_loss=z_loss,
            ignore_index=ignore_index,
        )
    n_near = max(1, NEAR_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    losses = [
        _overwrite_torch(
            part,
            targets[begin : begin + n_near],
            None if upstream is None else upstream[begin : begin + n_near],
            has_gradient=has_gradient,
            z_loss=z_loss,
            ignore_index=ignore_index,
        )
        for begin, part in zip(range(0, len(logits), n_near), torch.split(logits, n_near), strict=False)
    ]
    return torch.cat(losses) if losses else targets.new_zeros(0, dtype=torch.float32)


def _suits_loops(logits: Tensor, targets: Tensor, ignore_index: int) -> bool:
    """Say whether loops are worth it, and each target is a word or ignored: torch names one that is not."""
    if logits.numel() < MIN_LOOP_LOGITS or not logits.is_contiguous() or not can_loop([logits], DTYPES):
        return False
    is_word = (targets >= 0) & (targets < logits.shape[1])
    return bool((is_word | (targets == ignore_index)).all())


def _overwrite_torch(
    logits: Tensor,
    targets: Tensor,
    upstream: Tensor | None,
    *,
    has_gradient: bool,
    z_loss: float,
    ignore_index: int,
) -> Tensor:
    """Do it in few passes; in no further memory, if the logits are fp32 or wider."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    is_ignored = targets == ignore_index
    ids = targets.masked_fill(is_ignored, 0)[:, None]
    row_max = wide.amax(dim=-1, keepdim=True)
    target_logits = wide.sub_(row_max).gather(1, ids).squeeze(1)
    totals = wide.exp_().sum(dim=-1)
    losses = totals.log() - target_logits
    factors, ones = totals.reciprocal(), torch.ones_like(totals)
    if z_loss:
        log_sums = totals.log() + row_max.squeeze(1)
        losses += z_loss * log_sums.square()
        factors *= 1 + 2 * z_loss * log_sums
    losses.masked_fill_(is_ignored, 0)
    if not has_gradient:
        return losses
    if upstream is not None:
        factors, ones = factors * upstream, ones * upstream
    wide.mul_(factors[:, None]).scatter_add_(1, ids, -ones[:, None])
    if is_ignored.any():
        wide[is_ignored] = 0
    if wide is not logits:
        logits.copy_(wide)
    return losses


def _check(logits: Tensor, targets: Tensor) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise ValueError(f"logits are {tuple(logits.shape)} and targets {tuple(targets.shape)}")
    n_rows, vocab_size = logits.shape
    row_stride, column_stride = logits.stride()
    if (vocab_size > 1 and column_stride != 1) or (n_rows > 1 and row_stride < vocab_size):
        raise ValueError(f"strides of the logits are {logits.stride()}: columns must lie side by side")
