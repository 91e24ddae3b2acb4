"""The loops of `bpe.py`, compiled: from bytes to pieces, to parts of them, to ids."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.joints_compiled import may_cross, n_bytes_of_character
from dsllm.text.merges_compiled import (
    FACTOR,
    HEAD_MASKS,
    ID_BITS,
    MAX_SHORT,
    PAIR_FACTOR,
    find_word,
)
from dsllm.text.merging_compiled import merge
from dsllm.text.patterns_compiled import BY_CUTS, scan_pattern
from dsllm.text.pretokens_compiled import PLACE, scan_pieces
from dsllm.text.vector import load_shared, load_word, prefetch_byte, store_shared

Ids = NDArray[np.uint32]

MAX_REMEMBERED = 16  # bytes: two words of the table
_N_PIECES, _N_PARTS = 4096, 16384  # at a time
_N_AT_ONCE = 64
_SLOT_BYTES = 32
_N_INLINE = 5  # ids of a part that its slot has room for
_ID_MASK = np.uint64((1 << ID_BITS) - 1)
_WHOLE = 0x80  # of the number of bytes: a whole piece where that makes a difference


@compiled
def encode_spans(
    data: NDArray[np.uint8],
    span_ends: NDArray[np.int64],
    span_ids: NDArray[np.int64],
    classes: NDArray[np.uint8],
    rule: int,
    n_digits: int,
    byte_ids: Ids,
    merged_ids: Ids,
    pairs: NDArray[np.uint64],
    is_pair: NDArray[np.uint64],
    byte_ranks: Ids,
    joints: NDArray[np.uint64],
    character_ids: Ids,
    word_data: NDArray[np.uint8],
    word_ends: NDArray[np.int64],
    word_slots: NDArray[np.uint32],
    word_ids: Ids,
    memory: NDArray[np.uint64],
    spill: Ids,
    used: NDArray[np.int64],
    ids: Ids,
    id_ends: NDArray[np.int64],
) -> None:
    """Write the ids of all spans, and where those of each end.

    A span whose id is given stands for that; of one with -1 the text is encoded. With `word_ids` a piece that
    is a word has its id, whatever the merges make of it.

    `memory` (n_slots, 4) remembers parts, in buckets of two slots: their bytes in two words; then, from the
    lowest bits, the number of bytes (0 for a free slot), the number of ids and two of these; then three more.
    Where they are more than five, the last word is the place of all in `spill`, of which `used[0]` is used,
    and the bits of the two are those of a hash of all.

    Threads may share all three without waiting for each other. The words of the bytes are mixed with a hash
    of the other two, so what two threads wrote into a slot at once is nobody's part, with a probability of
    1 - 2**-64; of spilled ids, whose place two threads may have taken at once, the hash tells.
    """
    tables = (byte_ids, merged_ids, pairs, is_pair, byte_ranks, joints, character_ids)
    words = (word_data, word_ends, word_slots)
    kept = (memory, spill, used)
    ends, part_ends = np.empty(_N_PIECES, np.int64), np.empty(_N_PARTS, np.int64)
    state = np.zeros(2, np.int64)
    room = (
        np.empty(MAX_SHORT, np.uint32), np.empty(MAX_SHORT, np.uint32), np.empty(_N_AT_ONCE, np.uint64),
        np.empty(_N_AT_ONCE, np.uint64), np.empty(_N_AT_ONCE, np.uint64), np.empty(_N_AT_ONCE, np.int64),
    )  # fmt: skip
    n_ids = start = 0
    for span in range(len(span_ends)):
        if span_ids[span] >= 0:
            ids[n_ids] = span_ids[span]
            n_ids += 1
            start = span_ends[span]
        state[0], state[1] = start, 0
        while state[PLACE] < span_ends[span]:
            if rule == BY_CUTS:
                n_pieces = scan_pieces(data, span_ends[span], state, classes, ends)
            else:
                n_pieces = scan_pattern(data, span_ends[span], state, classes, rule, n_digits, ends)
            n_cut = 0
            while n_cut < n_pieces:
                n_parts, n_cut = _cut_pieces(
                    data, start, ends, n_cut, n_pieces, joints, len(word_ids) > 0, part_ends
                )
                n_ids += _encode_parts(
                    data, start, part_ends[:n_parts], tables, words, word_ids, kept, room, ids[n_ids:]
                )
                start = part_ends[n_parts - 1] >> 1
        id_ends[span] = n_ids


@compiled
def _encode_parts(data, start, part_ends, tables, words, word_ids, kept, room, ids):
    """Write the ids of parts, out of the memory or merged; returns their number.

    Some at a time: the slots of all of these are asked for first, so that memory works on many at once.
    """
    memory, spill, _ = kept
    lows, highs, sizes, slots = room[2:]
    n_ids = 0
    for first in range(0, len(part_ends), _N_AT_ONCE):
        n_parts = min(_N_AT_ONCE, len(part_ends) - first)
        behind = start
        for part in range(n_parts):
            n_bytes = (part_ends[first + part] >> 1) - behind
            low = load_word(data, behind) & HEAD_MASKS[min(n_bytes, 8)]
            high = load_word(data, behind + 8) & HEAD_MASKS[min(max(n_bytes - 8, 0), 8)]
            size = np.uint64(min(n_bytes, 0x7F) | (part_ends[first + part] & 1) * _WHOLE)
            mixed = (low ^ (high + size) * PAIR_FACTOR) * FACTOR
            slot = np.int64((mixed ^ mixed >> np.uint64(32)) & np.uint64(len(memory) - 2))
            lows[part], highs[part], sizes[part], slots[part] = low, high, size, slot
            prefetch_byte(memory, slot * _SLOT_BYTES)
            behind = part_ends[first + part] >> 1
        for part in range(n_parts):
            low, high, size, slot = lows[part], highs[part], sizes[part], slots[part]
            end = part_ends[first + part] >> 1
            packed, more = _find_part(memory, slot, low, high, size)
            count = int(packed >> np.uint64(8) & np.uint64(0xFF))
            if packed != 0 and (count <= _N_INLINE or _copy_spilled(spill, packed, more, ids[n_ids:])):
                if count <= _N_INLINE:
                    ids[n_ids] = packed >> np.uint64(16) & _ID_MASK
                    ids[n_ids + 1] = packed >> np.uint64(16 + ID_BITS)
                    ids[n_ids + 2] = more & _ID_MASK
                    ids[n_ids + 3] = more >> np.uint64(ID_BITS) & _ID_MASK
                    ids[n_ids + 4] = more >> np.uint64(2 * ID_BITS)
                n_ids += count
            else:
                is_whole = part_ends[first + part] & 1
                n_new = _encode_part(
                    data, start, end - start, is_whole, tables, words, word_ids, room, ids[n_ids:]
                )
                if end - start <= MAX_REMEMBERED:
                    _remember(kept, slot, low, high, size, ids[n_ids : n_ids + n_new])
                n_ids += n_new
            start = end
    return n_ids


@compiled
def _find_part(memory, slot, low, high, size):
    """Find a part in the two slots of its bucket; one in the second changes places with the first.

    Returns the last two words of its slot, zeros where it is not there.
    """
    packed, more = load_shared(memory, slot, 2), load_shared(memory, slot, 3)
    mixed = _mix(packed, more)
    first, second = load_shared(memory, slot, 0), load_shared(memory, slot, 1)
    if packed & np.uint64(0xFF) == size and first ^ mixed == low and second ^ mixed == high:
        return packed, more
    other = slot + 1
    other_packed, other_more = load_shared(memory, other, 2), load_shared(memory, other, 3)
    mixed = _mix(other_packed, other_more)
    if (
        other_packed & np.uint64(0xFF) != size
        or load_shared(memory, other, 0) ^ mixed != low
        or load_shared(memory, other, 1) ^ mixed != high
    ):
        return np.uint64(0), np.uint64(0)
    _store(memory, other, first, second, packed, more)
    _store(memory, slot, low ^ mixed, high ^ mixed, other_packed, other_more)
    return other_packed, other_more


@compiled
def _mix(packed, more):
    return (packed ^ more * PAIR_FACTOR) * FACTOR


@compiled
def _store(memory, slot, first, second, packed, more):
    store_shared(memory, slot, 0, first)
    store_shared(memory, slot, 1, second)
    store_shared(memory, slot, 2, packed)
    store_shared(memory, slot, 3, more)


@compiled
def _copy_spilled(spill, packed, more, ids):
    """Copy more ids than a slot has room for; tells whether they are those that were remembered."""
    count, place = np.int64(packed >> np.uint64(8) & np.uint64(0xFF)), np.int64(more)
    for index in range(count):
        ids[index] = spill[place + index]
    return _hash_ids(ids[:count]) ^ packed < np.uint64(1 << 16)


@compiled
def _hash_ids(ids):
    mixed = np.uint64(len(ids))
    for identity in ids:
        mixed = (mixed ^ np.uint64(identity)) * FACTOR
        mixed ^= mixed >> np.uint64(32)
    return mixed


@compiled
def _encode_part(data, start, n_bytes, is_whole, tables, words, word_ids, room, ids):
    """Write the ids of a part that is not remembered; returns their number."""
    if is_whole:
        word = find_word(data, start, n_bytes, words)
        if word >= 0:
            ids[0] = word_ids[word]
            return np.int64(1)
    return np.int64(merge(data, start, n_bytes, tables, room[0], room[1], ids))


@compiled
def _cut_pieces(data, start, ends, n_cut, n_pieces, joints, tell_whole, part_ends):
    """Cut pieces where no token reaches from one character to the next, as many as there is room for.

    Of ASCII only long ones are worth it. `part_ends` gets twice the place where each part ends, and one more
    for a piece that is still whole, where this is to be told. Returns the number of parts, and of pieces that
    are cut now.
    """
    n_parts = 0
    while n_cut < n_pieces and n_parts + (ends[n_cut] - start) < len(part_ends):
        end = ends[n_cut]
        n_before = n_parts
        if end - start > MAX_REMEMBERED or data[start] >= 0x80:
            place = start + n_bytes_of_character(data[start])
            left = load_word(data, start) & HEAD_MASKS[place - start]
            while place < end:
                n_bytes = n_bytes_of_character(data[place])
                right = load_word(data, place) & HEAD_MASKS[n_bytes]
                if not may_cross(left, right, data[place - 1], joints):
                    part_ends[n_parts] = place << 1
                    n_parts += 1
                left = right
                place += n_bytes
        part_ends[n_parts] = end << 1 | np.int64(tell_whole and n_parts == n_before)
        n_parts += 1
        start = end
        n_cut += 1
    if n_parts == 0:  # a piece longer than the room: whole
        part_ends[0] = ends[n_cut] << 1 | np.int64(tell_whole)
        return 1, n_cut + 1
    return n_parts, n_cut


@compiled
def _remember(kept, slot, low, high, size, ids):
    """Put a part into its bucket: into the first slot if that is free, else into the second."""
    memory, spill, used = kept
    packed = size | np.uint64(len(ids)) << np.uint64(8)
    more = np.uint64(0)
    if len(ids) > _N_INLINE:
        place = used[0]
        if place + len(ids) > len(spill):
            return
        used[0] = place + len(ids)
        for index in range(len(ids)):
            spill[place + index] = ids[index]
        more = np.uint64(place)
        packed |= _hash_ids(ids) & ~np.uint64(0xFFFF)
    else:
        packed |= np.uint64(ids[0]) << np.uint64(16)
        if len(ids) > 1:
            packed |= np.uint64(ids[1]) << np.uint64(16 + ID_BITS)
        for index in range(2, len(ids)):
            more |= np.uint64(ids[index]) << np.uint64((index - 2) * ID_BITS)
    if load_shared(memory, slot, 2) != 0:
        slot += 1
    mixed = _mix(packed, more)
    _store(memory, slot, low ^ mixed, high ^ mixed, packed, more)
