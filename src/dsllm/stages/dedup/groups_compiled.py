"""What belongs together, compiled: keys that occur again, and numbers that are tied."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.shingles import Hashes

UNTIED = -1


@compiled
def mark_seen(keys: Hashes, seen: NDArray[np.uint8]) -> None:
    """Count keys by their slot of `seen` (uint8, zeros at first, a power of two long), up to two."""
    mask = np.uint64(len(seen) - 1)
    for key in keys:
        place = key & mask
        seen[place] = min(seen[place] + 1, 2)


@compiled
def select_repeated(keys: Hashes, seen: NDArray[np.uint8], repeated: NDArray[np.int64]) -> int:
    """Write the places of keys whose slot of `seen` was met more than once; returns their number."""
    mask = np.uint64(len(seen) - 1)
    n_repeated = 0
    for index in range(len(keys)):
        if seen[keys[index] & mask] > 1:
            repeated[n_repeated] = index
            n_repeated += 1
    return n_repeated


@compiled
def join(parents: NDArray[np.int64], ties: NDArray[np.int64]) -> None:
    """Join both ends of each tie, (n_ties, 2); a root is the least of its numbers."""
    for index in range(len(ties)):
        a, b = ties[index, 0], ties[index, 1]
        if parents[a] == UNTIED:
            parents[a] = a
        if parents[b] == UNTIED:
            parents[b] = b
        a, b = _root(parents, a), _root(parents, b)
        parents[max(a, b)] = min(a, b)


@compiled
def _root(parents, number):
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number


@compiled
def flatten(parents: NDArray[np.int64]) -> None:
    """Put each number's root in its place."""
    for number in range(len(parents)):  # a parent is never after its child
        if parents[number] != UNTIED:
            parents[number] = parents[parents[number]]
