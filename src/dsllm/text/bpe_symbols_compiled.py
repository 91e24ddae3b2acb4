"""The pieces of a training as an array of symbols, compiled.

All pieces lie in one array, a slot a byte and a BOUNDARY between two. A token stands in its first and in its
last slot, so that both neighbours of a token are found from its place and its size.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.pair_queue_compiled import LEAST_IN_HEAP, N_POSITIONS, add_entry, find_or_add

Int64s = NDArray[np.int64]
Symbols = NDArray[np.uint32]

BOUNDARY, INSIDE = np.uint32(0xFFFFFFFF), np.uint32(0xFFFFFFFE)
ID_BITS = 24
_FACTOR, _SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)


@compiled
def lay_out(
    pieces: NDArray[np.uint8],
    starts: Int64s,
    sizes: Int64s,
    order: Int64s,
    byte_ids: Symbols,
    data: NDArray[np.uint8],
    symbols: Symbols,
) -> None:
    """Write the pieces in an order into `data` and `symbols`, each behind a boundary."""
    place = 0
    for index in range(len(order)):
        piece = order[index]
        data[place], symbols[place] = 0, BOUNDARY
        place += 1
        first = starts[piece]
        for inner in range(sizes[piece]):
            byte = pieces[first + inner]
            data[place], symbols[place] = byte, byte_ids[byte]
            place += 1
    data[place], symbols[place] = 0, BOUNDARY


@compiled
def find_first_pairs(
    symbols: Symbols,
    class_starts: Int64s,
    class_weights: Int64s,
    n_bytes: int,
    positions: Symbols,
    entries: Int64s,
    table: Int64s,
    state: Int64s,
) -> None:
    """Make the entries of all pairs of bytes; `n_bytes` is the number of ids so far."""
    counts, cursors = np.zeros(n_bytes * n_bytes, np.int64), np.zeros(n_bytes * n_bytes + 1, np.int64)
    for at in range(len(class_weights)):
        for place in range(class_starts[at], class_starts[at + 1] - 1):
            if symbols[place] != BOUNDARY and symbols[place + 1] != BOUNDARY:
                pair = np.int64(symbols[place]) * n_bytes + symbols[place + 1]
                counts[pair] += class_weights[at]
                cursors[pair + 1] += 1
    for pair in range(len(counts)):
        n_places = cursors[pair + 1]
        if n_places:
            key = (pair // n_bytes) << ID_BITS | pair % n_bytes
            slot = find_or_add(table, key, counts[pair], state)
            add_entry(table, slot, entries, cursors[pair], n_places, state)
        cursors[pair + 1] += cursors[pair]
    state[N_POSITIONS] = cursors[len(counts)]
    for place in range(class_starts[len(class_weights)] - 1):
        if symbols[place] != BOUNDARY and symbols[place + 1] != BOUNDARY:
            pair = np.int64(symbols[place]) * n_bytes + symbols[place + 1]
            positions[cursors[pair]] = place
            cursors[pair] += 1
    state[LEAST_IN_HEAP] = np.int64(1) << np.int64(62)


@compiled
def put_word(
    token: int, data: NDArray[np.uint8], token_sizes: Int64s, token_places: Int64s, words: Int64s
) -> int:
    """Look a token's bytes up among the words; returns the id they have, its own where they are new."""
    size, place = token_sizes[token], token_places[token]
    mixed = np.uint64(size)
    for index in range(size):
        mixed = (mixed ^ np.uint64(data[place + index])) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    mask = np.uint64(len(words) - 1)
    slot = (mixed * _SPREAD) >> np.uint64(20) & mask
    while words[slot] != 0:
        other = words[slot] - 1
        if token_sizes[other] == size:
            index, other_place = 0, token_places[other]
            while index < size and data[other_place + index] == data[place + index]:
                index += 1
            if index == size:
                return int(other)
        slot = (slot + np.uint64(1)) & mask
    words[slot] = token + 1
    return token


@compiled
def all_places(symbols, token_sizes, places, left, right):
    """Find a pair in the whole pieces that its places are in: it may have come to others since."""
    n_found = 0
    for is_second in range(2):
        if is_second:
            found = np.empty(n_found, np.uint32)
            n_found = 0
        else:
            found = np.empty(0, np.uint32)
        end = np.int64(0)
        for given in places:
            place = np.int64(given)
            if place < end:
                continue
            while symbols[place - 1] != BOUNDARY:
                place -= 1
            while symbols[place] != BOUNDARY:
                behind = place + token_sizes[symbols[place]]
                if symbols[place] == left and symbols[behind] == right:
                    if is_second:
                        found[n_found] = place
                    n_found += 1
                place = behind
            end = place
    return found
