"""What belongs together, compiled: keys of bands and their parts, keys that occur again, numbers tied."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.shingles import Hashes
from dsllm.text.shingles_compiled import fmix64

UNTIED = -1
_BASE = np.uint64(0x9E3779B97F4A7C15)


@compiled
def hash_bands(signatures: NDArray[np.uint32], n_rows: int, keys: NDArray[np.uint64]) -> None:
    """Hash each band of each signature, and its place, into `keys` (n_bands, n_documents)."""
    n_bands, n_documents = keys.shape
    for document in range(n_documents):
        for band in range(n_bands):
            key = np.uint64(0)
            for row in range(band * n_rows, (band + 1) * n_rows):
                key = key * _BASE + np.uint64(signatures[document, row])
            keys[band, document] = fmix64(key + np.uint64(band) * _BASE)


@compiled
def sort_by_part(
    rows: NDArray[np.uint32], parts: NDArray[np.int64], ends: NDArray[np.int64], by_part: NDArray[np.uint32]
) -> None:
    """Copy rows (n_rows, width) part by part, in order; `ends` (n_parts + 1,) gets where the parts end."""
    ends[:] = 0
    for part in parts:
        ends[part + 1] += 1
    for part in range(1, len(ends)):
        ends[part] += ends[part - 1]
    places = ends[:-1].copy()
    for index in range(len(rows)):
        place = places[parts[index]]
        places[parts[index]] += 1
        for word in range(rows.shape[1]):
            by_part[place, word] = rows[index, word]


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
