"""Measure which blocks of the attention kernels are fastest on this GPU, and use them in this process.

Nothing needs this: `attention_launch` ships blocks for every machine.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from dsllm.kernels import attention_triton as kernels
from dsllm.kernels.attention_launch import KERNELS, Kernel, Launch, arch_of, launch_for, use_launch

Measure = Callable[[Callable[[], None]], float]


def tune_attention(
    q: Tensor, k: Tensor, v: Tensor, *, measure: Measure | None = None
) -> dict[Kernel, Launch]:
    """Time candidates for each kernel on causal attention of these tensors, and use the fastest from now on.

    Args:
        q: queries, as `attention` takes them.
        k: keys.
        v: values.
        measure: tells the time of a call; Triton's `do_bench` if None.

    Returns:
        What is used from now on for heads of this size and numbers of this type.
    """
    out, dq = torch.empty_like(q), torch.empty_like(q)
    dk, dv = torch.empty_like(k), torch.empty_like(v)
    log_sum = torch.empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32, device=q.device)
    delta = torch.empty_like(log_sum)
    runs: dict[Kernel, Callable[[Launch], None]] = {
        "forward": partial(kernels.launch_forward, (q, k, v, out, log_sum, None)),
        "backward of queries": partial(
            kernels.launch_backward_query, (q, k, v, out, log_sum, q, dq, delta, None)
        ),
        "backward of keys": partial(
            kernels.launch_backward_key, (q, k, v, log_sum, q, delta, dk, dv, None, None)
        ),
    }
    chosen = {}
    for kernel in KERNELS:
        shipped = launch_for(kernel, arch_of(q), q.shape[3], q.dtype)
        runs[kernel](shipped)  # what the next kernel reads
        times = {launch: _time(runs[kernel], launch, measure) for launch in candidates(shipped)}
        chosen[kernel] = min(times, key=lambda launch: times[launch])
        use_launch(kernel, arch_of(q), q.shape[3], q.dtype, chosen[kernel])
    return chosen


def candidates(shipped: Launch) -> Iterator[Launch]:
    """List the shipped blocks and those about their size."""
    yield shipped
    for block_q, block_k, n_warps, n_stages in itertools.product((64, 128), (32, 64, 128), (4, 8), (1, 2, 3)):
        launch = replace(shipped, block_q=block_q, block_k=block_k, n_warps=n_warps, n_stages=n_stages)
        if launch != shipped and block_q * block_k >= 1024 * n_warps // 2:
            yield launch


def _time(run: Callable[[Launch], None], launch: Launch, measure: Measure | None) -> float:
    try:
        return (measure or _bench)(partial(run, launch))
    except (OutOfResources, CompilationError):  # too large for this GPU
        return float("inf")


def _bench(call: Callable[[], None]) -> float:
    from triton.testing import do_bench

    time_ms: Any = do_bench(call, return_mode="median")
    return float(time_ms)
