"""One piece merged by the tables of `merges_compiled.py`."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.joints_compiled import may_cross_partly, n_bytes_of_character
from dsllm.text.merges_compiled import HEAD_MASKS, MAX_SHORT, NO_RANK, Ids, find_rank
from dsllm.text.scan_compiled import decode
from dsllm.text.vector import load_word

NO_ID = np.uint32(0xFFFFFFFF)
N_CHARACTERS = 1 << 16  # that may be known as one token: those of at most three bytes
_NOBODY = -1


@compiled
def know_characters(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    byte_ids: Ids,
    merged_ids: Ids,
    pairs: NDArray[np.uint64],
    is_pair: NDArray[np.uint64],
    byte_ranks: Ids,
    joints: NDArray[np.uint64],
    character_ids: Ids,
) -> None:
    """Merge characters of two or three bytes, one after another; write the ids of those that become one.

    `character_ids` (N_CHARACTERS,) is NO_ID before.
    """
    unknown = np.full(N_CHARACTERS, NO_ID, np.uint32)
    tables = (byte_ids, merged_ids, pairs, is_pair, byte_ranks, joints, unknown)
    parts, part_ranks = np.empty(MAX_SHORT, np.uint32), np.empty(MAX_SHORT, np.uint32)
    ids = np.empty(MAX_SHORT, np.uint32)
    start = 0
    for end in ends:
        if merge(data, start, end - start, tables, parts, part_ranks, ids) == 1:
            character_ids[decode(data, start)[0]] = ids[0]
        start = end


@compiled
def merge(data, start, n_bytes, tables, parts, part_ranks, ids):
    """Write the ids of a part; returns their number."""
    if n_bytes > MAX_SHORT:
        return _merge_by_heap(data, start, n_bytes, tables, ids)
    merged_ids, table, is_there = tables[1:4]
    n_parts = _symbols(data, start, n_bytes, tables, parts, part_ranks)
    while n_parts > 1:
        least = NO_RANK
        for index in range(n_parts - 1):
            least = min(least, part_ranks[index])
        if least == NO_RANK:
            break
        place = 0
        while part_ranks[place] != least:
            place += 1
        parts[place] = merged_ids[least]
        n_parts -= 1
        for index in range(place + 1, n_parts):
            parts[index] = parts[index + 1]
        for index in range(place, n_parts - 1):
            part_ranks[index] = part_ranks[index + 1]
        if place > 0:
            part_ranks[place - 1] = find_rank(parts[place - 1], parts[place], table, is_there)
        if place + 1 < n_parts:
            part_ranks[place] = find_rank(parts[place], parts[place + 1], table, is_there)
    for index in range(n_parts):
        ids[index] = parts[index]
    return n_parts


@compiled
def _merge_by_heap(data, start, n_bytes, tables, ids):
    """Merge a long piece: a heap of (rank, place), with entries that a merge made untrue left in it."""
    merged_ids, table, is_there = tables[1:4]
    parts, part_ranks = np.empty(n_bytes, np.uint32), np.empty(n_bytes, np.uint32)
    n_parts = _symbols(data, start, n_bytes, tables, parts, part_ranks)
    previous, following = np.empty(n_parts, np.int64), np.empty(n_parts, np.int64)
    heap = np.empty(3 * n_parts, np.uint64)
    n_heap = 0
    for index in range(n_parts):
        previous[index] = index - 1
        following[index] = index + 1 if index + 1 < n_parts else _NOBODY
    for index in range(n_parts - 1):
        if part_ranks[index] != NO_RANK:
            n_heap = _push(heap, n_heap, np.uint64(part_ranks[index]) << np.uint64(32) | np.uint64(index))
    while n_heap:
        rank, place = np.uint32(heap[0] >> np.uint64(32)), np.int64(np.uint32(heap[0]))
        n_heap = _pop(heap, n_heap)
        after = following[place]
        if previous[place] == place or after == _NOBODY:  # merged away, or nothing behind
            continue
        if find_rank(parts[place], parts[after], table, is_there) != rank:
            continue
        parts[place] = merged_ids[rank]
        following[place] = following[after]
        previous[after] = after  # marks it as gone
        if following[place] != _NOBODY:
            previous[following[place]] = place
            rank = find_rank(parts[place], parts[following[place]], table, is_there)
            if rank != NO_RANK:
                n_heap = _push(heap, n_heap, np.uint64(rank) << np.uint64(32) | np.uint64(place))
        before = previous[place]
        if before != _NOBODY:
            rank = find_rank(parts[before], parts[place], table, is_there)
            if rank != NO_RANK:
                n_heap = _push(heap, n_heap, np.uint64(rank) << np.uint64(32) | np.uint64(before))
    part = n_ids = 0
    while part != _NOBODY:
        ids[n_ids] = parts[part]
        n_ids += 1
        part = following[part]
    return n_ids


@compiled
def _push(heap, n_heap, value):
    place = n_heap
    while place and heap[(place - 1) >> 1] > value:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = value
    return n_heap + 1


@compiled
def _pop(heap, n_heap):
    """Take the least away; returns the new number."""
    n_heap -= 1
    value, place = heap[n_heap], 0
    while True:
        child = 2 * place + 1
        if child >= n_heap:
            break
        if child + 1 < n_heap and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value
    return n_heap


@compiled
def _symbols(data, start, n_bytes, tables, parts, part_ranks):
    """Write what merging begins with, and the rank of each with the next; returns their number.

    A character that becomes one token is that from the start, where no token reaches from a part of it to its
    neighbours: it is merged before anything that it takes part in.
    """
    byte_ids, _, table, is_there, byte_ranks, joints, character_ids = tables
    end, place, n_parts = start + n_bytes, start, 0
    is_wide = False
    is_apart = True  # from what is before
    while place < end:
        n_next = n_bytes_of_character(data[place])
        if data[place] < 0x80 or place + n_next > end:
            n_next = 1
        behind = place + n_next
        identity = NO_ID
        if n_next in (2, 3) and is_apart:
            identity = character_ids[decode(data, place)[0]]
        is_apart = True
        if behind < end and (data[place] >= 0x80 or data[behind] >= 0x80):
            character = load_word(data, place) & HEAD_MASKS[n_next]
            following = load_word(data, behind) & HEAD_MASKS[n_bytes_of_character(data[behind])]
            is_apart = not may_cross_partly(character, following, data[behind - 1], joints)
        if identity != NO_ID and is_apart:
            if n_parts:
                part_ranks[n_parts - 1] = find_rank(parts[n_parts - 1], identity, table, is_there)
            parts[n_parts] = identity
            n_parts += 1
            is_wide = True
        else:
            for index in range(place, behind):
                parts[n_parts] = byte_ids[data[index]]
                if n_parts and is_wide:
                    part_ranks[n_parts - 1] = find_rank(parts[n_parts - 1], parts[n_parts], table, is_there)
                elif n_parts:
                    part_ranks[n_parts - 1] = byte_ranks[np.int64(data[index - 1]) << 8 | data[index]]
                is_wide = False
                n_parts += 1
        place = behind
    return n_parts
