"""The pairs of a training, their counts, and the queue of those to merge, compiled.

A table has a pair with the number of its entries, and its count. An entry is a pair, its count when the entry
was made or last looked at, and a slice of the positions where the pair was then. The heap has the entries of
the larger counts; the others wait until it is empty.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.vector import prefetch

Int64s = NDArray[np.int64]

# What is remembered between calls.
N_IDS, N_ENTRIES, N_POSITIONS, N_HEAP, LEAST_IN_HEAP, N_PAIRS, N_REPEATED, N_STATE = range(8)
PAIR, COUNT, START, SIZE = range(4)  # of an entry
_FACTOR, _SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@compiled
def _slot_of(table, pair):
    mixed = np.uint64(pair) * _FACTOR
    mixed ^= mixed >> np.uint64(32)
    return np.int64(mixed * _SPREAD >> np.uint64(16) & np.uint64(len(table) - 1))


@compiled
def prefetch_pair(table, pair):
    """Ask for the slot of a pair before it is needed."""
    prefetch(table.reshape(table.size), 2 * _slot_of(table, pair))


@compiled
def find_pair(table, pair):
    """Give the slot of a pair, -1 where it is not there."""
    slot, mask = _slot_of(table, pair), len(table) - 1
    while table[slot, 0] != 0:
        if table[slot, 0] >> 2 == pair:
            return slot
        slot = (slot + 1) & mask
    return -1


@compiled
def find_or_add(table, pair, count, state):
    """Add to the count of a pair; returns its slot."""
    slot, mask = _slot_of(table, pair), len(table) - 1
    while table[slot, 0] != 0:
        if table[slot, 0] >> 2 == pair:
            table[slot, 1] += count
            return slot
        slot = (slot + 1) & mask
    table[slot, 0], table[slot, 1] = pair << 2 | 1, count
    state[N_PAIRS] += 1
    return slot


@compiled
def move_table(table: Int64s, larger: Int64s) -> None:
    """Put all pairs into another table."""
    mask = len(larger) - 1
    for index in range(len(table)):
        if table[index, 0] != 0:
            slot = _slot_of(larger, table[index, 0] >> 2)
            while larger[slot, 0] != 0:
                slot = (slot + 1) & mask
            larger[slot, 0], larger[slot, 1] = table[index, 0], table[index, 1]


@compiled
def drop_rare_pairs(entries: Int64s, heap: Int64s, table: Int64s, least: int, state: Int64s) -> int:
    """Forget the pairs that are merged, and those that occur less than `least` times.

    Returns:
        The number of entries of the latter that still occurred.
    """
    n_kept = n_forgotten = 0
    kept = np.empty((state[N_ENTRIES], 2), np.int64)
    for entry in range(state[N_ENTRIES]):
        if entries[entry, SIZE]:
            slot = find_pair(table, entries[entry, PAIR])
            if table[slot, 1] >= least:
                kept[n_kept, 0], kept[n_kept, 1] = table[slot, 0], table[slot, 1]
                for column in range(4):
                    entries[n_kept, column] = entries[entry, column]
                n_kept += 1
            elif table[slot, 1] > 0:
                n_forgotten += 1
    table[:] = 0
    state[N_PAIRS] = state[N_HEAP] = 0
    state[N_ENTRIES] = n_kept
    for entry in range(n_kept):
        slot = find_or_add(table, entries[entry, PAIR], 0, state)
        table[slot, 0], table[slot, 1] = kept[entry, 0], kept[entry, 1]
        if entries[entry, COUNT] >= state[LEAST_IN_HEAP]:
            push_entry(heap, entries[entry, COUNT], entries[entry, PAIR], entry, state)
    return n_forgotten


@compiled
def add_entry(table, slot, entries, start, n_places, state):
    """Make an entry; the table tells pairs without one, with one, and with more: 1, 2 and 3."""
    if table[slot, 0] & 3 < 3:
        table[slot, 0] += 1
        state[N_REPEATED] += table[slot, 0] & 3 == 3
    entry = state[N_ENTRIES]
    entries[entry, PAIR], entries[entry, COUNT] = table[slot, 0] >> 2, table[slot, 1]
    entries[entry, START], entries[entry, SIZE] = start, n_places
    state[N_ENTRIES] += 1
    return entry


@compiled
def fill_heap(entries, heap, table, min_frequency, state):
    """Take the next entries into the empty heap: half as frequent as before, or less; says whether any."""
    above, frequent = state[LEAST_IN_HEAP], max(1, min_frequency)
    largest = np.int64(0)
    for entry in range(state[N_ENTRIES]):
        if entries[entry, COUNT] < above and entries[entry, SIZE]:
            largest = max(largest, entries[entry, COUNT])
    least = max(frequent, largest >> 1)
    if largest < frequent:
        if not _is_any_raised(entries, table, frequent, state):
            return False
        least = 0
    state[LEAST_IN_HEAP] = least
    for entry in range(state[N_ENTRIES]):
        count = entries[entry, COUNT]
        if least <= count < above and entries[entry, SIZE]:
            push_entry(heap, count, entries[entry, PAIR], entry, state)
    return True


@compiled
def _is_any_raised(entries, table, frequent, state):
    """Say whether a pair has become frequent since its entry was last looked at, by a later entry."""
    if state[N_REPEATED]:
        for entry in range(state[N_ENTRIES]):
            is_waiting = entries[entry, SIZE] and entries[entry, COUNT] < frequent
            if is_waiting and table[find_pair(table, entries[entry, PAIR]), 1] >= frequent:
                return True
    return False


@compiled
def _is_before(heap, place, count, pair):
    return heap[place, 0] > count or (heap[place, 0] == count and heap[place, 1] <= pair)


@compiled
def push_entry(heap, count, pair, entry, state):
    """Put an entry into the heap: the largest count comes first, then the lowest pair."""
    place = state[N_HEAP]
    state[N_HEAP] += 1
    while place:
        parent = (place - 1) >> 2
        if _is_before(heap, parent, count, pair):
            break
        heap[place, 0], heap[place, 1], heap[place, 2] = heap[parent, 0], heap[parent, 1], heap[parent, 2]
        place = parent
    heap[place, 0], heap[place, 1], heap[place, 2] = count, pair, entry


@compiled
def pop_entry(heap, state):
    """Take the first away."""
    last = state[N_HEAP] - 1
    state[N_HEAP] = last
    count, pair, entry = heap[last, 0], heap[last, 1], heap[last, 2]
    place = np.int64(0)
    while True:
        child = 4 * place + 1
        if child >= last:
            break
        best = np.int64(child)
        for other in range(child + 1, min(child + 4, last)):
            if not _is_before(heap, best, heap[other, 0], heap[other, 1]):
                best = np.int64(other)
        if not _is_before(heap, best, count, pair):
            break
        heap[place, 0], heap[place, 1], heap[place, 2] = heap[best, 0], heap[best, 1], heap[best, 2]
        place = best
    heap[place, 0], heap[place, 1], heap[place, 2] = count, pair, entry
