r"""The patterns of `patterns.py` as loops: where the piece that begins at a place ends.

Each rule follows its regular expression branch by branch. What the engine finds by going back is known
beforehand: of `\s+(?!\S)` all but the last space, of `\s*[\r\n]+` all up to the last line end.
"""

import numpy as np

from dsllm.text.compiled import compiled
from dsllm.text.patterns_ascii_compiled import cut_ascii
from dsllm.text.scan_compiled import decode
from dsllm.text.vector import BLOCK_BYTES

# Classes of a code point. SEGMENT marks what is cut off before the pattern sees it.
LETTER, NUMBER, SPACE, MARK, SYMBOL, UPPER, LOWER, SEGMENT = 1, 2, 4, 8, 16, 32, 64, 128
BY_CUTS, GPT2, GPT4, GPT4O, DEEPSEEK_V3 = 0, 1, 2, 3, 4
# What a scan remembers: next byte of the text, and where the segment ends that it is in.
PLACE, SEGMENT_END = 0, 1
ANY_DIGITS = 1 << 62
_WORD = LETTER | MARK
_LINE_FEED, _RETURN, _BLANK, _APOSTROPHE, _SLASH = 0x0A, 0x0D, 0x20, 0x27, 0x2F


@compiled
def scan_pattern(text, end, state, classes, rule, n_digits, ends):
    """Write where the next pieces of `text[:end]` end, as many as `ends` has room for.

    Args:
        text: uint8 bytes of valid UTF-8 with 64 more behind `end`.
        end: where the text ends.
        state: int64 (2,): PLACE is where the text begins, SEGMENT_END 0, before the first call.
        classes: as from `patterns.py`.
        rule: which pattern.
        n_digits: how many numbers a piece may have.
        ends: int64.

    Returns:
        The number of pieces. All of the text is done when PLACE is `end`.
    """
    place, segment_end = state[PLACE], end
    has_blocks = (
        (rule == GPT2 and n_digits == ANY_DIGITS)
        or (rule == GPT4 and n_digits in (1, 3))
        or rule == DEEPSEEK_V3
    )
    if rule == DEEPSEEK_V3 or (rule == GPT2 and n_digits == 1):
        segment_end = state[SEGMENT_END]
    n_pieces = 0
    while place < end and n_pieces < len(ends):
        if (
            has_blocks
            and text[place] < 0x80
            and text[place + 1] < 0x80
            and n_pieces + BLOCK_BYTES + 8 < len(ends)
        ):
            n_new = cut_ascii(text, place, end, rule == GPT2, rule == DEEPSEEK_V3, n_digits, ends, n_pieces)
            if n_new > n_pieces:
                n_pieces = n_new
                place = ends[n_pieces - 1]
                continue
        if place >= segment_end:
            segment_end = _segment_end(text, place, end, classes, n_digits)
        if rule == GPT2:
            place = _gpt2(text, place, segment_end, classes)
        elif rule == GPT4:
            place = _gpt4(text, place, segment_end, classes, n_digits)
        elif rule == GPT4O:
            place = _gpt4o(text, place, segment_end, classes, n_digits)
        else:
            place = _deepseek_v3(text, place, segment_end, classes)
        ends[n_pieces] = place
        n_pieces += 1
    state[PLACE], state[SEGMENT_END] = place, segment_end
    return n_pieces


@compiled
def _character(text, place, classes):
    """Give the classes of the character at a place, and the place behind it."""
    if text[place] < 0x80:
        return np.int64(classes[text[place]]), place + 1
    code, n_bytes = decode(text, place)
    return np.int64(classes[code]), place + n_bytes


@compiled
def _next(text, place, end, classes):
    """Do the same; there are no classes at the end."""
    return _character(text, place, classes) if place < end else (np.int64(-1) & 0, place)


@compiled
def _segment_end(text, place, end, classes, n_digits):
    """End what is cut off first: some numbers, a run of SEGMENT, one such digit; or what lies between."""
    kind, after = _character(text, place, classes)
    if n_digits == 1 and kind & SEGMENT:
        return after
    if n_digits == 1:
        return _run_without(text, after, end, classes, SEGMENT)
    if kind & NUMBER:
        return _numbers(text, after, end, classes, n_digits - 1)
    if kind & SEGMENT:
        return _run(text, after, end, classes, SEGMENT)
    return _run_without(text, after, end, classes, SEGMENT | NUMBER)


@compiled
def _run(text, place, end, classes, wanted):
    """Go on as long as characters have one of the classes."""
    while place < end:
        kind, after = _character(text, place, classes)
        if not kind & wanted:
            break
        place = after
    return place


@compiled
def _run_without(text, place, end, classes, unwanted):
    """Go on as long as characters have none of the classes."""
    while place < end:
        kind, after = _character(text, place, classes)
        if kind & unwanted:
            break
        place = after
    return place


@compiled
def _numbers(text, place, end, classes, n_most):
    n_found = 0
    while place < end and n_found < n_most:
        kind, after = _character(text, place, classes)
        if not kind & NUMBER:
            break
        place = after
        n_found += 1
    return place


@compiled
def _line_ends(text, place, end, byte):
    """Go on over line ends, and over `byte`."""
    while place < end and (text[place] == _LINE_FEED or text[place] == _RETURN or text[place] == byte):
        place += 1
    return place


@compiled
def _is_line_end(byte):
    return byte in (_LINE_FEED, _RETURN)


