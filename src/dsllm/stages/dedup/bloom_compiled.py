"""A Bloom filter's loops, compiled: documents are looked up in order, and those that stay are inserted."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.shingles import Hashes
from dsllm.text.shingles_compiled import fmix64

STAYS = -1
_STEP = np.uint64(0x9E3779B97F4A7C15)


@compiled
def sift(
    bits: Hashes, n_probes: int, keys: Hashes, n_used: NDArray[np.int64], hits: NDArray[np.int64]
) -> int:
    """Look up documents, one after the other; returns how many bits were set.

    Args:
        bits: the filter, 64 bits a word.
        n_probes: bits of a key.
        keys: (n_documents, n_keys).
        n_used: how many of its keys each document has.
        hits: is given the place of each document's first key that is in the filter, STAYS where none is.
            The keys of a document that stays are inserted, all of them after all were looked up.
    """
    n_set = 0
    for document in range(len(keys)):
        hits[document] = STAYS
        for place in range(n_used[document]):
            if _is_in(bits, n_probes, keys[document, place]):
                hits[document] = place
                break
        if hits[document] == STAYS:
            for place in range(n_used[document]):
                n_set += _insert(bits, n_probes, keys[document, place])
    return n_set


@compiled
def _is_in(bits, n_probes, key):
    for probe in range(n_probes):
        place = _place(bits, key, probe)
        if not (bits[place >> np.uint64(6)] >> (place & np.uint64(63))) & np.uint64(1):
            return False
    return True


@compiled
def _insert(bits, n_probes, key):
    n_set = 0
    for probe in range(n_probes):
        place = _place(bits, key, probe)
        word = bits[place >> np.uint64(6)]
        changed = word | (np.uint64(1) << (place & np.uint64(63)))
        bits[place >> np.uint64(6)] = changed
        n_set += changed != word
    return n_set


@compiled
def _place(bits, key, probe):
    """Hash a key and the number of the probe to a bit."""
    return fmix64(key + np.uint64(probe + 1) * _STEP) % np.uint64(64 * len(bits))
