"""The loops of `cross_entropy_cpu.py`, compiled: a row at a time, widened in a room that stays near."""

import numpy as np
from numpy.typing import NDArray

from dsllm.kernels.exponential_compiled import exponential
from dsllm.kernels.share_compiled import part_of
from dsllm.text.compiled import compiled
from dsllm.text.vector_floats import BLOCK, greatest_of, narrow, sum_of_products, widen

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_N_SUMMED = 64  # blocks that are added up in fp32
_LOWEST, _LEAST = np.float32(-3e38), np.float32(-87)
_ZERO = np.float32(0)


@compiled
def overwrite_rows(
    share: Integers,
    logits: NDArray[np.float32] | NDArray[np.int16],
    targets: Integers,
    upstream: Floats,
    z_loss: float,
    ignore_index: int,
    has_gradient: bool,
    losses: Floats,
) -> None:
    """Turn rows of logits, (n, vocab_size), into their gradients; write the losses, (n,).

    logits: float32, or the bits of bf16; without gradients they stay. upstream: (n,), what the gradients are
    multiplied with.
    """
    room, ones = _make_room(logits.shape[1])
    first, last = part_of(share, len(targets))
    for number in range(first, last):
        own, row = logits[number], room[: logits.shape[1]]
        if targets[number] == ignore_index:
            losses[number] = 0
            own[:] = 0
            continue
        for word in range(len(row)):
            row[word] = widen(own[word])
        room[len(row) :] = _LOWEST
        losses[number], factor = _soften(room, ones, targets[number], np.float32(z_loss))
        if has_gradient:
            factor *= upstream[number]
            for word in range(len(row)):
                own[word] = narrow(row[word] * factor, own[word])
            wanted = targets[number]
            own[wanted] = narrow(row[wanted] * factor - upstream[number], own[wanted])


@compiled
def _make_room(vocab_size):
    """Make room for a row in whole blocks; give it, and ones for a sum."""
    n_padded = (vocab_size + BLOCK - 1) // BLOCK * BLOCK
    return np.empty(n_padded, np.float32), np.ones(_N_SUMMED * BLOCK, np.float32)


@compiled
def _soften(row, ones, target, z_loss):
    """Turn a row's logits into softmax's numerators; returns the loss and what they are multiplied with."""
    n_blocks = len(row) // BLOCK
    most = greatest_of(row, 0, n_blocks)
    wanted = row[target] - most
    for word in range(len(row)):
        row[word] = _weigh(row[word] - most)
    total = 0.0
    for block in range(0, n_blocks, _N_SUMMED):
        total += sum_of_products(row, block * BLOCK, ones, 0, min(_N_SUMMED, n_blocks - block))
    log_total = np.log(total)
    log_sum = log_total + most
    loss = log_total - wanted + z_loss * log_sum * log_sum
    return np.float32(loss), np.float32((1 + 2 * z_loss * log_sum) / total)


@compiled
def _weigh(x):
    """Compute e**x, and nothing where that is no normal number, as of words that are ruled out."""
    return _ZERO if x < _LEAST else exponential(x)
