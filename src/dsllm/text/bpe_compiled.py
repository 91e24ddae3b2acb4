"""The loops of `bpe.py`, compiled: from bytes to pieces, to parts of them, to ids."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.merges_compiled import (
    FACTOR,
    HEAD_MASKS,
    MAX_SHORT,
    PAIR_FACTOR,
    find_word,
    has_bit,
    merge,
    set_bit,
)
from dsllm.text.patterns_compiled import BY_CUTS, scan_pattern
from dsllm.text.pretokens_compiled import PLACE, scan_pieces
from dsllm.text.vector import load_word

Ids = NDArray[np.uint32]

MAX_REMEMBERED = 16  # bytes: two words of the table
_N_PIECES, _N_PARTS = 4096, 16384  # at a time
_N_USED, _N_SPILLED = 0, 1
JOINT_BITS = 20
N_JOINT_WORDS = (1 << 16) + (1 << JOINT_BITS) >> 6
_WHOLE = 0x80  # of the number of bytes: a whole piece where that makes a difference


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
            set_bit(joints, _bit_of_bytes(token[place - 1], token[place]))
            continue
        left = right = np.uint64(0)
        for index in range(place - first):
            left |= np.uint64(token[first + index]) << np.uint64(8 * index)
        for index in range(n_right):
            right |= np.uint64(token[place + index]) << np.uint64(8 * index)
        set_bit(joints, _bit_of_characters(left, right))


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

    `memory` (n_slots, 3) remembers parts: their bytes in two words; then, from the highest bits, the number
    of ids (0 for a free slot), the number of bytes, and the id or the place of the ids in `spill`.
    """
    tables = (byte_ids, merged_ids, pairs, is_pair, byte_ranks)
    words = (word_data, word_ends, word_slots)
    kept = (memory, spill, used)
    ends, part_ends = np.empty(_N_PIECES, np.int64), np.empty(_N_PARTS, np.int64)
    state = np.zeros(2, np.int64)
    room = np.empty(MAX_SHORT, np.uint32), np.empty(MAX_SHORT, np.uint32)
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
    """Write the ids of parts, out of the memory or merged; returns their number."""
    memory, spill, _ = kept
    mask = np.uint64(len(memory) - 1)
    n_ids = 0
    for part in range(len(part_ends)):
        end, is_whole = part_ends[part] >> 1, part_ends[part] & 1
        n_bytes = end - start
        low = load_word(data, start) & HEAD_MASKS[min(n_bytes, 8)]
        high = load_word(data, start + 8) & HEAD_MASKS[min(max(n_bytes - 8, 0), 8)]
        size = np.uint64(min(n_bytes, 0x7F) | is_whole * _WHOLE)
        mixed = (low ^ (high + size) * PAIR_FACTOR) * FACTOR
        slot = (mixed ^ mixed >> np.uint64(32)) & mask
        value = memory[slot, 2]
        while value != 0 and (
            memory[slot, 0] != low
            or memory[slot, 1] != high
            or value >> np.uint64(48) & np.uint64(0xFF) != size
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
            count = _encode_part(data, start, n_bytes, is_whole, tables, words, word_ids, room, ids[n_ids:])
            if n_bytes <= MAX_REMEMBERED:
                _remember(kept, slot, low, high, size, ids[n_ids : n_ids + count])
        n_ids += int(count)
        start = end
    return n_ids


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
            place = start + _n_bytes_of_character(data[start])
            left = load_word(data, start) & HEAD_MASKS[place - start]
            while place < end:
                n_bytes = _n_bytes_of_character(data[place])
                right = load_word(data, place) & HEAD_MASKS[n_bytes]
                if not (
                    has_bit(joints, _bit_of_characters(left, right))
                    or has_bit(joints, _bit_of_bytes(data[place - 1], data[place]))
                ):
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
def _n_bytes_of_character(lead):
    return 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)


@compiled
def _bit_of_bytes(left, right):
    return np.uint64(left) << np.uint64(8) | np.uint64(right)  # the first 2**16 bits


@compiled
def _bit_of_characters(left, right):
    mixed = (left << np.uint64(32) | right) * FACTOR
    return np.uint64(1 << 16) + (mixed >> np.uint64(64 - JOINT_BITS))


@compiled
def _remember(kept, slot, low, high, size, ids):
    memory, spill, used = kept
    if 4 * used[_N_USED] >= 3 * len(memory) or used[_N_SPILLED] + len(ids) > len(spill):
        return
    payload = np.uint64(ids[0])
    if len(ids) > 1:
        payload = np.uint64(used[_N_SPILLED])
        for index in range(len(ids)):
            spill[used[_N_SPILLED] + index] = ids[index]
        used[_N_SPILLED] += len(ids)
    memory[slot, 0], memory[slot, 1] = low, high
    memory[slot, 2] = np.uint64(len(ids)) << np.uint64(56) | size << np.uint64(48) | payload
    used[_N_USED] += 1
