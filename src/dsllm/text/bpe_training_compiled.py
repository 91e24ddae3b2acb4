"""The loops of `bpe_training.py`, compiled.

A pair is merged at all places of its entry in the queue, and each pair that comes of it gets an entry.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.bpe_symbols_compiled import (
    BOUNDARY,
    ID_BITS,
    INSIDE,
    Int64s,
    Symbols,
    all_places,
    put_word,
)
from dsllm.text.compiled import compiled
from dsllm.text.pair_queue_compiled import (
    COUNT,
    LEAST_IN_HEAP,
    N_ENTRIES,
    N_HEAP,
    N_IDS,
    N_PAIRS,
    N_POSITIONS,
    SIZE,
    START,
    add_entry,
    fill_heap,
    find_or_add,
    find_pair,
    pop_entry,
    prefetch_pair,
    push_entry,
)
from dsllm.text.vector import prefetch

_ID_MASK = (1 << ID_BITS) - 1
VOCAB_SIZE, MIN_FREQUENCY, MAX_LENGTH = range(3)
MERGED, FINISHED, NEEDS_ROOM = range(3)
_LEFT, _RIGHT = 0, 3
_SUM, _N, _CURSOR = range(3)  # of each neighbour, on its side
N_SUMS = 8
_TOKEN, _SLOT, _START, _N_PLACES = range(4)  # of each different neighbour
N_CHANGES = 4
_AHEAD = 12  # positions: about what memory takes


@compiled
def merge_pairs(
    data: NDArray[np.uint8],
    symbols: Symbols,
    class_starts: Int64s,
    class_weights: Int64s,
    token_sizes: Int64s,
    token_places: Int64s,
    words: Int64s,
    positions: Symbols,
    entries: Int64s,
    heap: Int64s,
    table: Int64s,
    sums: Int64s,
    neighbours: Symbols,
    changed: Int64s,
    limits: Int64s,
    state: Int64s,
    merges: Int64s,
) -> tuple[int, int]:
    """Merge the commonest pairs until `merges` (n, 3) is full: left, right and the id of both together.

    The arrays: `data` and `symbols` of all pieces, those of equal count next to each other; `class_starts`
    and `class_weights`, where the pieces of each count begin, and that count; `token_sizes` and
    `token_places`, of each token its bytes and a place in `data` where they are; `words`, a hash table of the
    tokens by their bytes; `positions`, of which each entry has a slice in ascending order; `entries` (n, 4),
    SIZE 0 where it was merged; `heap` (n, 3) of count, pair and entry, for counts from state[LEAST_IN_HEAP]
    on; `table` (n_slots, 2). `sums` (n_ids, N_SUMS) are zeros; `neighbours` (4, n_slots) and `changed`
    (2 * n_ids, N_CHANGES) mean nothing.

    Returns:
        The number of merges, and MERGED, FINISHED or NEEDS_ROOM in `table`.
    """
    n_merges = 0
    while n_merges < len(merges):
        if state[N_IDS] >= limits[VOCAB_SIZE]:
            return n_merges, FINISHED
        if state[N_HEAP] == 0 and not fill_heap(entries, heap, table, limits[MIN_FREQUENCY], state):
            return n_merges, FINISHED
        count, pair, entry = heap[0, 0], heap[0, 1], heap[0, 2]
        slot = find_pair(table, pair)
        if count != table[slot, 1]:
            pop_entry(heap, state)
            entries[entry, COUNT] = table[slot, 1]
            if table[slot, 1] >= state[LEAST_IN_HEAP]:
                push_entry(heap, table[slot, 1], pair, entry, state)
            continue
        if count < 1 or count < limits[MIN_FREQUENCY]:
            return n_merges, FINISHED
        n_new = 2 * min(state[N_IDS] + 1, entries[entry, SIZE])
        if 5 * (state[N_PAIRS] + n_new) > 3 * len(table) or state[N_ENTRIES] + n_new > len(entries):
            return n_merges, NEEDS_ROOM
        pop_entry(heap, state)
        left, right = pair >> ID_BITS, pair & _ID_MASK
        start = entries[entry, START]
        places = positions[start : start + entries[entry, SIZE]]
        if table[slot, 0] & 3 == 3:
            places = all_places(symbols, token_sizes, places, left, right)
        new = state[N_IDS]
        token_sizes[new] = token_sizes[left] + token_sizes[right]
        token_places[new] = positions[start]
        merged = put_word(new, data, token_sizes, token_places, words)
        state[N_IDS] += merged == new
        entries[entry, SIZE] = 0
        merges[n_merges, 0], merges[n_merges, 1], merges[n_merges, 2] = left, right, merged
        n_merges += 1
        _merge(
            symbols, class_starts, class_weights, token_sizes, places, left, right, merged, positions,
            entries, heap, table, sums, neighbours, changed, limits, state,
        )  # fmt: skip
    return n_merges, MERGED


@compiled
def _merge(
    symbols, class_starts, class_weights, token_sizes, places, left, right, merged, positions, entries, heap,
    table, sums, neighbours, changed, limits, state,
):  # fmt: skip
    """Merge a pair at its places, count the pairs that come and go, and make entries of those that come."""
    n_left, n_right, on_left, on_right = _replace(
        symbols, class_starts, class_weights, token_sizes, places, left, right, merged, sums, neighbours,
        changed,
    )  # fmt: skip
    half = len(changed) >> 1
    longest = limits[MAX_LENGTH] - token_sizes[left] - token_sizes[right]
    for row in range(on_left):
        token = changed[row, _TOKEN]
        prefetch_pair(table, token << ID_BITS | left)
        prefetch_pair(table, token << ID_BITS | merged)
    for row in range(half, half + on_right):
        token = changed[row, _TOKEN]
        prefetch_pair(table, right << ID_BITS | token)
        prefetch_pair(table, merged << ID_BITS | token)
    for row in range(on_left):
        token = changed[row, _TOKEN]
        pair = token << ID_BITS | merged if token_sizes[token] < longest else -1
        _put_on(table, pair, sums[token, _LEFT:], changed[row], state)
    for row in range(half, half + on_right):
        token = changed[row, _TOKEN]
        pair = merged << ID_BITS | token if token_sizes[token] < longest else -1
        _put_on(table, pair, sums[token, _RIGHT:], changed[row], state)
    for row in range(on_left):  # after all that come: one may come and go
        token = changed[row, _TOKEN]
        _take_off(table, token << ID_BITS | left, sums[token, _LEFT:])
    for row in range(half, half + on_right):
        token = changed[row, _TOKEN]
        _take_off(table, right << ID_BITS | token, sums[token, _RIGHT:])
    _place(neighbours[0, :n_left], neighbours[1, :n_left], sums, _LEFT + _CURSOR, positions)
    _place(neighbours[2, :n_right], neighbours[3, :n_right], sums, _RIGHT + _CURSOR, positions)
    _join_sides(changed, on_left, half, half + on_right, merged, positions, state)
    for row in range(on_left):
        _announce(changed[row], entries, heap, table, state)
    for row in range(half, half + on_right):
        _announce(changed[row], entries, heap, table, state)


@compiled
def _replace(
    symbols, class_starts, class_weights, token_sizes, places, left, right, merged, sums, neighbours, changed
):
    """Write the merged token at the places; notes the neighbours of each, and adds up how often each is one.

    Returns the numbers of neighbours on the left and on the right, and of different ones, in `changed`.
    """
    n_left, n_right, on_left, on_right = 0, 0, 0, len(changed) >> 1
    left_size, size = token_sizes[left], token_sizes[left] + token_sizes[right]
    at = 0
    for index in range(len(places)):
        if index + _AHEAD < len(places):
            prefetch(symbols, np.int64(places[index + _AHEAD]))
        place = np.int64(places[index])
        if symbols[place] != left or symbols[place + left_size] != right:
            continue
        end = place + size
        if place >= class_starts[at + 1]:
            at = _class_of(class_starts, place, at)
        weight = class_weights[at]
        before, behind = symbols[place - 1], symbols[end]
        if before != BOUNDARY:
            if sums[before, _LEFT + _N] == 0:
                changed[on_left, _TOKEN] = before
                on_left += 1
            neighbours[0, n_left], neighbours[1, n_left] = before, place - token_sizes[before]
            n_left += 1
            sums[before, _LEFT + _SUM] += weight
            sums[before, _LEFT + _N] += 1
        if behind != BOUNDARY:
            if sums[behind, _RIGHT + _N] == 0:
                changed[on_right, _TOKEN] = behind
                on_right += 1
            neighbours[2, n_right], neighbours[3, n_right] = behind, place
            n_right += 1
            sums[behind, _RIGHT + _SUM] += weight
            sums[behind, _RIGHT + _N] += 1
        symbols[place + left_size] = INSIDE
        symbols[place], symbols[end - 1] = merged, merged
    return n_left, n_right, on_left, on_right - (len(changed) >> 1)


@compiled
def _put_on(table, pair, side, change, state):
    """Count a pair that comes, and keep a slice of the positions for it; -1 is one that may not be."""
    change[_SLOT], change[_N_PLACES] = -1, side[_N]
    side[_N], side[_CURSOR] = 0, -1
    if pair >= 0:
        change[_SLOT] = find_or_add(table, pair, side[_SUM], state)
        change[_START] = side[_CURSOR] = state[N_POSITIONS]
        state[N_POSITIONS] += change[_N_PLACES]


@compiled
def _take_off(table, pair, side):
    """Count a pair that goes; one that was never let in is not there."""
    slot = find_pair(table, pair)
    if slot >= 0:
        table[slot, 1] -= side[_SUM]
    side[_SUM] = 0


@compiled
def _place(tokens, places, sums, column, positions):
    """Write the places into the slices of their tokens."""
    for index in range(len(tokens)):
        cursor = sums[tokens[index], column]
        if cursor >= 0:
            positions[cursor] = places[index]
            sums[tokens[index], column] = cursor + 1


@compiled
def _join_sides(changed, on_left, right_from, right_to, merged, positions, state):
    """Make one of the two slices of a pair of two merged tokens, of which either may be the new one."""
    for row in range(on_left):
        if changed[row, _TOKEN] == merged and changed[row, _SLOT] >= 0:
            for other in range(right_from, right_to):
                if changed[other, _TOKEN] == merged:
                    _sort(
                        positions, changed[row, _START], changed[row, _N_PLACES], changed[other, _START],
                        changed[other, _N_PLACES], state,
                    )  # fmt: skip
                    changed[row, _START] = state[N_POSITIONS]
                    changed[row, _N_PLACES] += changed[other, _N_PLACES]
                    state[N_POSITIONS] += changed[row, _N_PLACES]
                    changed[other, _SLOT] = -1


@compiled
def _announce(change, entries, heap, table, state):
    """Make the entry of a pair that has come, where it is still there."""
    slot = change[_SLOT]
    if slot >= 0 and table[slot, 1] > 0:
        entry = add_entry(table, slot, entries, change[_START], change[_N_PLACES], state)
        if table[slot, 1] >= state[LEAST_IN_HEAP]:
            push_entry(heap, table[slot, 1], table[slot, 0] >> 2, entry, state)


@compiled
def _sort(positions, one, n_one, other, n_other, state):
    """Write two sorted slices as one behind all others."""
    end_one, end_other = one + n_one, other + n_other
    for target in range(state[N_POSITIONS], state[N_POSITIONS] + n_one + n_other):
        if other == end_other or (one < end_one and positions[one] < positions[other]):
            positions[target] = positions[one]
            one += 1
        else:
            positions[target] = positions[other]
            other += 1


@compiled
def _class_of(class_starts, place, at):
    """Find the class of pieces of equal count that a place is in, from the one of an earlier place on."""
    step = 1
    low, high = at, at + 1
    last = len(class_starts) - 1
    while high < last and class_starts[high] <= place:
        low = high
        high = min(last, high + step)
        step *= 2
    while high - low > 1:
        middle = (low + high) >> 1
        if class_starts[middle] <= place:
            low = middle
        else:
            high = middle
    return low
