"""A JSON reader for lines that hold one object each, compiled; see `json_lines.py`.

It accepts no line that RFC 8259 does not, and gives up on what it need not know: keys with escapes, long
numbers, deep nesting. -1 in place of a place means "unsure" all through.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.scan_compiled import encode
from dsllm.text.vector import (
    BLOCK_BYTES,
    copy_string_block,
    count_ones,
    count_trailing_zeros,
    mask_of_equal,
    utf8_masks,
)

BLANK, READ, UNSURE = 0, 1, 2
_MAX_DEPTH = 60
_MAX_NUMBER = 16  # characters: every such number is one for every reader
_MAX_CUT = 3  # bytes of a character of which the next block has the rest
_LINE_FEED = np.uint8(10)


@compiled
def count_line_feeds(data: NDArray[np.uint8]) -> int:
    """Count line feeds."""
    n_whole = len(data) - len(data) % BLOCK_BYTES
    n_found = 0
    for place in range(0, n_whole, BLOCK_BYTES):
        n_found += count_ones(mask_of_equal(data, place, _LINE_FEED))
    for place in range(n_whole, len(data)):
        n_found += data[place] == _LINE_FEED
    return n_found


@compiled
def write_line_ends(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> int:
    """Write the place behind each line feed into `ends`; returns their number."""
    n_whole = len(data) - len(data) % BLOCK_BYTES
    n_found = 0
    for place in range(0, n_whole, BLOCK_BYTES):
        found = mask_of_equal(data, place, _LINE_FEED)
        while found:
            ends[n_found] = place + count_trailing_zeros(found) + 1
            found &= found - np.uint64(1)
            n_found += 1
    for place in range(n_whole, len(data)):
        if data[place] == _LINE_FEED:
            ends[n_found] = place + 1
            n_found += 1
    return n_found


@compiled
def read_lines(
    data: NDArray[np.uint8],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    keys: NDArray[np.uint8],
    key_ends: NDArray[np.int64],
    texts: NDArray[np.uint8],
    text_ends: NDArray[np.int64],
    spans: NDArray[np.int64],
    status: NDArray[np.uint8],
) -> None:
    """Read every line: `texts` gets the unescaped texts, `spans` (n_lines, n_keys, 2) where the values are.

    The first of the keys, which stand one behind the other in `keys`, is that of the text. `texts` has room
    for all of `data` and a block. `status` is BLANK, READ or UNSURE.
    """
    written = 0
    for line in range(len(ends)):
        place = _skip_space(data, starts[line], ends[line])
        status[line] = BLANK
        if place < ends[line]:
            text_end = _read_object(data, place, ends[line], keys, key_ends, texts, written, spans[line])
            status[line] = READ if text_end >= 0 else UNSURE
            written = max(written, text_end)
        text_ends[line] = written


@compiled
def _read_object(data, place, end, keys, key_ends, texts, written, spans):
    """Read one line's object; returns where its text ends in `texts`."""
    if data[place] != ord("{"):
        return -1
    text_end = -1
    place = _skip_space(data, place + 1, end)
    while True:
        key = place + 1
        place = _skip_key(data, place, end)
        if place < 0:
            return -1
        key_end = place - 1
        place = _skip_space(data, place, end)
        if place >= end or data[place] != ord(":"):
            return -1
        place = _skip_space(data, place + 1, end)
        if place >= end:
            return -1
        number = _find_key(data, key, key_end, keys, key_ends)
        value = place
        if number == 0:
            if text_end >= 0 or data[place] != ord('"'):
                return -1
            place, text_end = _copy_string(data, place + 1, end, texts, written)
        else:
            place = _skip_value(data, place, end, texts, written if text_end < 0 else text_end)
        if number >= 0:
            spans[number, 0], spans[number, 1] = value, place
        if place < 0:
            return -1
        place = _skip_space(data, place, end)
        if place >= end:
            return -1
        if data[place] == ord("}"):
            break
        if data[place] != ord(","):
            return -1
        place = _skip_space(data, place + 1, end)
    return text_end if _skip_space(data, place + 1, end) == end else -1


