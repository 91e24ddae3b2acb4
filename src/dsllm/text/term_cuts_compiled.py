"""Where `terms.py` cuts a span, over UTF-8 bytes, compiled."""

import numpy as np

from dsllm.text import terms as definition
from dsllm.text.compiled import compiled
from dsllm.text.lines_compiled import code_at, start_of_last
from dsllm.text.terms import (
    BACK,
    BEFORE_STOP,
    CURRENCY,
    DIGIT,
    FRONT,
    HOST,
    INNER,
    LETTER,
    LOWER,
    QUOTE,
    UPPER,
)

_STOP = np.uint8(0x2E)
_UNITS = np.frombuffer(b"".join(definition.UNITS), np.uint8)
_UNIT_ENDS = np.cumsum([len(unit) for unit in definition.UNITS], dtype=np.int64)
_NONE = np.int64(-1)


@compiled
def size_of(data, place):
    """Give the bytes of the character at `place`."""
    byte = data[place]
    if byte < 0x80:
        return 1
    return 2 if byte < 0xE0 else (3 if byte < 0xF0 else 4)


@compiled
def front_bytes(data, first, end, classes):
    """Give the bytes that come off the front."""
    byte = data[first]
    if byte == _STOP:
        n_stops = 1
        while first + n_stops < end and data[first + n_stops] == _STOP:
            n_stops += 1
        return n_stops if n_stops > 1 else 0
    if byte == ord("+"):
        return 0 if first + 1 < end and ord("0") <= data[first + 1] <= ord("9") else 1
    if byte in (ord("U"), ord("C"), ord("A")) and end - first >= 2:
        if data[first + 1] == ord("$"):
            return 0 if byte == ord("U") else 2
        is_us = byte == ord("U") and end - first >= 3
        return 3 if is_us and data[first + 1] == ord("S") and data[first + 2] == ord("$") else 0
    return size_of(data, first) if classes[code_at(data, first)] & FRONT else 0


@compiled
def back_bytes(data, first, end, classes):
    """Give the bytes that come off the back."""
    if first >= end:
        return 0
    last = start_of_last(data, first, end)
    code = code_at(data, last)
    before = start_of_last(data, first, last) if last > first else _NONE
    before_code = code_at(data, before) if before >= 0 else np.int64(0)
    before_bits = np.int64(classes[before_code]) if before >= 0 else np.int64(0)
    if code == 0x2E:
        n_stops = 1
        while end - n_stops > first and data[end - n_stops - 1] == _STOP:
            n_stops += 1
        if n_stops > 1:
            return n_stops
        if before < 0:
            return 0
        is_short = False
        if before_bits & UPPER and before > first:
            is_short = (classes[code_at(data, start_of_last(data, first, before))] & UPPER) != 0
        return 1 if is_short or before_bits & BEFORE_STOP else 0
    if code in (0x73, 0x53) and before_code in (0x27, 0x2019):
        return end - before
    bits = np.int64(classes[code])
    if code == 0x2B or (bits & CURRENCY):
        return end - last if before_bits & DIGIT else 0
    if code < 0x80 and (bits & LETTER or code == 0x25) and _has_digit(data, max(first, end - 5), end):
        unit_first = 0
        for unit in range(len(_UNIT_ENDS)):
            length = _UNIT_ENDS[unit] - unit_first
            if end - first > length and ord("0") <= data[end - length - 1] <= ord("9"):
                n_equal = 0
                while n_equal < length and data[end - length + n_equal] == _UNITS[unit_first + n_equal]:
                    n_equal += 1
                if n_equal == length:
                    return length
            unit_first = _UNIT_ENDS[unit]
    return end - last if bits & BACK else 0


@compiled
def _has_digit(data, first, end):
    for place in range(first, end):
        if ord("0") <= data[place] <= ord("9"):
            return True
    return False


