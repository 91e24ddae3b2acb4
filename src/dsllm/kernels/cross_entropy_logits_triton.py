# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""Cross-entropy in place as a Triton kernel: one row of logits a program, twice over in blocks of columns.

The first pass finds the row's maximum and sum, rescaled as the maximum grows; the second one writes the
gradient over what it reads. It goes back from the row's end: what was read last is in the cache still, and
what is written is not kept there.

Source: Milakov and Gimelshein 2018, arXiv:1805.02867, algorithm 3, for the first pass.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsllm.kernels.build import Build
from dsllm.kernels.launch import warps_for
from dsllm.kernels.rounding_triton import round_as

BLOCK_COLUMNS = 16384
N_PER_THREAD = 16
MAX_WARPS = 32  # one program a multiprocessor: few rows are under way, and the cache holds more of each
NEVER = tl.constexpr(-1e30)  # a maximum before any logit: finite, since -inf - -inf is no number


@triton.jit
def _kernel(
    logits_ptr, targets_ptr, upstream_ptr, losses_ptr, vocab_size, row_stride,
    IGNORE_INDEX: tl.constexpr, Z_LOSS: tl.constexpr, HAS_GRADIENT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # logits: (n_rows, vocab_size), overwritten if HAS_GRADIENT. targets, losses: (n_rows,).
    # upstream: (n_rows,), or None.
    row = tl.program_id(0).to(tl.int64)
    base = logits_ptr + row * row_stride
    column = tl.arange(0, BLOCK)
    target = tl.load(targets_ptr + row)
    if target == IGNORE_INDEX:
        tl.store(losses_ptr + row, 0.0)
        if HAS_GRADIENT:
            for begin in range(0, vocab_size, BLOCK):
                nothing = tl.zeros([BLOCK], logits_ptr.dtype.element_ty)
                tl.store(base + begin + column, nothing, mask=begin + column < vocab_size)
    else:
        is_known = (target >= 0) & (target < vocab_size)
        target_logit = tl.load(base + target, mask=is_known, other=float("nan")).to(tl.float32)
        row_max = tl.full((), NEVER, tl.float32)
        row_sum = tl.full((), 0.0, tl.float32)
        for begin in range(0, vocab_size, BLOCK):
            inside = begin + column < vocab_size
            x = tl.load(
                base + begin + column, mask=inside, other=float("-inf"), eviction_policy="evict_last"
            ).to(tl.float32)
            new_max = tl.maximum(row_max, tl.max(x, axis=0))
            row_sum = row_sum * tl.exp(row_max - new_max) + tl.sum(tl.exp(x - new_max), axis=0)
            row_max = new_max
        tl.debug_barrier()  # all threads have read the target's logit before one overwrites it

        log_sum = tl.log(row_sum)
        loss = log_sum - (target_logit - row_max)
        log_sum += row_max
        if Z_LOSS != 0.0:
            loss += Z_LOSS * log_sum * log_sum
        tl.store(losses_ptr + row, loss)
        if HAS_GRADIENT:
            scale = tl.full((), 1.0, tl.float32)
            if upstream_ptr is not None:
                scale = tl.load(upstream_ptr + row).to(tl.float32)
            factor = scale * (1.0 + 2.0 * Z_LOSS * log_sum) / row_sum
            last = (vocab_size - 1) // BLOCK * BLOCK
            for back in range(0, vocab_size, BLOCK):
                begin = last - back
                inside = begin + column < vocab_size
                x = tl.load(
                    base + begin + column, mask=inside, other=float("-inf"), eviction_policy="evict_first"
                ).to(tl.float32)
                gradient = tl.exp(x - row_max) * factor - tl.where(begin + column == target, scale, 0.0)
                tl.store(
                    base + begin + column,
                    round_as(gradient, logits_ptr),
                    mask=inside,
                    eviction_policy="evict_first",
                )


def cross_entropy_triton_(
    logits: Tensor,
    targets: Tensor,
    upstream: Tensor | None,
    has_gradient: bool,
    z_loss: float,
    ignore_index: int,
) -> Tensor:
    """Launch the kernel; the same contract as `cross_entropy_logits.overwrite_with_gradient`."""
    n_rows, vocab_size = logits.shape
    losses = torch.empty(n_rows, dtype=torch.float32, device=logits.device)
    if logits.numel():
        block, options = _launch(vocab_size)
        beside = None if upstream is None else upstream.contiguous()
        _kernel[(n_rows,)](
            logits, targets.contiguous(), beside, losses, vocab_size, logits.stride(0),
            IGNORE_INDEX=ignore_index, Z_LOSS=z_loss, HAS_GRADIENT=has_gradient, BLOCK=block, **options,
        )  # fmt: skip
    if has_gradient:
        torch.autograd.graph.increment_version(logits)  # as a write by torch would
    return losses


def _launch(vocab_size: int, arch: str | None = None) -> tuple[int, dict[str, int]]:
    block = min(BLOCK_COLUMNS, triton.next_power_of_2(vocab_size))
    return block, {"num_warps": warps_for(block, N_PER_THREAD, arch, max_warps=MAX_WARPS)}


def builds(vocab_size: int, arch: str = "sm_90") -> list[Build]:
    """List what a bf16 model launches, for `dsllm.kernels.report`."""
    block, options = _launch(vocab_size, arch)
    types = {"logits_ptr": "*bf16", "targets_ptr": "*i64", "losses_ptr": "*fp32", "upstream_ptr": "*fp32"}
    types |= dict.fromkeys(("vocab_size", "row_stride"), "i32:16" if vocab_size % 16 == 0 else "i32")
    fixed: dict[str, Any] = {"IGNORE_INDEX": -100, "BLOCK": block, "HAS_GRADIENT": True}
    cases = {
        f"{vocab_size:,} words": fixed | {"Z_LOSS": 0.0, "upstream_ptr": None},
        f"{vocab_size:,} words, z-loss, weighted": fixed | {"Z_LOSS": 1e-4},
    }
    return [
        Build("cross_entropy in place", case, _kernel, types, constants, options)
        for case, constants in cases.items()
    ]
