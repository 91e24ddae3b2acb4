"""The merges and words of a tokenizer as tables, compiled for `bpe.py`."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.vector import load_word

Ids = NDArray[np.uint32]

NO_RANK = np.uint32(0xFFFFFFFF)
ID_BITS, RANK_BITS = 20, 24  # of a slot of the table of pairs
PAIR_BITS = 21
N_PAIR_WORDS = 1 << PAIR_BITS - 6
FACTOR = np.uint64(0x9E3779B97F4A7C15)
PAIR_FACTOR = np.uint64(0xD6E8FEB86659FD93)
HEAD_MASKS = np.array([(1 << 8 * n_bytes) - 1 for n_bytes in range(9)], np.uint64)
MAX_SHORT = 96  # bytes: longer pieces are merged through a heap


@compiled
def put_pairs(lefts: Ids, rights: Ids, table: NDArray[np.uint64], is_there: NDArray[np.uint64]) -> None:
    """Fill a table of pairs: left, right and the place of their merge in one word each, 0 for a free slot.

    Of equal pairs the last counts, as in a map. `is_there` gets a bit for each pair, by a hash: most pairs
    that are looked up have no merge, and its bits stay in the cache.
    """
    mask = np.uint64(len(table) - 1)
    for rank in range(len(lefts)):
        pair = np.uint64(lefts[rank]) << np.uint64(ID_BITS) | np.uint64(rights[rank])
        mixed = _mix_pair(pair)
        slot = mixed & mask
        while table[slot] != 0 and table[slot] >> np.uint64(RANK_BITS) != pair:
            slot = (slot + np.uint64(1)) & mask
        table[slot] = pair << np.uint64(RANK_BITS) | np.uint64(rank + 1)
        set_bit(is_there, mixed >> np.uint64(64 - PAIR_BITS))


@compiled
def put_words(data: NDArray[np.uint8], ends: NDArray[np.int64], slots: NDArray[np.uint32]) -> None:
    """Fill a table of words by a hash of their bytes: 1 + the place of each among all, 0 for a free slot."""
    mask = np.uint64(len(slots) - 1)
    start = 0
    for word in range(len(ends)):
        slot = _hash_bytes(data, start, ends[word] - start) & mask
        while slots[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = word + 1
        start = ends[word]


@compiled
def find_word(data, start, n_bytes, words):
    """Find a word in the table of `put_words`; its place, or -1."""
    word_data, word_ends, slots = words
    mask = np.uint64(len(slots) - 1)
    slot = _hash_bytes(data, start, n_bytes) & mask
    while slots[slot] != 0:
        word = np.int64(slots[slot]) - 1
        first = word_ends[word - 1] if word else 0
        if word_ends[word] - first == n_bytes:
            n_equal = 0
            while n_equal < n_bytes and word_data[first + n_equal] == data[start + n_equal]:
                n_equal += 1
            if n_equal == n_bytes:
                return word
        slot = (slot + np.uint64(1)) & mask
    return -1


@compiled
def _hash_bytes(data, start, n_bytes):
    mixed = np.uint64(n_bytes)
    for index in range(0, n_bytes, 8):
        mixed = (mixed ^ load_word(data, start + index) & HEAD_MASKS[min(n_bytes - index, 8)]) * FACTOR
        mixed ^= mixed >> np.uint64(32)
    return mixed


@compiled
def find_rank(left, right, table, is_there):
    """Find the place of the merge of two ids among all, NO_RANK if there is none."""
    pair = np.uint64(left) << np.uint64(ID_BITS) | np.uint64(right)
    mixed = _mix_pair(pair)
    if not has_bit(is_there, mixed >> np.uint64(64 - PAIR_BITS)):
        return NO_RANK
    mask = np.uint64(len(table) - 1)
    slot = mixed & mask
    while table[slot] != 0:
        if table[slot] >> np.uint64(RANK_BITS) == pair:
            return np.uint32((table[slot] & np.uint64((1 << RANK_BITS) - 1)) - np.uint64(1))
        slot = (slot + np.uint64(1)) & mask
    return NO_RANK


@compiled
def _mix_pair(pair):
    mixed = pair * FACTOR
    mixed ^= mixed >> np.uint64(32)
    return (mixed * PAIR_FACTOR) ^ mixed


@compiled
def set_bit(bits, place):
    """Set a bit, 64 to a word."""
    bits[place >> np.uint64(6)] |= np.uint64(1) << (place & np.uint64(63))


@compiled
def has_bit(bits, place):
    """Tell whether a bit is set."""
    return bits[place >> np.uint64(6)] >> (place & np.uint64(63)) & np.uint64(1) != 0
