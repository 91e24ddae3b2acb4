"""Lines and paragraphs of a text, compiled: how they begin and end, how long they are, which recur."""

import functools

import numpy as np
from numpy.typing import NDArray

from dsllm.text import features
from dsllm.text.compiled import compiled
from dsllm.text.marks_compiled import count_chars
from dsllm.text.scan import N_CODE_POINTS
from dsllm.text.scan_compiled import decode
from dsllm.text.shingles_compiled import hash_word
from dsllm.text.term_features import SHORT_RAW_LINE_CHARS
from dsllm.text.term_features import STOPS as STOPS_OF_RAW_LINES
from dsllm.text.vector import BLOCK_BYTES, count_ones, count_trailing_zeros, load_word, mask_of_equal

# What `measure_lines` counts. A raw line has its white space; blank lines are none.
(
    LINES, BULLETS, ELLIPSIS_ENDS, TERMINALS, SHORT, DUPLICATES, DUPLICATE_CHARS, STOPS, RAW_SHORT,
    RAW_DUPLICATES, RAW_DUPLICATE_CHARS, PARAGRAPHS, PARAGRAPH_DUPLICATES, PARAGRAPH_DUPLICATE_CHARS,
    LINE_FEEDS,
) = range(15)  # fmt: skip
N_LINE_COUNTS = 15
_LINE_FEED, _RETURN = np.uint8(10), np.uint8(13)
_RAW, _PARAGRAPH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_STEP = np.uint64(0xC6A4A7935BD1E995)
_EMPTY, _ONE = np.uint64(0), np.uint64(1)
_IS_BULLET, _IS_TERMINAL, _IS_CLOSER, _IS_STOP = np.uint8(1), np.uint8(2), np.uint8(4), np.uint8(8)
_SHORT_RAW = SHORT_RAW_LINE_CHARS


@functools.cache
def line_kinds() -> NDArray[np.uint8]:
    """Say of each code point what a line is that begins or ends with it, shape (0x110000,).

    A bit each: what begins a list's item; what ends a sentence or a quotation; what may stand behind these;
    what ends a sentence, for raw lines.
    """
    kinds = np.zeros(N_CODE_POINTS, np.uint8)
    for bit, characters in (
        (_IS_BULLET, features.BULLETS),
        (_IS_TERMINAL, features.TERMINALS),
        (_IS_CLOSER, features.CLOSERS),
        (_IS_STOP, STOPS_OF_RAW_LINES),
    ):
        kinds[[ord(each) for each in characters]] |= bit
    return kinds


@compiled
def next_line_end(data, place, end):
    """Find the next line feed at `place` or behind it; `end` where there is none."""
    while place < end:
        found = mask_of_equal(data, place, _LINE_FEED)
        if found:
            return min(place + count_trailing_zeros(found), end)
        place += BLOCK_BYTES
    return end


@compiled
def count_line_feeds_between(data, start, end):
    """Count line feeds."""
    n_found = 0
    for place in range(start, end, BLOCK_BYTES):
        inside = ~np.uint64(0) >> np.uint64(max(0, BLOCK_BYTES - (end - place)))
        n_found += count_ones(mask_of_equal(data, place, _LINE_FEED) & inside)
    return n_found


@compiled
def skip_white(data, start, end):
    """Find the first character that is not white space (`str.isspace`)."""
    while start < end:
        n_bytes = white_bytes(data, start)
        if n_bytes == 0:
            break
        start += n_bytes
    return min(start, end)


@compiled
def skip_white_back(data, start, end):
    """Find the end of the last character that is not white space."""
    while end > start:
        last = start_of_last(data, start, end)
        if white_bytes(data, last) == 0:
            break
        end = last
    return end


@compiled
def start_of_last(data, start, end):
    """Find where the last character begins."""
    end -= 1
    while end > start and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


@compiled
def white_bytes(data, place):
    """Give the bytes of the white space at `place`, 0 for another character."""
    byte = data[place]
    if byte < 0x80:
        return 1 if byte == 0x20 or 0x09 <= byte <= 0x0D or 0x1C <= byte <= 0x1F else 0
    if byte not in (0xC2, 0xE1, 0xE2, 0xE3):
        return 0
    code, n_bytes = decode(data, place)
    is_white = (
        code in (0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000) or 0x2000 <= code <= 0x200A
    )
    return n_bytes if is_white else 0


@compiled
def code_at(data, place):
    """Read the character at `place`."""
    return np.int64(data[place]) if data[place] < 0x80 else decode(data, place)[0]


