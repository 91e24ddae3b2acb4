"""Shares, epochs, and how often each document is taken: arithmetic on sizes."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsllm.config import parse_weights
from dsllm.errors import ConfigError, InputError
from dsllm.stages.remix.config import REST, RemixConfig
from dsllm.text.shingles import fmix64

Keys = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
PICK, SHUFFLE = 1, 2  # what keys are drawn for: draws for one purpose say nothing about the other


def wanted_shares(config: RemixConfig, names: Sequence[str], sizes: Sequence[int]) -> list[float]:
    """Say what share of the output each source shall have, given its size; the shares add up to one.

    Raises:
        ConfigError: a weight for an unknown source, or a source without a weight.
        InputError: a source shall have a share but has no text.
    """
    weights = parse_weights(config.weights, "weights")
    if weights:
        shares = _weighted(weights, names, sizes)
    elif config.temperature is not None:
        largest = max(sizes)
        shares = [(size / largest) ** (1.0 / config.temperature) if size else 0.0 for size in sizes]
    elif config.even:
        shares = [float(size > 0) for size in sizes]
    else:
        shares = [float(size) for size in sizes]
    total = sum(shares)
    return [share / total for share in shares]


def _weighted(weights: dict[str, float], names: Sequence[str], sizes: Sequence[int]) -> list[float]:
    known = ", ".join(names)
    for name in weights:
        if name not in names and name != REST:
            raise ConfigError(f"weights: no source {name!r}", hint=f"the sources are: {known}")
    others = [name for name in names if name not in weights]
    if others and REST not in weights:
        raise ConfigError(
            f"weights: no share for {', '.join(others[:5])}",
            hint=f"give {others[0]}=SHARE (0 drops it), or rest=SHARE for all others together",
        )
    n_rest = sum(n for name, n in zip(names, sizes, strict=True) if name in others)
    shares = []
    for name, n in zip(names, sizes, strict=True):
        share = weights[name] if name in weights else weights[REST] * n / max(1, n_rest)
        if share and not n:
            raise InputError(
                f"source {name!r} has no text, but a weight of {share:g}", hint=f"give {name}=0, or mend it"
            )
        shares.append(share)
    if weights.get(REST) and not n_rest:
        raise ConfigError(
            f"weights: rest={weights[REST]:g}, but every source has its own", hint="leave out rest"
        )
    return shares


def allot(sizes: Sequence[int], shares: Sequence[float], budget: int, max_epochs: float | None) -> list[int]:
    """Divide `budget` by `shares`; returns how much to take from each source, in the unit of `sizes`.

    No source is repeated more than `max_epochs` times: what it lacks is divided among the others by their
    shares, and the output is smaller than the budget when all are at the limit.
    """
    epochs = math.inf if max_epochs is None else max_epochs
    caps = [int(min(budget, size * epochs)) if size else 0 for size in sizes]
    wanted = [0] * len(sizes)
    is_open = [share > 0 for share in shares]
    while any(is_open):
        left = budget - sum(size for size, is_free in zip(wanted, is_open, strict=True) if not is_free)
        total = sum(share for share, is_free in zip(shares, is_open, strict=True) if is_free)
        full = []
        for index, share in enumerate(shares):
            if is_open[index]:
                wanted[index] = round(left * (share / total))
                if wanted[index] > caps[index]:
                    full.append(index)
        if not full:
            break
        for index in full:
            wanted[index], is_open[index] = caps[index], False
    return wanted


def times_taken(
    sizes: NDArray[np.int64], numbers: NDArray[np.int64], wanted: int, seed: int
) -> NDArray[np.int64]:
    """Say how often each document of one source is taken so that their sizes add up to `wanted`.

    Every document is taken floor(epochs) times; a random part of them once more, as many as come nearest to
    what is left.

    Args:
        sizes: of the documents.
        numbers: the documents' numbers in the whole input, which the draw goes by.
        wanted: how much to take.
        seed: of the draw.
    """
    total = int(sizes.sum())
    if total == 0:
        return np.zeros(len(sizes), np.int64)
    epochs, left = divmod(wanted, total)
    times = np.full(len(sizes), epochs, np.int64)
    if left:
        order = np.argsort(draw_keys(seed, PICK, numbers), kind="stable")
        sums = np.concatenate(([0], np.cumsum(sizes[order])))
        end = int(np.searchsorted(sums, left))  # sums[end - 1] < left <= sums[end]
        if left - sums[end - 1] < sums[end] - left:
            end -= 1
        times[order[:end]] += 1
    return times


def draw_keys(
    seed: int, purpose: int, numbers: NDArray[np.int64], epoch: int | NDArray[np.int64] = 0
) -> Keys:
    """Draw a 64-bit key for each document (and epoch): a hash of nothing but the arguments."""
    keys = np.full(len(numbers), seed, np.uint64)
    for part in (purpose, numbers, epoch):
        salt = np.atleast_1d(part).astype(np.uint64) + np.uint64(1)
        keys = fmix64(keys + salt * _GOLDEN)
    return keys
