"""Cross-entropy in place on a CPU with 512-bit vectors, by compiled loops: a row's numbers are read once.

torch goes over them seven times, and over a widened copy of bf16.
"""

from typing import Any

import torch
from torch import Tensor

from dsllm.kernels.threads import count_threads, numbers_of, share_loop

DTYPES = frozenset({torch.float32, torch.bfloat16})
MIN_THREAD_LOGITS = 1 << 16


def overwrite_by_loops(
    logits: Tensor,
    targets: Tensor,
    upstream: Tensor | None,
    *,
    has_gradient: bool,
    z_loss: float,
    ignore_index: int,
) -> Tensor:
    """Turn `logits`, contiguous, of one of DTYPES, into the gradient of their losses; return these, fp32.

    Arguments as `overwrite_with_gradient` has them; targets are words, or ignored.
    """
    from dsllm.kernels.cross_entropy_cpu_compiled import overwrite_rows

    losses = torch.empty(targets.shape, dtype=torch.float32)
    factors = torch.ones_like(losses) if upstream is None else upstream.float().contiguous()
    arguments: list[Any] = [numbers_of(logits), targets.contiguous().numpy(), factors.numpy()]
    arguments += [float(z_loss), ignore_index, has_gradient, losses.numpy()]
    share_loop(overwrite_rows, arguments, count_threads(logits.numel(), MIN_THREAD_LOGITS))
    return losses
