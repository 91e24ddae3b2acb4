"""Compiled loops over tensors, on several threads, each of which does its part of the same work."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def count_threads(n_operations: int, least: int) -> int:
    """Say how many of torch's threads to use, each for `least` operations or more."""
    return max(1, min(torch.get_num_threads(), n_operations // least))


def numbers_of(x: torch.Tensor) -> NDArray[Any]:
    """Give a tensor's numbers as the loops take them, of bf16 the bits: see `widen` and `narrow`."""
    is_narrow = x.dtype == torch.bfloat16
    numbers: NDArray[Any] = (x.view(torch.int16) if is_narrow else x).detach().numpy()
    return numbers


def share_loop(loop: Callable[..., None], arguments: Sequence[Any], n_threads: int) -> None:
    """Run a compiled loop on so many threads; its first argument tells it which part is its own."""
    run_threads(lambda number: loop(np.array([number, n_threads]), *arguments), n_threads)


def run_threads(go: Callable[[int], None], n_threads: int) -> None:
    """Call `go` with the numbers of all threads, this one's 0; returns when the last one is done.

    The others are daemons: if this thread is interrupted before it joins them, and they wait for it, the
    program ends all the same.

    Raises:
        Exception: what one of them raised.
    """
    failures: list[Exception] = []

    def try_to(number: int) -> None:
        try:
            go(number)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=try_to, args=(number,), daemon=True) for number in range(1, n_threads)]
    for thread in threads:
        thread.start()
    go(0)
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
