"""The loops of `piece_counts.py`, compiled.

A table has four words a slot: of pieces of up to 16 bytes the bytes themselves, of others their hash and
their place in an array of bytes; then the count, and the number of bytes, 0 where the slot is free.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.pretokens_compiled import PLACE, scan_pieces
from dsllm.text.vector import load_word, prefetch

Words = NDArray[np.uint64]
Int64s = NDArray[np.int64]
Bytes = NDArray[np.uint8]

N_PIECES_AT_ONCE = 4096
MAX_BYTES = 1 << 20  # longer pieces are cut
_SHORT = 16
_COUNT, _SIZE = 2, 3
_MIXED, _BLOCK = 2, 32  # of a key; pieces whose slots are asked for ahead
N_USED, N_STORED = 0, 1  # slots, bytes
# Of the scan, behind what `scan_pieces` remembers: the text, where the next piece starts, which of how many.
TEXT, START, NEXT, N_FOUND, N_SCAN = 2, 3, 4, 5, 6
_FACTOR, _SPREAD = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_HEAD_MASKS = np.array([(1 << 8 * n_bytes) - 1 for n_bytes in range(9)], np.uint64)


@compiled
def count_pieces(
    data: Bytes,
    text_ends: Int64s,
    is_taken: NDArray[np.bool_],
    classes: Bytes,
    table: Words,
    stored: Bytes,
    used: Int64s,
    scan: Int64s,
    ends: Int64s,
) -> bool:
    """Count the pieces of two and more bytes of the texts that are taken; False when the table is full.

    `scan` (N_SCAN,), zeros at first, and `ends` (N_PIECES_AT_ONCE,) say where to go on then.
    """
    keys = np.empty((_BLOCK, 3), np.uint64)
    while scan[TEXT] < len(text_ends):
        text_end = text_ends[scan[TEXT]]
        if not is_taken[scan[TEXT]]:
            scan[PLACE] = text_end
        while True:
            while scan[NEXT] < scan[N_FOUND]:
                block = ends[scan[NEXT] : min(scan[NEXT] + _BLOCK, scan[N_FOUND])]
                n_done = _count_block(data, block, keys, table, stored, used, scan)
                scan[NEXT] += n_done
                if n_done < len(block):
                    return False
            scan[NEXT] = scan[N_FOUND] = 0
            if scan[PLACE] >= text_end:
                break
            scan[N_FOUND] = scan_pieces(data, text_end, scan, classes, ends)
        scan[TEXT] += 1
        scan[0], scan[1], scan[START] = text_end, 0, text_end
    return True


@compiled
def _count_block(data, ends, keys, table, stored, used, scan):
    """Count some pieces, their slots asked for before; returns how many were before the table was full."""
    flat, mask = table.reshape(table.size), np.uint64(len(table) - 1)
    start = scan[START]
    for index in range(len(ends)):
        if ends[index] - start > 1:
            _write_key(data, start, min(ends[index] - start, MAX_BYTES), keys[index])
            prefetch(flat, np.int64((keys[index, _MIXED] & mask) << np.uint64(2)))
        start = ends[index]
    for index in range(len(ends)):
        while scan[START] < ends[index]:
            size = min(ends[index] - scan[START], MAX_BYTES)
            if size > 1 and not _add(data, scan[START], size, keys[index], 1, table, stored, used):
                return index
            scan[START] += size
            if scan[START] < ends[index]:  # the piece is cut
                _write_key(data, scan[START], min(ends[index] - scan[START], MAX_BYTES), keys[index])
    return len(ends)


@compiled
def add_pieces(
    data: Bytes, ends: Int64s, counts: Int64s, table: Words, stored: Bytes, used: Int64s, first: int
) -> int:
    """Add to the counts of pieces, from number `first` on; returns where it came to when the table was full.

    `data` has 16 bytes of room behind the last piece.
    """
    key = np.empty(3, np.uint64)
    start = ends[first - 1] if first else np.int64(0)
    for index in range(first, len(ends)):
        _write_key(data, start, ends[index] - start, key)
        if not _add(data, start, ends[index] - start, key, counts[index], table, stored, used):
            return index
        start = ends[index]
    return len(ends)


@compiled
def _write_key(data, start, size, key):
    """Write the first two words of a slot, for a long piece its hash alone, and the hash."""
    if size <= _SHORT:
        key[0] = load_word(data, start) & _HEAD_MASKS[min(size, 8)]
        key[1] = load_word(data, start + 8) & _HEAD_MASKS[max(size - 8, 0)]
        key[_MIXED] = _mix(key[0], key[1], size)
    else:
        key[0] = key[_MIXED] = hash_long(data, start, size)


@compiled
def _add(data, start, size, key, count, table, stored, used):
    """Add to the count of a piece; False when the table is full."""
    mask = np.uint64(len(table) - 1)
    slot = key[_MIXED] & mask
    while table[slot, _SIZE] != 0:
        if table[slot, 0] == key[0] and table[slot, _SIZE] == np.uint64(size):
            if size <= _SHORT:
                is_same = table[slot, 1] == key[1]
            else:
                is_same = _is_equal(data, start, stored, np.int64(table[slot, 1]), size)
            if is_same:
                table[slot, _COUNT] += np.uint64(count)
                return True
        slot = (slot + np.uint64(1)) & mask
    n_stored = size if size > _SHORT else 0
    if 4 * used[N_USED] >= 3 * len(table) or used[N_STORED] + n_stored + 8 > len(stored):
        return False
    if n_stored:
        key[1] = np.uint64(used[N_STORED])
    for index in range(n_stored):
        stored[used[N_STORED] + index] = data[start + index]
    used[N_STORED] += n_stored
    used[N_USED] += 1
    table[slot, 0], table[slot, 1] = key[0], key[1]
    table[slot, _COUNT], table[slot, _SIZE] = np.uint64(count), np.uint64(size)
    return True


@compiled
def _mix(low, high, size):
    mixed = (low ^ (high + np.uint64(size)) * _SPREAD) * _FACTOR
    mixed = (mixed ^ mixed >> np.uint64(32)) * _SPREAD
    return mixed ^ mixed >> np.uint64(29)


@compiled
def hash_long(data, start, size):
    """Hash a piece of more than eight bytes; the last word overlaps the one before."""
    mixed = np.uint64(size)
    for place in range(start, start + size - 8, 8):
        mixed = (mixed ^ load_word(data, place)) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    return _mix(mixed, load_word(data, start + size - 8), size)


@compiled
def _is_equal(data, start, stored, place, size):
    for index in range(0, size - 8, 8):
        if load_word(data, start + index) != load_word(stored, place + index):
            return False
    return load_word(data, start + size - 8) == load_word(stored, place + size - 8)


@compiled
def hash_slots(table: Words, hashes: Words, places: Int64s) -> int:
    """Write the hash and the slot of every piece; returns their number."""
    n_found = 0
    for slot in range(len(table)):
        size = table[slot, _SIZE]
        if size != 0:
            is_long = size > np.uint64(_SHORT)
            hashes[n_found] = table[slot, 0] if is_long else _mix(table[slot, 0], table[slot, 1], size)
            places[n_found] = slot
            n_found += 1
    return n_found


@compiled
def write_pieces(
    table: Words, stored: Bytes, slots: Int64s, data: Bytes, ends: Int64s, counts: Int64s
) -> None:
    """Write the pieces of some slots one behind the other, with 16 bytes of room, and their counts."""
    written = np.int64(0)
    for index in range(len(slots)):
        slot = slots[index]
        size = np.int64(table[slot, _SIZE])
        counts[index] = np.int64(table[slot, _COUNT])
        if size > _SHORT:
            place = np.int64(table[slot, 1])
            for inner in range(size):
                data[written + inner] = stored[place + inner]
        else:
            for inner in range(size):
                word = table[slot, inner >> 3]
                data[written + inner] = np.uint8(word >> np.uint64(8 * (inner & 7)))
        written += size
        ends[index] = written


@compiled
def move_pieces(table: Words, larger: Words) -> None:
    """Put all pieces into another table."""
    mask = np.uint64(len(larger) - 1)
    for index in range(len(table)):
        size = table[index, _SIZE]
        if size != 0:
            is_long = size > np.uint64(_SHORT)
            slot = (table[index, 0] if is_long else _mix(table[index, 0], table[index, 1], size)) & mask
            while larger[slot, _SIZE] != 0:
                slot = (slot + np.uint64(1)) & mask
            for word in range(4):
                larger[slot, word] = table[index, word]
