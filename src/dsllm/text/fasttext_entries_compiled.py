"""The dictionary of a fastText model, compiled: its entries in the file, and a hash table of them."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled

Bytes = NDArray[np.uint8]
Int64s = NDArray[np.int64]

NOT_FOUND = -1
FNV_OFFSET = 2166136261
_OFFSET, _PRIME = np.uint32(FNV_OFFSET), np.uint32(16777619)


@compiled
def find_entries(data: Bytes, place: int, n_entries: int, spans: Int64s, counts: Int64s, types: Bytes) -> int:
    """Read the entries of a dictionary: bytes up to a zero, a count (int64), a type (int8).

    Returns the place behind the last, or NOT_FOUND where `data` ends before that.
    """
    for entry in range(n_entries):
        spans[entry, 0] = place
        while place < len(data) and data[place] != 0:
            place += 1
        if place + 10 > len(data):
            return NOT_FOUND
        spans[entry, 1] = place
        count = np.uint64(0)
        for index in range(8):
            count |= np.uint64(data[place + 1 + index]) << np.uint64(8 * index)
        counts[entry] = np.int64(count)
        types[entry] = data[place + 9]
        place += 10
    return place


@compiled
def fill_table(data: Bytes, spans: Int64s, table: NDArray[np.int32]) -> None:
    """Put the entries into a hash table, a power of two long: their number, NOT_FOUND for a free place."""
    for entry in range(len(spans)):
        start, end = spans[entry, 0], spans[entry, 1]
        table[find_entry(data, start, end, hash_bytes(data, start, end), data, spans, table)] = entry


@compiled
def find_entry(data, start, end, hashed, entry_data, spans, table):
    """Find the place of an entry in the table, or a free one for it."""
    mask = len(table) - 1
    place = np.int64(hashed) & mask
    while table[place] != NOT_FOUND:
        entry = table[place]
        first = spans[entry, 0]
        if spans[entry, 1] - first == end - start:
            index = 0
            while start + index < end and data[start + index] == entry_data[first + index]:
                index += 1
            if start + index == end:
                break
        place = (place + 1) & mask
    return place


@compiled
def hash_bytes(data, start, end):
    """Hash bytes by FNV-1a as fastText does, which widens them with their sign."""
    hashed = _OFFSET
    for place in range(start, end):
        hashed = _step(hashed, data[place])
    return hashed


@compiled
def _step(hashed, byte):
    return np.uint32(np.uint32(hashed ^ np.uint32(np.int32(np.int8(byte)))) * _PRIME)


@compiled
def begins(data, start, end, head):
    """Tell whether `data[start:end]` begins with `head`."""
    if end - start < len(head):
        return False
    for index in range(len(head)):
        if data[start + index] != head[index]:
            return False
    return True