@compiled
def _skip_value(data, place, end, scratch, written):
    """Skip a value of any kind; strings are checked by copying them to where nothing is yet."""
    is_object = np.uint64(0)  # a bit a level: whether it is an object
    depth = 0
    while True:
        character = data[place]
        is_open = False
        if character == ord('"'):
            place = _copy_string(data, place + 1, end, scratch, written)[0]
        elif character in (ord("{"), ord("[")):
            if depth == _MAX_DEPTH:
                return -1
            is_object = is_object << np.uint64(1) | np.uint64(character == ord("{"))
            depth += 1
            place = _skip_space(data, place + 1, end)
            if place >= end:
                return -1
            is_open = data[place] != (ord("}") if is_object & np.uint64(1) else ord("]"))
        else:
            place = _skip_word(data, place, end)
        if place < 0:
            return -1
        while depth and not is_open:  # after a value: the next one, or the end of what holds it
            place = _skip_space(data, place, end)
            if place >= end:
                return -1
            if data[place] == ord(","):
                place = _skip_space(data, place + 1, end)
                is_open = True
            elif data[place] == (ord("}") if is_object & np.uint64(1) else ord("]")):
                place += 1
                depth -= 1
                is_object >>= np.uint64(1)
            else:
                return -1
        if not depth:
            return place
        if is_object & np.uint64(1):
            place = _skip_key(data, place, end)
            place = _skip_space(data, place, end) if place >= 0 else end
            if place >= end or data[place] != ord(":"):
                return -1
            place = _skip_space(data, place + 1, end)
        if place >= end:
            return -1


@compiled
def _skip_key(data, place, end):
    """Skip a key in quotes: printable ASCII without escapes; returns the place behind the quote."""
    if place >= end or data[place] != ord('"'):
        return -1
    place += 1
    while place < end and data[place] != ord('"'):
        if data[place] < 0x20 or data[place] > 0x7E or data[place] == ord("\\"):
            return -1
        place += 1
    return place + 1 if place < end else -1


@compiled
def _find_key(data, start, end, keys, key_ends):
    """Say which of the keys stands there, -1 for none."""
    first = 0
    for number in range(len(key_ends)):
        length = key_ends[number] - first
        if end - start == length:
            n_equal = 0
            while n_equal < length and data[start + n_equal] == keys[first + n_equal]:
                n_equal += 1
            if n_equal == length:
                return number
        first = key_ends[number]
    return -1


@compiled
def _skip_space(data, place, end):
    while place < end and data[place] in (0x20, 0x0A, 0x0D, 0x09):
        place += 1
    return place


@compiled
def _skip_word(data, place, end):
    """Skip a number, true, false or null."""
    start = place
    while place < end and data[place] not in (0x20, 0x0A, 0x0D, 0x09, ord(","), ord("}"), ord("]")):
        place += 1
    length = place - start
    first = data[start]
    if length == 4 and first == ord("t"):
        return place if _spells(data, start, (ord("r"), ord("u"), ord("e"))) else -1
    if length == 4 and first == ord("n"):
        return place if _spells(data, start, (ord("u"), ord("l"), ord("l"))) else -1
    if length == 5 and first == ord("f"):
        is_it = _spells(data, start, (ord("a"), ord("l"), ord("s"))) and data[start + 4] == ord("e")
        return place if is_it else -1
    return place if 0 < length <= _MAX_NUMBER and _is_number(data, start, place) else -1


@compiled
def _spells(data, start, rest):
    return data[start + 1] == rest[0] and data[start + 2] == rest[1] and data[start + 3] == rest[2]


@compiled
def _is_number(data, place, end):
    r"""-?(0|[1-9][0-9]*)(\.[0-9]+)?, which leaves out exponents."""
    if data[place] == ord("-"):
        place += 1
    start = place
    place = _skip_digits(data, place, end)
    if place == start or (data[start] == ord("0") and place > start + 1):
        return False
    if place < end and data[place] == ord("."):
        start = place + 1
        place = _skip_digits(data, start, end)
        if place == start:
            return False
    return place == end


@compiled
def _skip_digits(data, place, end):
    while place < end and ord("0") <= data[place] <= ord("9"):
        place += 1
    return place


@compiled
def _copy_string(data, place, end, target, written):
    """Copy a string's content, unescaped, up to its quote; returns (place behind the quote, written)."""
    while place < end:
        if place + BLOCK_BYTES <= len(data):
            stops, high = copy_string_block(data, place, target, written)
            n_plain = count_trailing_zeros(stops)
            if high:
                n_plain = _check_characters(data, place, n_plain)
                if n_plain < 0:
                    return -1, -1
            place += n_plain
            written += n_plain
            if n_plain >= BLOCK_BYTES - _MAX_CUT:
                continue
        character = data[place]
        if character == ord('"'):
            return place + 1, written
        if character >= 0x80:
            place, written = _copy_characters(data, place, end, target, written)
        elif character == ord("\\"):
            place, written = _copy_escape(data, place, end, target, written)
        elif character >= 0x20:
            target[written] = character
            place, written = place + 1, written + 1
        else:
            return -1, -1
        if place < 0:
            return -1, -1
    return -1, -1