@compiled
def _spaces(text, place, end, classes, take_line_ends):
    """End white space: behind its last line end, or else before its last character if more follows."""
    start = last = place
    behind_line_end = -1
    while place < end:
        kind, after = _character(text, place, classes)
        if not kind & SPACE:
            break
        if _is_line_end(text[place]):
            behind_line_end = after
        last, place = place, after
    if take_line_ends and behind_line_end >= 0:
        return behind_line_end
    return last if place < end and last > start else place


@compiled
def _contraction(text, place, end, fold):
    """Give the length of what is like 's or 'll at a place, 0 for none; any case if `fold`."""
    if place + 1 >= end or text[place] != _APOSTROPHE:
        return 0
    case = 0x20 if fold else 0
    first = text[place + 1] | case
    if first in (0x73, 0x74, 0x6D, 0x64):  # s t m d
        return 2
    if place + 2 >= end:
        return 0
    second = text[place + 2] | case
    if (second == 0x65 and first in (0x72, 0x76)) or first == second == 0x6C:  # re ve ll
        return 3
    return 3 if fold and text[place + 1] == 0xC5 and text[place + 2] == 0xBF else 0  # the long s


@compiled
def _gpt2(text, place, end, classes):
    n_bytes = _contraction(text, place, end, False)
    if n_bytes:
        return place + n_bytes
    kind, after = _character(text, place, classes)
    if text[place] == _BLANK and after < end:
        next_kind, behind = _character(text, after, classes)
        if not next_kind & SPACE:
            kind, after = next_kind, behind
    if kind & SPACE:
        return _spaces(text, place, end, classes, False)
    if kind & (LETTER | NUMBER):
        return _run(text, after, end, classes, kind & (LETTER | NUMBER))
    return _run_without(text, after, end, classes, SPACE | LETTER | NUMBER)


@compiled
def _gpt4(text, place, end, classes, n_digits):
    n_bytes = _contraction(text, place, end, True)
    if n_bytes:
        return place + n_bytes
    kind, after = _character(text, place, classes)
    if kind & LETTER:
        return _run(text, after, end, classes, LETTER)
    if kind & NUMBER:
        return _numbers(text, after, end, classes, n_digits - 1)
    next_kind, behind = _next(text, after, end, classes)
    if next_kind & LETTER and not _is_line_end(text[place]):
        return _run(text, behind, end, classes, LETTER)
    if not kind & SPACE or (
        text[place] == _BLANK and after < end and not next_kind & (SPACE | LETTER | NUMBER)
    ):
        after = _run_without(text, after, end, classes, SPACE | LETTER | NUMBER)
        return _line_ends(text, after, end, _RETURN)
    return _spaces(text, place, end, classes, True)


@compiled
def _gpt4o(text, place, end, classes, n_digits):
    kind, after = _character(text, place, classes)
    next_kind, _ = _next(text, after, end, classes)
    start = -1
    if kind & LETTER:
        start = place
    elif not kind & NUMBER and not _is_line_end(text[place]) and next_kind & _WORD:
        start = after
    elif kind & MARK:
        start = place
    if start >= 0:
        place = _cased(text, start, end, classes, kind & MARK and start == after)
        return place + _contraction(text, place, end, True)
    if kind & NUMBER:
        return _numbers(text, after, end, classes, n_digits - 1)
    if not kind & SPACE or (
        text[place] == _BLANK and after < end and not next_kind & (SPACE | LETTER | NUMBER)
    ):
        after = _run_without(text, after, end, classes, SPACE | LETTER | NUMBER)
        return _line_ends(text, after, end, _SLASH)
    return _spaces(text, place, end, classes, True)


@compiled
def _cased(text, start, end, classes, is_behind_mark):
    """End a word: letters that are not lower case, then letters that are not upper case.

    Where no lower case follows, the last that has no case stands for it; where there is none of these either,
    a mark before the word does, which is then alone; and without one the word ends where it is.
    """
    place, behind_caseless = start, -1
    while place < end:
        kind, after = _character(text, place, classes)
        if not kind & _WORD or kind & LOWER:
            break
        if not kind & UPPER:
            behind_caseless = after
        place = after
    kind, after = _next(text, place, end, classes)
    if kind & LOWER:
        while place < end:
            kind, after = _character(text, place, classes)
            if not kind & _WORD or kind & UPPER:
                break
            place = after
        return place
    if behind_caseless >= 0:
        return behind_caseless
    return start if is_behind_mark else place


@compiled
def _deepseek_v3(text, place, end, classes):
    kind, after = _character(text, place, classes)
    if kind & NUMBER:
        return end
    next_kind, behind = _next(text, after, end, classes)
    is_symbol = kind & SYMBOL
    if is_symbol and text[place] < 0x80 and after < end and text[after] < 0x80 and next_kind & LETTER:
        while behind < end and text[behind] < 0x80 and classes[text[behind]] & LETTER:
            behind += 1
        return behind
    if kind & _WORD:
        return _run(text, after, end, classes, _WORD)
    if next_kind & _WORD and not is_symbol and not _is_line_end(text[place]):
        return _run(text, behind, end, classes, _WORD)
    if is_symbol or (text[place] == _BLANK and next_kind & SYMBOL):
        after = _run(text, after, end, classes, SYMBOL)
        return _line_ends(text, after, end, _RETURN)
    if kind & SPACE:
        return _spaces(text, place, end, classes, True)
    return _unmatched(text, after, end, classes)


@compiled
def _unmatched(text, place, end, classes):
    """Go on over what the pattern does not match: controls, unassigned code points, no word behind."""
    while place < end:
        kind, after = _character(text, place, classes)
        if kind & (_WORD | SYMBOL | SPACE) or _next(text, after, end, classes)[0] & _WORD:
            break
        place = after
    return place
