"""Lines and paragraphs of a text, compiled: how they begin and end, how long they are, which recur."""

import numpy as np

from dsllm.text.compiled import compiled
from dsllm.text.marks_compiled import count_chars
from dsllm.text.scan_compiled import decode
from dsllm.text.shingles_compiled import hash_word
from dsllm.text.vector import BLOCK_BYTES, count_trailing_zeros, mask_of_equal

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
    place = next_line_end(data, start, end)
    while place < end:
        n_found += 1
        place = next_line_end(data, place + 1, end)
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
def measure_lines(data, start, end, short_chars, bullets, terminals, closers, stops, room, scratch, counts):
    """Add up what the constants above name, of `data[start:end]`, into `counts`, int64 (N_LINE_COUNTS,).

    Args:
        data: uint8, with room behind the end.
        start: where the text begins.
        end: where it ends.
        short_chars: characters of a line that is still short.
        bullets: int64, code points that begin a list's item.
        terminals: int64, code points that end a sentence or a quotation.
        closers: int64, code points that may stand behind these.
        stops: int64, code points that end a sentence, for raw lines.
        room: uint64, a hash table: a power of two long, at least 8 times the lines that are not blank.
        scratch: uint8 with room for the text.
        counts: where to.
    """
    n_line_feeds = count_line_feeds_between(data, start, end)
    counts[LINE_FEEDS] = n_line_feeds
    size = 64
    while size < 8 * min(n_line_feeds + 1, (end - start) // 2 + 1):
        size *= 2
    table = room[:size]
    table[:] = _EMPTY
    paragraph = np.int64(-1)  # where the paragraph that is open begins
    paragraph_end, has_returns = start, False
    line = start
    while line < end:
        line_end = next_line_end(data, line, end)
        first = skip_white(data, line, line_end)
        if first == line_end:
            if paragraph >= 0:
                _add_paragraph(data, paragraph, paragraph_end, has_returns, table, scratch, counts)
            paragraph, has_returns = np.int64(-1), False
        else:
            last = skip_white_back(data, first, line_end)
            if paragraph < 0:
                paragraph = first
            paragraph_end = last
            has_returns = has_returns or data[line_end - 1] == _RETURN
            _add_line(data, first, last, short_chars, bullets, terminals, closers, table, counts)
            _add_raw_line(data, line, line_end, stops, table, counts)
        line = line_end + 1
    if paragraph >= 0:
        _add_paragraph(data, paragraph, paragraph_end, has_returns, table, scratch, counts)


@compiled
def _add_line(data, first, last, short_chars, bullets, terminals, closers, table, counts):
    n_chars = count_chars(data, first, last)
    counts[LINES] += 1
    counts[SHORT] += n_chars <= short_chars
    counts[BULLETS] += _contains(bullets, code_at(data, first))
    counts[ELLIPSIS_ENDS] += ends_in_ellipsis(data, first, last)
    if not _put(table, hash_word(data, first, last)):
        counts[DUPLICATES] += 1
        counts[DUPLICATE_CHARS] += n_chars
    while last > first:
        place = start_of_last(data, first, last)
        code = code_at(data, place)
        if not _contains(closers, code):
            counts[TERMINALS] += _contains(terminals, code)
            break
        last = place


@compiled
def _add_raw_line(data, line, line_end, stops, table, counts):
    n_chars = count_chars(data, line, line_end)
    counts[RAW_SHORT] += n_chars <= 30
    counts[STOPS] += _contains(stops, code_at(data, start_of_last(data, line, line_end)))
    if not _put(table, hash_word(data, line, line_end) ^ _RAW):
        counts[RAW_DUPLICATES] += 1
        counts[RAW_DUPLICATE_CHARS] += n_chars


@compiled
def _add_paragraph(data, first, last, has_returns, table, scratch, counts):
    counts[PARAGRAPHS] += 1
    if has_returns:  # those before line feeds are no part of it
        n_bytes = 0
        for place in range(first, last):
            if not (data[place] == _RETURN and data[place + 1] == _LINE_FEED):
                scratch[n_bytes] = data[place]
                n_bytes += 1
        is_new = _put(table, hash_word(scratch, 0, n_bytes) ^ _PARAGRAPH)
        n_chars = count_chars(scratch, 0, n_bytes)
    else:
        is_new = _put(table, hash_word(data, first, last) ^ _PARAGRAPH)
        n_chars = 0 if is_new else count_chars(data, first, last)
    if not is_new:
        counts[PARAGRAPH_DUPLICATES] += 1
        counts[PARAGRAPH_DUPLICATE_CHARS] += n_chars


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
def _contains(codes, code):
    for each in codes:
        if each == code:
            return True
    return False


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
