"""Where text may be merged across: between which characters a token may reach, compiled.

Most tokens begin and end with whole characters. Where one begins or ends in the middle of a character, it
stands for all characters of that end.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.merges_compiled import FACTOR, has_bit, set_bit

_N_BYTE_PAIRS = 1 << 16
JOINT_BITS = 20
N_JOINT_WORDS = 2 * _N_BYTE_PAIRS + (1 << JOINT_BITS) >> 6


@compiled
def note_crossings(data: NDArray[np.uint8], ends: NDArray[np.int64], joints: NDArray[np.uint64]) -> None:
    """Set the bits of all places between two characters inside a token; tokens lie one after another."""
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
        n_right = n_bytes_of_character(token[place])
        is_left_whole, is_right_whole = token[first] & 0xC0 != 0x80, place + n_right <= len(token)
        left = right = np.uint64(0)
        for index in range(place - first):
            left |= np.uint64(token[first + index]) << np.uint64(8 * index)
        for index in range(min(n_right, len(token) - place)):
            right |= np.uint64(token[place + index]) << np.uint64(8 * index)
        last, lead = np.uint64(token[place - 1]), np.uint64(token[place])
        if is_left_whole and is_right_whole:
            set_bit(joints, _bit_of_characters(left, right))
            continue
        set_bit(joints, _bit_of_bytes(last, lead))
        if is_left_whole:
            set_bit(joints, _bit_of_characters(left, lead))
        elif is_right_whole:
            set_bit(joints, _bit_of_characters(last, right))
        else:
            set_bit(joints, np.uint64(_N_BYTE_PAIRS) + _bit_of_bytes(last, lead))


@compiled
def may_cross(left, right, last, joints):
    """Say whether any token reaches over two characters: their bytes, and the last byte of the left one."""
    return has_bit(joints, _bit_of_characters(left, right)) or may_cross_partly(left, right, last, joints)


@compiled
def may_cross_partly(left, right, last, joints):
    """Say whether a token that has not all of one of them reaches over two characters."""
    lead = right & np.uint64(0xFF)
    pair = _bit_of_bytes(np.uint64(last), lead)
    return has_bit(joints, pair) and (
        has_bit(joints, _bit_of_characters(left, lead))
        or has_bit(joints, _bit_of_characters(np.uint64(last), right))
        or has_bit(joints, np.uint64(_N_BYTE_PAIRS) + pair)
    )


@compiled
def n_bytes_of_character(lead):
    """Tell how many bytes a character has by its first one."""
    return 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)


@compiled
def _bit_of_bytes(left, right):
    return left << np.uint64(8) | right


@compiled
def _bit_of_characters(left, right):
    mixed = (left << np.uint64(32) | right) * FACTOR
    return np.uint64(2 * _N_BYTE_PAIRS) + (mixed >> np.uint64(64 - JOINT_BITS))
