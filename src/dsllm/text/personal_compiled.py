"""The loop of `personal.py`, compiled: where personal data may be; a hint too many costs only time."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.vector import BLOCK_BYTES, ascii_masks, count_trailing_zeros, mask_of_equal

FULL = -1
EMAIL, NUMBER, IBAN, ADDRESS = range(4)
_MAX_LOCAL = 64
_MAX_RUNS = 12
_LONGEST_NAME = 40
_ZERO, _NINE = ord("0"), ord("9")
# The last three bytes, in small letters, of a word before a number that makes it a telephone's.
_LABEL_ENDS = np.array(
    [
        int.from_bytes(end, "little")
        for end in (b"tel", b"one", b"ile", b"ell", b"fax", b"app", *(c.encode() for c in "话机号码真线式"))
    ],
    np.int64,
)


@compiled
def find_hints(data: NDArray[np.uint8], ends: NDArray[np.int64], hints: NDArray[np.int64]) -> int:
    """Find where texts may have personal data; returns the number of hints, or FULL where there is no room.

    Args:
        data: uint8, texts one behind the other, with 64 bytes more.
        ends: int64 (n_texts,).
        hints: int64 (room, 4), filled: text, first byte, the byte behind the last that a match may begin at,
            kind.
    """
    n_hints = start = 0
    for text in range(len(ends)):
        end = ends[text]
        done = start  # up to where numbers have been looked at
        was_digit = np.uint64(0)
        for block in range(start, end, BLOCK_BYTES):
            n_bytes = min(BLOCK_BYTES, end - block)
            inside = ~np.uint64(0) >> np.uint64(BLOCK_BYTES - n_bytes)
            _, _, digits, _, _, _ = ascii_masks(data, block)
            digits &= inside
            firsts = digits & ~((digits << np.uint64(1)) | was_digit)
            was_digit = digits >> np.uint64(63)
            if n_hints + BLOCK_BYTES * 2 >= len(hints):
                return FULL
            while firsts:
                place = block + count_trailing_zeros(firsts)
                firsts &= firsts - np.uint64(1)
                if place >= done:
                    kind, first, done = _look_at_number(data, start, place, end)
                    n_hints += _write(hints[n_hints], text, first, done, kind)
            signs = mask_of_equal(data, block, ord("@")) & inside
            while signs:
                place = block + count_trailing_zeros(signs)
                signs &= signs - np.uint64(1)
                first = _first_of_local(data, start, place)
                is_email = first < place and place + 1 < end and _is_alnum(data[place + 1])
                n_hints += _write(hints[n_hints], text, first, place, EMAIL if is_email else -1)
            colons = mask_of_equal(data, block, ord(":")) & inside
            while colons:
                place = block + count_trailing_zeros(colons)
                colons &= colons - np.uint64(1)
                is_address = place - start >= 4 and _begins_address(data, place)
                n_hints += _write(hints[n_hints], text, place - 4, place, ADDRESS if is_address else -1)
        start = end
    return n_hints


@compiled
def _write(hint, text, first, end, kind):
    """Write a hint down, if it has a kind; returns how many that makes."""
    hint[0], hint[1], hint[2], hint[3] = text, first, end, kind
    return kind >= 0


@compiled
def _first_of_local(data, start, place):
    """Say where what may be a local part begins before an @."""
    first = place
    while first > start and place - first < _MAX_LOCAL and _is_local(data[first - 1]):
        first -= 1
    return first


@compiled
def _look_at_number(data, start, place, end):
    """Look at the runs of digits from a place on: (kind or -1, where a match may begin, where they end)."""
    before = data[place - 1] if place > start else 0
    if _is_alnum(before) or before == ord("_"):
        is_code = place - start >= 2 and _is_upper(before) and _is_upper(data[place - 2])
        stop = place
        while stop < end and _is_digit(data[stop]):
            stop += 1
        if is_code and (place - start == 2 or not _is_alnum(data[place - 3])) and stop - place >= 2:
            return IBAN, place - 2, stop
        return -1, place, stop
    first = place
    while first > start and (data[first - 1] == ord("(") or data[first - 1] == ord("+")):
        first -= 1
    if place - start >= 3 and data[place - 3] == 0xEF and data[place - 2] == 0xBC and data[place - 1] == 0x88:
        first = place - 3  # a wide parenthesis
    has_plus = first < place and data[first] == ord("+")
    sizes = np.zeros(_MAX_RUNS + 4, np.int64)
    n_runs = n_digits = 0
    n_dots = 0
    is_telling = is_short_code = False
    stop = place
    while True:
        run = stop
        while stop < end and _is_digit(data[stop]):
            stop += 1
        size = stop - run
        n_digits += size
        sizes[min(n_runs, _MAX_RUNS)] = size
        n_runs += 1
        at = min(n_runs, _MAX_RUNS)
        is_telling |= size >= 11
        if at >= 2:
            one, two, three = (sizes[at - 3] if at > 2 else 0), sizes[at - 2], sizes[at - 1]
            is_telling |= two >= 3 and two <= 4 and three >= 7 and three <= 8
            is_telling |= three == 4 and two >= 3 and two <= 4 and one >= 3 and one <= 4
            is_telling |= one == 4 and two == 6
            is_short_code |= one == 3 and two == 2 and three == 4
        if stop < end and data[stop] == ord(".") and size <= 3:
            n_dots += 1
            is_telling |= n_dots >= 3
        else:
            n_dots = 0
        gap = stop
        while gap < end and gap - stop < 4 and _is_separator(data[gap]):
            gap += 1
        if (
            gap - stop < 4
            and gap + 2 < end
            and data[gap] == 0xEF
            and data[gap + 1] == 0xBC
            and data[gap + 2] == 0x89
        ):
            gap += 3
        if gap >= end or not _is_digit(data[gap]) or gap == stop or n_runs >= 4 * _MAX_RUNS:
            break
        stop = gap
    if is_short_code:  # a social security number perhaps, behind its name
        return NUMBER, max(start, first - _LONGEST_NAME), stop
    if n_digits >= 7:
        label = _labelled_from(data, start, first)
        if label >= 0:
            return NUMBER, label, stop
    if is_telling or (has_plus and n_digits >= 9):
        return NUMBER, first, stop
    return -1, first, stop


@compiled
def _labelled_from(data, start, place):
    """Say where the word before a number begins, or 32 bytes before it; -1 unless it ends as a label does."""
    last = place
    while (
        last > start and place - last < 12 and (_is_separator(data[last - 1]) or _is_mark(data, start, last))
    ):
        last -= 1
    if last - start < 3:
        return -1
    found = np.int64(0)
    for index in range(3):
        byte = np.int64(data[last - 3 + index])
        if ord("A") <= byte <= ord("Z"):
            byte |= 0x20
        found |= byte << (8 * index)
    for index in range(len(_LABEL_ENDS)):
        if found == _LABEL_ENDS[index]:
            return max(start, last - 32)
    return -1


@compiled
def _is_mark(data, start, place):
    """Tell whether the byte before is a colon, a number sign or of a wide colon or parenthesis."""
    byte = data[place - 1]
    if byte == ord(":") or byte == ord("#") or byte == ord("\t"):
        return True
    for back in range(1, 4):
        at = place - back
        if at >= start and data[at] == 0xEF and at + 2 < place + 3:
            return data[at + 1] == 0xBC and (data[at + 2] == 0x9A or data[at + 2] == 0x89)
    return False


@compiled
def _begins_address(data, place):
    """Tell whether four hexadecimal digits of a global address stand before a colon, and more behind it."""
    lead = data[place - 4]
    if lead != ord("2") and lead != ord("3"):
        return False
    for back in range(1, 4):
        if not _is_hex(data[place - back]):
            return False
    return _is_hex(data[place + 1]) or data[place + 1] == ord(":")


@compiled
def _is_separator(byte):
    return (
        byte == ord(" ")
        or byte == ord("-")
        or byte == ord(".")
        or byte == ord("(")
        or byte == ord(")")
        or byte == ord("/")
    )


@compiled
def _is_digit(byte):
    return _ZERO <= byte <= _NINE


@compiled
def _is_upper(byte):
    return ord("A") <= byte <= ord("Z")


@compiled
def _is_alnum(byte):
    return _is_digit(byte) or _is_upper(byte) or ord("a") <= byte <= ord("z")


@compiled
def _is_hex(byte):
    return _is_digit(byte) or ord("a") <= byte <= ord("f") or ord("A") <= byte <= ord("F")


@compiled
def _is_local(byte):
    return (
        _is_alnum(byte)
        or byte == ord(".")
        or byte == ord("_")
        or byte == ord("%")
        or byte == ord("+")
        or byte == ord("-")
    )
