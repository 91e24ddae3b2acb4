"""The cuts of `pretokens.py`, compiled: one pass over UTF-8 bytes, 64 ASCII bytes at a time.

The six cuts of the definition are done one after another, each on all pieces. Whether there is a cut between
two neighbours can be told from their classes, though, and from those of what comes behind: at most two
characters, or a run of spaces and one more. So every place is decided once, from left to right.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from dsllm.text import pretokens as definition
from dsllm.text.compiled import compiled
from dsllm.text.scan_compiled import decode
from dsllm.text.vector import BLOCK_BYTES, ascii_masks, count_trailing_zeros, write_places

LINE_END, SPACE, LETTER, PUNCTUATION, CJK, NUMBER = 1, 2, 4, 8, 16, 32
_SOME = 64  # set for every character, one without a class included
# What a scan remembers: next byte of the text, and the classes of the character before it.
PLACE, KIND = 0, 1


@functools.cache
def piece_classes() -> NDArray[np.uint8]:
    """Give the classes of every code point, shape (0x110000,): a bit each, as some have several."""
    classes = np.full(0x110000, _SOME, np.uint8)
    tables = {
        LINE_END: definition.LINE_ENDS,
        SPACE: definition.SPACES,
        LETTER: definition.LETTERS,
        PUNCTUATION: definition.PUNCTUATION,
        CJK: definition.CJK,
        NUMBER: definition.NUMBERS,
    }
    for bit, table in tables.items():
        for first, last in definition.code_point_ranges(table):
            classes[first : last + 1] |= bit
    return classes


@compiled
def scan_pieces(text, end, state, classes, ends):
    """Write where the next pieces of `text[:end]` end, as many as `ends` has room for.

    Args:
        text: uint8 bytes of valid UTF-8 with 64 more behind `end`.
        end: where the text ends.
        state: int64 (2,): PLACE is where the text begins, KIND 0, before the first call.
        classes: as from `piece_classes`.
        ends: int64, of 4 * BLOCK_BYTES or more.

    Returns:
        The number of pieces. All of the text is done when PLACE is `end`.
    """
    place, kind = state[PLACE], state[KIND]
    n_pieces = 0
    while place < end and n_pieces + 2 * BLOCK_BYTES < len(ends):
        next_kind, after = _look(text, place, end, classes)
        if kind and _is_cut(text, after, end, kind, next_kind, classes):
            ends[n_pieces] = place
            n_pieces += 1
        if text[place] < 0x80:
            cuts, n_done = _cuts_in_block(text, place, end)
            if n_done > 1:
                n_pieces = write_places(cuts, place, ends, n_pieces)
                place += n_done
                kind = np.int64(classes[text[place - 1]])
                continue
        place, kind = after, next_kind
    if place >= end and kind:
        ends[n_pieces] = end
        n_pieces += 1
    state[PLACE], state[KIND] = place, kind
    return n_pieces


@compiled
def _look(text, place, end, classes):
    """Give the classes of the character at a place, those of a line end at the end, and the place behind."""
    if place >= end:
        return np.int64(LINE_END | SPACE | _SOME), place
    if text[place] < 0x80:
        return np.int64(classes[text[place]]), place + 1
    code, n_bytes = decode(text, place)
    return np.int64(classes[code]), place + n_bytes


@compiled
def _is_cut(text, after, end, a, b, classes):
    """Decide whether there is a cut between characters of classes `a` and `b`; `after` is the place behind b.

    Each line below is a cut of the definition.
    """
    if (a | b) & (LINE_END | NUMBER) or (a ^ b) & CJK:
        return True
    if (a ^ b) & LETTER and not (a & SPACE and b & LETTER):
        return True
    if a & PUNCTUATION and not b & PUNCTUATION:
        return True
    if b & PUNCTUATION and not a & (PUNCTUATION | SPACE):
        return True
    if not b & SPACE:
        return False
    c, behind = _look(text, after, end, classes)
    if c & LETTER:  # which take the space before them
        return True
    if c & PUNCTUATION and not b & PUNCTUATION:  # likewise, but for a wide space that goes with letters
        d, _ = _look(text, behind, end, classes)
        if not (c & SPACE and d & LETTER):
            return True
    return not a & SPACE and _end_a_piece(text, after, end, a, b, classes)


@compiled
def _end_a_piece(text, place, end, a, b, classes):
    """Say whether the spaces from `b` on are the last of their piece, and not all of it."""
    are_wide = has_wide = b & PUNCTUATION  # U+3000 is a space and punctuation
    while True:
        kind, behind = _look(text, place, end, classes)
        if kind & LINE_END or not kind & SPACE:
            break
        are_wide &= kind
        has_wide |= kind & PUNCTUATION
        place = behind
    if a & PUNCTUATION and b & PUNCTUATION:  # one piece with punctuation behind the spaces, too
        return not (are_wide and kind & PUNCTUATION and not kind & LETTER)
    return has_wide != 0 or kind & (LINE_END | LETTER | PUNCTUATION) != 0


@compiled
def _cuts_in_block(text, place, end):
    """Find the cuts before each but the first of the ASCII characters from a place on; returns their number.

    Where a space follows a character without a class the block ends: what is behind decides.
    """
    one = np.uint64(1)
    is_high, letters, digits, others, spaces, line_ends = ascii_masks(text, place)
    n_ascii = min(count_trailing_zeros(is_high), end - place)
    inside = ~np.uint64(0) >> np.uint64(BLOCK_BYTES - n_ascii)
    letters, digits, others = letters & inside, digits & inside, others & inside
    spaces, line_ends = spaces & inside, line_ends & inside
    punctuation = letters | others
    alone = line_ends | digits
    cuts = alone | alone << one
    cuts |= (letters ^ letters << one) & ~(spaces << one & letters)
    cuts |= punctuation << one & ~punctuation
    cuts |= punctuation & ~((punctuation | spaces) << one)
    cuts |= spaces & punctuation >> one
    unclear = spaces & ~((punctuation | digits | spaces) << one) & ~one
    n_done = n_ascii if place + n_ascii == end else n_ascii - 1  # what is behind the last may decide
    n_done = min(n_done, count_trailing_zeros(unclear))
    if n_done <= 1:
        return cuts, n_done
    return cuts & ~one & ~np.uint64(0) >> np.uint64(BLOCK_BYTES - n_done), n_done