@compiled
def _check_characters(data, place, n_bytes):
    """Check that up to 64 bytes are well-formed UTF-8 (RFC 3629), the first beginning a character.

    Returns the number of whole characters' bytes: a last one may be cut by the block. -1 where they are not.
    """
    leads, leads_of_three, leads_of_four, followers, unknown, wrong = utf8_masks(data, place)
    one, two = np.uint64(1), np.uint64(2)
    wanted = leads << one | leads_of_three << two | leads_of_four << np.uint64(3)
    # With the byte behind them, which follows no lead.
    looked_at = ~np.uint64(0) if n_bytes == BLOCK_BYTES else (two << np.uint64(n_bytes)) - one
    if ((wanted ^ followers) | unknown | wrong) & looked_at:
        return -1
    if n_bytes == BLOCK_BYTES:
        if leads >> np.uint64(63):
            return n_bytes - 1
        if leads_of_three >> np.uint64(62):
            return n_bytes - 2
        if leads_of_four >> np.uint64(61):
            return n_bytes - 3
    return n_bytes


@compiled
def _copy_characters(data, place, end, target, written):
    """Copy characters beyond ASCII, as many as come; each must be well-formed UTF-8 (RFC 3629)."""
    while place + 4 <= end and data[place] >= 0x80:
        first, second, third = data[place], data[place + 1], data[place + 2]
        if first < 0xE0:
            is_good, n_bytes = first >= 0xC2 and second & 0xC0 == 0x80, 2
        elif first < 0xF0:
            is_good, n_bytes = second & 0xC0 == 0x80 and third & 0xC0 == 0x80, 3
            if first == 0xE0:
                is_good = is_good and second >= 0xA0
            elif first == 0xED:  # surrogates
                is_good = is_good and second < 0xA0
        else:
            is_good, n_bytes = second & 0xC0 == 0x80 and third & 0xC0 == 0x80, 4
            is_good = is_good and data[place + 3] & 0xC0 == 0x80 and first <= 0xF4
            if first == 0xF0:
                is_good = is_good and second >= 0x90
            elif first == 0xF4:
                is_good = is_good and second < 0x90
        if not is_good:
            return -1, -1
        target[written], target[written + 1], target[written + 2] = first, second, third
        target[written + 3] = data[place + 3]
        place += n_bytes
        written += n_bytes
    if place < end and data[place] >= 0x80:  # cut: a quote and a brace should follow
        return -1, -1
    return place, written


@compiled
def _copy_escape(data, place, end, target, written):
    """Write what an escape stands for; half a surrogate pair stands for nothing."""
    if place + 2 > end:
        return -1, -1
    kind = data[place + 1]
    if kind == ord("u"):
        code = _read_hex(data, place + 2, end)
        place += 6
        if 0xD800 <= code < 0xDC00:
            is_pair = place + 6 <= end and data[place] == ord("\\") and data[place + 1] == ord("u")
            low = _read_hex(data, place + 2, end) if is_pair else -1
            if not 0xDC00 <= low < 0xE000:
                return -1, -1
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            place += 6
        elif code < 0 or 0xDC00 <= code < 0xE000:
            return -1, -1
        return place, encode(code, target, written)
    if kind == ord("n"):
        target[written] = 0x0A
    elif kind == ord("t"):
        target[written] = 0x09
    elif kind == ord("r"):
        target[written] = 0x0D
    elif kind == ord("b"):
        target[written] = 0x08
    elif kind == ord("f"):
        target[written] = 0x0C
    elif kind in (ord('"'), ord("\\"), ord("/")):
        target[written] = kind
    else:
        return -1, -1
    return place + 2, written + 1


@compiled
def _read_hex(data, place, end):
    if place + 4 > end:
        return -1
    value = np.int64(0)
    for index in range(4):
        character = np.int64(data[place + index])
        lower = character | 0x20
        if ord("0") <= character <= ord("9"):
            digit = character - ord("0")
        elif ord("a") <= lower <= ord("f"):
            digit = lower - ord("a") + 10
        else:
            return -1
        value = value << 4 | digit
    return value
