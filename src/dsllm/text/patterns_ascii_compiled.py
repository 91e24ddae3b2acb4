"""The patterns of `patterns_compiled.py` for ASCII, 64 bytes at a time: a bit a byte, cuts by shifts.

A block begins where a piece begins. Whether there is a cut before a character can be told from its class and
from those of its neighbours, but for runs of white space, of which the last line end and the last character
count. What the end of the block leaves open is left to the next block or to the loop by characters.
"""

import numpy as np

from dsllm.text.compiled import compiled
from dsllm.text.vector import BLOCK_BYTES, ascii_masks, count_trailing_zeros, mask_of_equal, write_places

_BLANK, _APOSTROPHE = np.uint8(0x20), np.uint8(0x27)
_ONE = np.uint64(1)


@compiled
def cut_ascii(text, place, end, is_gpt2, is_v3, n_digits, ends, n_pieces):
    """Write where the next pieces end that the next block decides; returns the new number of pieces.

    Args:
        text: as in `scan_pattern`.
        place: where a piece begins.
        end: where the text ends.
        is_gpt2: GPT-2's pattern, whose white space knows no line ends.
        is_v3: DeepSeek-V3's, which has no contractions and cuts numbers off first.
        n_digits: 1 or 3; GPT-2 has any number.
        ends: with room for BLOCK_BYTES and 8 more.
        n_pieces: how many are written.
    """
    is_high, letters, digits, others, spaces, line_ends = ascii_masks(text, place)
    n_ascii = min(count_trailing_zeros(is_high), end - place)
    inside = ~np.uint64(0) >> np.uint64(BLOCK_BYTES - n_ascii)
    letters, digits, spaces, line_ends = (
        letters & inside,
        digits & inside,
        spaces & inside,
        line_ends & inside,
    )
    n_known = n_ascii - 1  # no cut behind this place is told
    rest = inside & ~(letters | digits | spaces)
    if is_v3:
        others &= inside
        n_known = min(n_known, count_trailing_zeros(rest & ~others))  # controls match nothing
    else:
        others = rest
    behind_blank = (mask_of_equal(text, place, _BLANK) & inside) << _ONE
    other_starts = others & ~(others << _ONE) & ~behind_blank
    if not is_v3:
        apostrophes = mask_of_equal(text, place, _APOSTROPHE) & other_starts
        n_known = min(n_known, count_trailing_zeros(apostrophes))
    if is_gpt2:
        cuts = spaces & ~(spaces << _ONE) | spaces & ~(spaces >> _ONE)
        cuts |= (letters & ~(letters << _ONE) | digits & ~(digits << _ONE)) & ~behind_blank
    else:
        cuts, inner = _cuts_of_spaces(spaces, line_ends, others, digits if is_v3 else np.uint64(0))
        cuts |= letters & ~((letters | inner | other_starts) << _ONE)
        cuts |= digits if n_digits == 1 else digits & ~(digits << _ONE)
        if n_digits > 1:
            fourths = digits & digits << _ONE & digits << np.uint64(2) & digits << np.uint64(3)
            n_known = min(n_known, count_trailing_zeros(fourths))
            cuts |= fourths & ~fourths + _ONE
    cuts |= other_starts
    while n_known > 0 and spaces >> np.uint64(n_known) & _ONE and spaces >> np.uint64(n_known - 1) & _ONE:
        n_known -= 1
    if n_known <= 0:
        return n_pieces
    cuts &= ~_ONE & ~np.uint64(0) >> np.uint64(BLOCK_BYTES - 1 - n_known)
    return write_places(cuts, place, ends, n_pieces)


@compiled
def _cuts_of_spaces(spaces, line_ends, others, digits):
    """Find the cuts in white space, and what of it is no line end.

    Line ends behind other characters are theirs. Of a run there is a piece up to its last line end; what is
    left goes but for its last character, which may belong to what follows; before `digits` all of it goes.
    """
    taken = line_ends & ~(line_ends + (line_ends & others << _ONE))
    free = spaces & ~taken
    inner = free & ~line_ends
    starts = inner & (free & line_ends) << _ONE
    bad = (inner + starts) & ~inner & line_ends  # behind such a start there is another line end
    while bad:
        place = np.int64(count_trailing_zeros(bad)) - 1
        while place > 0 and inner >> np.uint64(place - 1) & _ONE:
            place -= 1
        starts &= ~(_ONE << np.uint64(place))
        bad &= bad - _ONE
    return free & ~(free << _ONE) | starts | inner & ~((spaces | digits) >> _ONE), inner