@compiled
def inner_bytes(data, place, end, before_bits, has_before, classes):
    """Give the bytes that are cut out at a place; `before_bits` are what the character before it may be."""
    byte = data[place]
    if byte >= 0x80:
        code = code_at(data, place)
        if classes[code] & INNER:
            return size_of(data, place)
        if not has_before or code not in (0x2013, 0x2014):
            return 0
    elif byte == _STOP and place + 1 < end and data[place + 1] == _STOP:
        n_stops = 2
        while place + n_stops < end and data[place + n_stops] == _STOP:
            n_stops += 1
        return n_stops
    elif not has_before or byte not in (
        0x2D,
        0x7E,
        0x2B,
        0x2A,
        0x5E,
        0x2E,
        0x2C,
        0x3A,
        0x3C,
        0x3E,
        0x3D,
        0x2F,
    ):
        return 0
    size = size_of(data, place)
    after = place + size
    if after >= end:
        return 0
    after_bits = np.int64(classes[code_at(data, after)])
    if (
        byte in (0x2D, 0x2B, 0x2A, 0x5E)
        and before_bits & DIGIT
        and (after_bits & DIGIT or data[after] == 0x2D)
    ):
        return 1
    if byte in (0x2D, 0x7E) or byte >= 0x80:
        return _inner_hyphen(data, place, end, before_bits, classes)
    if byte == 0x2E:
        return 1 if before_bits & (LOWER | QUOTE) and after_bits & (UPPER | QUOTE) else 0
    if byte == 0x2C:
        return 1 if before_bits & LETTER and after_bits & LETTER else 0
    if byte in (0x2B, 0x2A, 0x5E):
        return 0
    return 1 if before_bits & (LETTER | DIGIT) and after_bits & LETTER else 0


@compiled
def _inner_hyphen(data, place, end, before_bits, classes):
    if not before_bits & (LETTER | DIGIT):
        return 0
    code = code_at(data, place)
    size = size_of(data, place)
    most = 3 if code == 0x2D else (2 if code == 0x2014 else 1)
    n_bytes = 0
    for _ in range(most):
        if place + n_bytes >= end or code_at(data, place + n_bytes) != code:
            break
        n_bytes += size
        after = place + n_bytes
        if after < end and classes[code_at(data, after)] & LETTER:
            return n_bytes
    return 0


@compiled
def is_address(data, first, end, classes):
    """Tell whether a span is an address, as `terms.is_address`."""
    has_stop = False
    at, scheme_end = -1, -1
    for place in range(first, end):
        byte = data[place]
        has_stop = has_stop or (byte == _STOP and place > first)
        if byte == ord("@"):
            at = place
        is_colon = byte == ord(":") and scheme_end < 0 and place + 2 < end
        if is_colon and data[place + 1] == ord("/") and data[place + 2] == ord("/"):
            scheme_end = place
    if not has_stop:
        return False
    rest = first
    if scheme_end >= 0:
        is_scheme = True
        n_chars = 0
        place = first
        while place < scheme_end:
            is_known = data[place] in (0x5F, 0x2B, 0x2D, 0x2E)
            is_scheme = is_scheme and (is_known or classes[code_at(data, place)] & (LETTER | DIGIT) != 0)
            place += size_of(data, place)
            n_chars += 1
        if is_scheme and n_chars > 1:
            rest = scheme_end + 3
    return _is_host(data, rest, end, classes) or (at > rest and _is_host(data, at + 1, end, classes))


@compiled
def _is_host(data, first, end, classes):
    n_stops = 0
    place = label = first
    while place < end:
        byte = data[place]
        if byte == _STOP:
            if place == label:
                return False
            is_good = classes[code_at(data, label)] & HOST != 0
            if not is_good or not classes[code_at(data, start_of_last(data, label, place))] & HOST:
                return False
            n_stops += 1
            label = place + 1
        elif byte not in (0x2D, 0x5F) and not classes[code_at(data, place)] & HOST:
            break
        place += size_of(data, place)
    if n_stops == 0:
        return False
    n_chars = 0
    inner = label
    while inner < place:
        if not classes[code_at(data, inner)] & LOWER:
            return False
        n_chars += 1
        inner += size_of(data, inner)
    if n_chars < 2:
        return False
    if place < end and data[place] == ord(":"):
        port = place + 1
        place = port
        while place < end and place - port < 5 and ord("0") <= data[place] <= ord("9"):
            place += 1
        if place - port < 2:
            return False
    return place == end or data[place] in (0x2F, 0x3F, 0x23)
