"""The loops of `bpe.py`, compiled."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.pretokens_compiled import PLACE, scan_pieces
from dsllm.text.vector import load_word

Ids = NDArray[np.uint32]

NO_RANK = np.uint32(0xFFFFFFFF)
MAX_REMEMBERED = 16  # bytes: two words of the table
_N_PIECES, _N_PARTS = 4096, 16384  # at a time
_MAX_SHORT = 96  # bytes: longer pieces are merged through a heap
_N_USED, _N_SPILLED = 0, 1
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_PAIR_FACTOR = np.uint64(0xD6E8FEB86659FD93)
_HEAD_MASKS = np.array([(1 << 8 * n_bytes) - 1 for n_bytes in range(9)], np.uint64)
_NOBODY = -1
ID_BITS, RANK_BITS = 20, 24  # of a slot of the table of pairs
PAIR_BITS = 21
N_PAIR_WORDS = 1 << PAIR_BITS - 6
JOINT_BITS = 20
N_JOINT_WORDS = (1 << 16) + (1 << JOINT_BITS) >> 6


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
        _set_bit(is_there, mixed >> np.uint64(64 - PAIR_BITS))


@compiled
def note_crossings(data: NDArray[np.uint8], ends: NDArray[np.int64], joints: NDArray[np.uint64]) -> None:
    """Set the bits of all places between two characters inside a token: text may be merged across them.

    Tokens lie one after another in `data`. One that begins or ends in the middle of a character stands for
    all characters of that end.
    """
    start = 0
    for end in ends:
        _note_crossings(data[start:end], joints)
        start = end


@compiled
def _note_crossings(token, joints):
    for place in range(1, len(token)):
        if token[place] & 0xC0 == 0x80:
            continue
        first = place - 1
        while first and token[first] & 0xC0 == 0x80:
            first -= 1
        n_right = _n_bytes_of_character(token[place])
        if token[first] & 0xC0 == 0x80 or place + n_right > len(token):
            _set_bit(joints, _bit_of_bytes(token[place - 1], token[place]))
            continue
        left = right = np.uint64(0)
        for index in range(place - first):
            left |= np.uint64(token[first + index]) << np.uint64(8 * index)
        for index in range(n_right):
            right |= np.uint64(token[place + index]) << np.uint64(8 * index)
        _set_bit(joints, _bit_of_characters(left, right))


@compiled
def encode_texts(
    data: NDArray[np.uint8],
    text_ends: NDArray[np.int64],
    classes: NDArray[np.uint8],
    byte_ids: Ids,
    merged_ids: Ids,
    pairs: NDArray[np.uint64],
    is_pair: NDArray[np.uint64],
    byte_ranks: Ids,
    joints: NDArray[np.uint64],
    memory: NDArray[np.uint64],
    spill: Ids,
    used: NDArray[np.int64],
    end_id: int,
    ids: Ids,
    id_ends: NDArray[np.int64],
) -> None:
    """Write the ids of all texts, `end_id` behind each unless it is -1, and where those of each text end.

    `memory` (n_slots, 3) remembers parts: their bytes in two words; then, from the highest bits, the number
    of ids (0 for a free slot), the number of bytes, and the id or the place of the ids in `spill`.
    """
    ends, part_ends = np.empty(_N_PIECES, np.int64), np.empty(_N_PARTS, np.int64)
    state = np.zeros(2, np.int64)
    ids_of_part, ranks_of_part = np.empty(_MAX_SHORT, np.uint32), np.empty(_MAX_SHORT, np.uint32)
    n_ids = start = 0
    for text in range(len(text_ends)):
        state[0], state[1] = start, 0
        while state[PLACE] < text_ends[text]:
            n_pieces = scan_pieces(data, text_ends[text], state, classes, ends)
            n_cut = 0
            while n_cut < n_pieces:
                n_parts, n_cut = _cut_pieces(data, start, ends, n_cut, n_pieces, joints, part_ends)
                n_ids += _encode_parts(
                    data, start, part_ends[:n_parts], byte_ids, merged_ids, pairs, is_pair, byte_ranks,
                    memory, spill, used, ids_of_part, ranks_of_part, ids[n_ids:],
                )  # fmt: skip
                start = part_ends[n_parts - 1]
        if end_id >= 0:
            ids[n_ids] = end_id
            n_ids += 1
        id_ends[text] = n_ids


@compiled
def _encode_parts(
    data, start, part_ends, byte_ids, merged_ids, pairs, is_pair, byte_ranks, memory, spill, used,
    ids_of_part, ranks_of_part, ids,
):  # fmt: skip
    """Write the ids of parts, out of the memory or merged; returns their number."""
    mask = np.uint64(len(memory) - 1)
    n_ids = 0
    for part in range(len(part_ends)):
        n_bytes = part_ends[part] - start
        low = load_word(data, start) & _HEAD_MASKS[min(n_bytes, 8)]
        high = load_word(data, start + 8) & _HEAD_MASKS[min(max(n_bytes - 8, 0), 8)]
        mixed = (low ^ (high + np.uint64(n_bytes)) * _PAIR_FACTOR) * _FACTOR
        slot = (mixed ^ mixed >> np.uint64(32)) & mask
        value = memory[slot, 2]
        while value != 0 and (
            memory[slot, 0] != low
            or memory[slot, 1] != high
            or value >> np.uint64(48) & np.uint64(0xFF) != np.uint64(n_bytes)
        ):
            slot = (slot + np.uint64(1)) & mask
            value = memory[slot, 2]
        count = np.int64(value >> np.uint64(56))
        if count == 1:
            ids[n_ids] = np.uint32(value)
        elif count:
            place = np.int64(np.uint32(value))
            for index in range(count):
                ids[n_ids + index] = spill[place + index]
        else:
            count = np.int64(
                _merge(
                data, start, n_bytes, byte_ids, merged_ids, pairs, is_pair, byte_ranks, ids_of_part,
                ranks_of_part, ids[n_ids:],
            ))  # fmt: skip
            if n_bytes <= MAX_REMEMBERED:
                _remember(memory, spill, used, slot, low, high, n_bytes, ids[n_ids : n_ids + count])
        n_ids += int(count)
        start = part_ends[part]
    return n_ids


@compiled
def _cut_pieces(data, start, ends, n_cut, n_pieces, joints, part_ends):
    """Cut pieces where no token reaches from one character to the next, as many as there is room for.

    Of ASCII only long ones are worth it. Returns the number of parts, and of pieces that are cut now.
    """
    n_parts = 0
    while n_cut < n_pieces and n_parts + (ends[n_cut] - start) < len(part_ends):
        end = ends[n_cut]
        if end - start > MAX_REMEMBERED or data[start] >= 0x80:
            place = start + _n_bytes_of_character(data[start])
            left = load_word(data, start) & _HEAD_MASKS[place - start]
            while place < end:
                n_bytes = _n_bytes_of_character(data[place])
                right = load_word(data, place) & _HEAD_MASKS[n_bytes]
                if not (
                    _has_bit(joints, _bit_of_characters(left, right))
                    or _has_bit(joints, _bit_of_bytes(data[place - 1], data[place]))
                ):
                    part_ends[n_parts] = place
                    n_parts += 1
                left = right
                place += n_bytes
        part_ends[n_parts] = end
        n_parts += 1
        start = end
        n_cut += 1
    if n_parts == 0:  # a piece longer than the room: whole
        part_ends[0] = ends[n_cut]
        return 1, n_cut + 1
    return n_parts, n_cut


@compiled
def _n_bytes_of_character(lead):
    return 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)


@compiled
def _bit_of_bytes(left, right):
    return np.uint64(left) << np.uint64(8) | np.uint64(right)  # the first 2**16 bits


@compiled
def _bit_of_characters(left, right):
    mixed = (left << np.uint64(32) | right) * _FACTOR
    return np.uint64(1 << 16) + (mixed >> np.uint64(64 - JOINT_BITS))


@compiled
def _set_bit(bits, place):
    bits[place >> np.uint64(6)] |= np.uint64(1) << (place & np.uint64(63))


@compiled
def _has_bit(bits, place):
    return bits[place >> np.uint64(6)] >> (place & np.uint64(63)) & np.uint64(1) != 0


@compiled
def _remember(memory, spill, used, slot, low, high, n_bytes, ids):
    if 4 * used[_N_USED] >= 3 * len(memory) or used[_N_SPILLED] + len(ids) > len(spill):
        return
    payload = np.uint64(ids[0])
    if len(ids) > 1:
        payload = np.uint64(used[_N_SPILLED])
        for index in range(len(ids)):
            spill[used[_N_SPILLED] + index] = ids[index]
        used[_N_SPILLED] += len(ids)
    memory[slot, 0], memory[slot, 1] = low, high
    memory[slot, 2] = np.uint64(len(ids)) << np.uint64(56) | np.uint64(n_bytes) << np.uint64(48) | payload
    used[_N_USED] += 1


@compiled
def _merge(data, start, n_bytes, byte_ids, merged_ids, table, is_there, byte_ranks, parts, part_ranks, ids):
    """Write the ids of a part; returns their number."""
    if n_bytes > _MAX_SHORT:
        return _merge_by_heap(data, start, n_bytes, byte_ids, merged_ids, table, is_there, byte_ranks, ids)
    for index in range(n_bytes):
        parts[index] = byte_ids[data[start + index]]
    for index in range(n_bytes - 1):
        part_ranks[index] = byte_ranks[np.int64(data[start + index]) << 8 | data[start + index + 1]]
    n_parts = n_bytes
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
            part_ranks[place - 1] = _rank(parts[place - 1], parts[place], table, is_there)
        if place + 1 < n_parts:
            part_ranks[place] = _rank(parts[place], parts[place + 1], table, is_there)
    for index in range(n_parts):
        ids[index] = parts[index]
    return n_parts


@compiled
def _rank(left, right, table, is_there):
    pair = np.uint64(left) << np.uint64(ID_BITS) | np.uint64(right)
    mixed = _mix_pair(pair)
    if not _has_bit(is_there, mixed >> np.uint64(64 - PAIR_BITS)):
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
    mixed = pair * _FACTOR
    mixed ^= mixed >> np.uint64(32)
    return (mixed * _PAIR_FACTOR) ^ mixed


@compiled
def _merge_by_heap(data, start, n_bytes, byte_ids, merged_ids, table, is_there, byte_ranks, ids):
    """Merge a long piece: a heap of (rank, place), with entries that a merge made untrue left in it."""
    parts = np.empty(n_bytes, np.uint32)
    previous, following = np.empty(n_bytes, np.int64), np.empty(n_bytes, np.int64)
    heap = np.empty(3 * n_bytes, np.uint64)
    n_heap = 0
    for index in range(n_bytes):
        parts[index] = byte_ids[data[start + index]]
        previous[index] = index - 1
        following[index] = index + 1 if index + 1 < n_bytes else _NOBODY
    for index in range(n_bytes - 1):
        rank = byte_ranks[np.int64(data[start + index]) << 8 | data[start + index + 1]]
        if rank != NO_RANK:
            n_heap = _push(heap, n_heap, np.uint64(rank) << np.uint64(32) | np.uint64(index))
    while n_heap:
        rank, place = np.uint32(heap[0] >> np.uint64(32)), np.int64(np.uint32(heap[0]))
        n_heap = _pop(heap, n_heap)
        after = following[place]
        if previous[place] == place or after == _NOBODY:  # merged away, or nothing behind
            continue
        if _rank(parts[place], parts[after], table, is_there) != rank:
            continue
        parts[place] = merged_ids[rank]
        following[place] = following[after]
        previous[after] = after  # marks it as gone
        if following[place] != _NOBODY:
            previous[following[place]] = place
            rank = _rank(parts[place], parts[following[place]], table, is_there)
            if rank != NO_RANK:
                n_heap = _push(heap, n_heap, np.uint64(rank) << np.uint64(32) | np.uint64(place))
        before = previous[place]
        if before != _NOBODY:
            rank = _rank(parts[before], parts[place], table, is_there)
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