@compiled
def measure_lines(data, start, end, short_chars, kinds, has_raw, room, counts):
    """Add up what the constants above name, of `data[start:end]`, into `counts`, int64 (N_LINE_COUNTS,).

    A line is hashed once, without the white space at its ends. What is added for that white space makes of it
    the hash of a raw line, and of lines the hash of a paragraph.

    Args:
        data: uint8, with room behind the end.
        start: where the text begins.
        end: where it ends.
        short_chars: characters of a line that is still short.
        kinds: uint8, by code point: which of the `_IS_` bits it has, as `line_kinds` gives them.
        has_raw: whether raw lines are counted.
        room: uint64, a hash table: a power of two long, at least 8 times the lines that are not blank.
        counts: where to.
    """
    n_line_feeds = count_line_feeds_between(data, start, end)
    counts[LINE_FEEDS] = n_line_feeds
    table = _empty_table(room, (8 if has_raw else 4) * min(n_line_feeds + 1, (end - start) // 2 + 1))
    paragraph = np.int64(-1)  # where the paragraph that is open begins
    last = behind = start  # where its last line ends, without and with its white space
    value, n_returns = np.uint64(0), 0
    line = start
    while line < end:
        line_end = next_line_end(data, line, end)
        first = skip_white(data, line, line_end)
        if first == line_end:
            if paragraph >= 0:
                _add_paragraph(data, paragraph, last, value, n_returns, table, counts)
            paragraph = np.int64(-1)
            line = line_end + 1
            continue
        if paragraph >= 0:
            n_returns += data[behind - 1] == _RETURN
            behind -= data[behind - 1] == _RETURN
            between = _hash_white(data, last, behind) * _STEP + _hash_white(data, line, first)
        last, behind = skip_white_back(data, first, line_end), line_end
        hashed = hash_line(data, first, last)
        _add_line(data, first, last, hashed, short_chars, kinds, table, counts)
        if has_raw:
            white = _hash_white(data, line, first) * _STEP + _hash_white(data, last, line_end)
            _add_raw_line(data, line, line_end, hashed + white, kinds, table, counts)
        if paragraph < 0:
            paragraph, value, n_returns = first, hashed, 0
        else:
            value = (value ^ value >> np.uint64(29)) * _STEP + (hashed + between)
        line = line_end + 1
    if paragraph >= 0:
        _add_paragraph(data, paragraph, last, value, n_returns, table, counts)


@compiled
def _empty_table(room, n_slots):
    size = 64
    while size < n_slots:
        size *= 2
    table = room[:size]
    table[:] = _EMPTY
    return table


@compiled
def _hash_white(data, start, end):
    return hash_word(data, start, end) if start < end else np.uint64(0)


@compiled
def hash_line(data, start, end):
    """Hash bytes, 32 at a time where there are more; 16 bytes from the last place on may be read."""
    if end - start <= 32:
        return hash_word(data, start, end)
    a = b = c = d = np.uint64(end - start) * _STEP
    while start < end:
        place = min(start, end - 32)  # the last 32 bytes may have been read before
        a = _hash_more(a, load_word(data, place))
        b = _hash_more(b, load_word(data, place + 8))
        c = _hash_more(c, load_word(data, place + 16))
        d = _hash_more(d, load_word(data, place + 24))
        start += 32
    return _hash_more(_hash_more(_hash_more(a, b), c), d)


@compiled
def _hash_more(value, bits):
    value = (value ^ bits) * _STEP
    return value ^ value >> np.uint64(32)


@compiled
def _add_line(data, first, last, hashed, short_chars, kinds, table, counts):
    n_bytes = last - first
    counts[LINES] += 1
    counts[SHORT] += n_bytes <= short_chars or (
        n_bytes <= 4 * short_chars and count_chars(data, first, last) <= short_chars
    )
    counts[BULLETS] += kinds[code_at(data, first)] & _IS_BULLET != 0
    counts[ELLIPSIS_ENDS] += ends_in_ellipsis(data, first, last)
    if not _put(table, hashed):
        counts[DUPLICATES] += 1
        counts[DUPLICATE_CHARS] += count_chars(data, first, last)
    while last > first:
        place = start_of_last(data, first, last)
        kind = kinds[code_at(data, place)]
        if not kind & _IS_CLOSER:
            counts[TERMINALS] += kind & _IS_TERMINAL != 0
            break
        last = place


@compiled
def _add_raw_line(data, line, line_end, hashed, kinds, table, counts):
    n_bytes = line_end - line
    counts[RAW_SHORT] += n_bytes <= _SHORT_RAW or (
        n_bytes <= 4 * _SHORT_RAW and count_chars(data, line, line_end) <= _SHORT_RAW
    )
    counts[STOPS] += kinds[code_at(data, start_of_last(data, line, line_end))] & _IS_STOP != 0
    if not _put(table, hashed ^ _RAW):
        counts[RAW_DUPLICATES] += 1
        counts[RAW_DUPLICATE_CHARS] += count_chars(data, line, line_end)


@compiled
def _add_paragraph(data, first, last, hashed, n_returns, table, counts):
    """Count a paragraph; the returns before line feeds are no part of it."""
    counts[PARAGRAPHS] += 1
    if not _put(table, hashed ^ _PARAGRAPH):
        counts[PARAGRAPH_DUPLICATES] += 1
        counts[PARAGRAPH_DUPLICATE_CHARS] += count_chars(data, first, last) - n_returns


@compiled
def ends_in_ellipsis(data, first, last):
    """Tell whether a line ends in three stops, three ideographic ones, or the character for an ellipsis."""
    if last - first < 3:
        return False
    a, b, c = data[last - 3], data[last - 2], data[last - 1]
    if a == 0x2E and b == 0x2E and c == 0x2E:
        return True
    if a == 0xE2 and b == 0x80 and c == 0xA6:
        return True
    if last - first < 9:
        return False
    for place in range(last - 9, last, 3):
        if data[place] != 0xE3 or data[place + 1] != 0x80 or data[place + 2] != 0x82:
            return False
    return True


@compiled
def _put(table, value):
    """Put a hash into a table; tells whether it is new."""
    value = max(value, _ONE)
    mask = np.uint64(len(table) - 1)
    slot = value * _STEP >> np.uint64(20) & mask
    while table[slot] != _EMPTY:
        if table[slot] == value:
            return False
        slot = (slot + _ONE) & mask
    table[slot] = value
    return True
