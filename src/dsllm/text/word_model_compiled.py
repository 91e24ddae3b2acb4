"""The loops of `word_model.py`, compiled: runs of words are counted in a hash table, and words predicted."""

import math

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.shingles_compiled import fmix64

Hashes = NDArray[np.uint64]

# A slot: the hash of a run, 0 for a free one; how often it was met; of a context, its different followers.
SLOT_WORDS = 3
_KEY, _COUNT, _FOLLOWERS = range(3)
N_ORDERS = 3
# What is known of the whole, by place: words, different ones, slots in use.
N_TOTALS = 3
_WORDS, _DIFFERENT, _USED = range(3)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_START = np.uint64(0x5851F42D4C957F2D)  # stands for the words before the first
_LEAST = np.uint64(1)


@compiled
def count_runs(
    hashes: Hashes, ends: NDArray[np.int64], first: int, table: Hashes, totals: NDArray[np.int64]
) -> int:
    """Count words, and each after the one and the two before it, in texts from `first` on.

    Stops before a text that might fill more than half of `table` (a power of two, SLOT_WORDS): returns its
    number.
    """
    start = ends[first - 1] if first else 0
    for text in range(first, len(ends)):
        if 2 * (totals[_USED] + 5 * (ends[text] - start)) > len(table):
            return text
        before, last = _START, _START
        for place in range(start, ends[text]):
            word = hashes[place]
            context = np.uint64(0)
            for order in range(N_ORDERS):
                context = _context(context, order, before, last)
                slot = _find_slot(table, _add(context, word))
                is_new = table[slot, _COUNT] == 0
                _meet(table, slot, _add(context, word), totals)
                if order == 0:
                    totals[_WORDS] += 1
                    totals[_DIFFERENT] += is_new
                else:
                    slot = _find_slot(table, context)
                    _meet(table, slot, context, totals)
                    table[slot, _FOLLOWERS] += np.uint64(is_new)
            before, last = last, word
        start = ends[text]
    return len(ends)


@compiled
def sum_log_probabilities(
    hashes: Hashes,
    ends: NDArray[np.int64],
    table: Hashes,
    totals: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    """Add up the natural logarithms of the probabilities of the words of each text."""
    n_words, n_different = float(totals[_WORDS]), float(totals[_DIFFERENT])
    start = 0
    for text in range(len(ends)):
        before, last = _START, _START
        for place in range(start, ends[text]):
            word = hashes[place]
            context = np.uint64(0)
            probability = 1 / (n_different + 1)
            for order in range(N_ORDERS):
                context = _context(context, order, before, last)
                n_met, n_followers = n_words, n_different
                if order > 0:
                    slot = _find_slot(table, context)
                    n_met, n_followers = float(table[slot, _COUNT]), float(table[slot, _FOLLOWERS])
                if n_met > 0:
                    count = float(table[_find_slot(table, _add(context, word)), _COUNT])
                    probability = (count + n_followers * probability) / (n_met + n_followers)
            sums[text] += math.log(probability)
            before, last = last, word
        start = ends[text]


@compiled
def copy_slots(table: Hashes, larger: Hashes) -> None:
    """Put the slots in use into a larger table."""
    for slot in range(len(table)):
        if table[slot, _KEY] != 0:
            place = _find_slot(larger, table[slot, _KEY])
            for index in range(SLOT_WORDS):
                larger[place, index] = table[slot, index]


@compiled
def _context(context, order, before, last):
    """Hash what is before a word: nothing, the last word, the two last words."""
    if order == 0:
        return np.uint64(0)
    if order == 1:
        return _add(np.uint64(1), last)
    return _add(_add(np.uint64(2), before), last)


@compiled
def _add(key, word):
    return max(fmix64(key * _STEP + word), _LEAST)


@compiled
def _meet(table, slot, key, totals):
    totals[_USED] += table[slot, _KEY] == 0
    table[slot, _KEY] = key
    table[slot, _COUNT] += _LEAST


@compiled
def _find_slot(table, key):
    """Find the slot of a run, or a free one for it."""
    mask = len(table) - 1
    slot = np.int64(key & np.uint64(mask))
    while table[slot, _KEY] != 0 and table[slot, _KEY] != key:
        slot = (slot + 1) & mask
    return slot
