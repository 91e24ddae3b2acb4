"""The terms of `terms.py` out of UTF-8 bytes, compiled: their hashes and lengths, and what they are."""

import functools

import numpy as np
from numpy.typing import NDArray

from dsllm.text import terms as definition
from dsllm.text.compiled import compiled
from dsllm.text.lines_compiled import code_at, start_of_last
from dsllm.text.scan_compiled import decode
from dsllm.text.shingles_compiled import hash_word
from dsllm.text.stop_words import STOP_WORDS
from dsllm.text.term_cuts_compiled import back_bytes, front_bytes, inner_bytes, is_address, size_of
from dsllm.text.terms import BEFORE_STOP, DIGIT, LETTER, MARK, SYMBOL, WHITE
from dsllm.text.vector import ascii_masks, count_ones, count_trailing_zeros

# What `measure_terms` counts: terms, those that are words and their characters, those with a letter,
# different English stop words, sentences by `terms.sentences` line by line.
TERMS, TERM_WORDS, TERM_WORD_CHARS, ALPHABETIC, DIFFERENT_STOPS, SENTENCES = range(6)
N_TERM_COUNTS = 6
_N_KNOWN = 4096  # slots of the table of exceptions
_MAX_KNOWN_BYTES = definition.MAX_EXCEPTION_BYTES
_MAYBE_KNOWN, _MAYBE_STOP = 1, 2  # what the filter says of a hash
_LINE_FEED = np.uint8(10)
_ENDS = np.array([ord(each) for each in definition.SENTENCE_ENDS], np.int64)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_NONE = np.int64(-1)

Tables = tuple[
    NDArray[np.uint16], NDArray[np.uint8], NDArray[np.uint64], NDArray[np.int64], NDArray[np.uint64]
]


@functools.cache
def term_tables() -> Tables:
    """Give what `measure_terms` looks things up in.

    The classes of characters; a filter of hashes, which says of most words that they are nothing special; the
    hashes of the exceptions and their first cuts; the hashes of stop words.
    """
    hashes = np.zeros(_N_KNOWN, np.uint64)
    cuts = np.zeros(_N_KNOWN, np.int64)
    filter_ = np.zeros(_N_KNOWN, np.uint8)
    for span, parts in definition.exceptions().items():
        value = _hash(span)
        slot = _slot(value)
        filter_[slot] |= _MAYBE_KNOWN
        while hashes[slot]:
            slot = (slot + 1) % _N_KNOWN
        hashes[slot], cuts[slot] = value, len(parts[0].encode())
    stops = np.array([_hash(word) for word in sorted(STOP_WORDS["en"])], np.uint64)
    for value in stops.tolist():
        filter_[_slot(value)] |= _MAYBE_STOP
    return definition.term_classes(), filter_, hashes, cuts, stops


def _slot(value: int) -> int:
    return value * int(_STEP) % (1 << 64) >> 52


def _hash(word: str) -> int:
    data = np.frombuffer(word.encode() + bytes(64), np.uint8)
    return int(_hash_alone(data, len(word.encode())))


@compiled
def _hash_alone(data, n_bytes):
    return hash_word(data, 0, n_bytes)


@compiled
def measure_terms(
    data, start, end, classes, known_filter, known, cuts, stops, backs, ends, hashes, chars_before, counts
):
    """Find the terms of `data[start:end]`: their hashes, and the characters of all before each one.

    `classes` .. `stops` are `term_tables`; `backs` and `ends` are int64 with room for a place a byte.
    `counts` (int64, N_TERM_COUNTS) gets what the constants above name.
    """
    n_terms = n_chars = n_words = n_word_chars = n_alphabetic = n_sentences = 0
    stops_seen, place = np.int64(0), start
    is_first, has_ended = True, False  # in a line; behind an end mark
    while place < end:
        _high, letters, digits, _others, spaces, _line_ends = ascii_masks(data, place)
        n_plain = min(count_trailing_zeros(~(letters | digits)), end - place)
        is_over = place + n_plain == end or (n_plain < 64 and spaces >> np.uint64(n_plain) & np.uint64(1))
        if n_plain == 0 and spaces & np.uint64(1):
            is_first = is_first or data[place] == _LINE_FEED
            place += 1
            continue
        first = place
        place += n_plain
        inside = ~np.uint64(0) >> np.uint64(63 & (64 - n_plain))
        has_letter = (letters & inside) != np.uint64(0)
        has_mark = (
            0 < n_plain < 63 and place < end and _is_last_mark(data, place, end, spaces, n_plain, classes)
        )
        is_plain = n_plain > 0 and (is_over or has_mark) and not (has_letter and digits & inside)
        n_pieces = 1 + has_mark
        ends[0], ends[1] = place, place + 1
        if is_plain:  # a word, and perhaps one mark
            value, is_known = _hash_plain(data, first, place, has_mark, known_filter)
            is_plain = not is_known
            place += has_mark and is_plain
        if not is_plain:
            if not is_over:
                place = _span_end(data, place, end, classes)
            if place == first:  # white space beyond ASCII
                place += size_of(data, place)
                continue
            n_pieces = _cut_span(data, first, place, classes, known_filter, known, cuts, backs, ends)
        for piece in range(n_pieces):
            last = ends[piece]
            length = last - first
            is_end = is_mark = False
            is_word = True
            if piece > 0 or not is_plain:
                length, all_bits, any_bits, code = _look_at(data, first, last, classes)
                has_letter = (any_bits & LETTER) != 0
                is_word = (all_bits & SYMBOL) == 0
                is_mark = (all_bits & MARK) != 0
                is_end = is_mark and length == 1 and _is_end(code)
                value = hash_word(data, first, last)
            hashes[n_terms] = value
            chars_before[n_terms] = n_chars
            n_terms, n_chars = n_terms + 1, n_chars + length
            n_words += is_word
            n_word_chars += length if is_word else 0
            n_alphabetic += has_letter
            if known_filter[np.int64(value * _STEP >> np.uint64(52))] & _MAYBE_STOP:
                for stop in range(len(stops)):
                    stops_seen |= np.int64(stops[stop] == value) << stop
            begins = is_first or (has_ended and not is_end and not is_mark)
            n_sentences += begins
            has_ended = is_end or (has_ended and not begins)
            is_first = False
            first = last
    chars_before[n_terms] = n_chars
    counts[TERMS], counts[TERM_WORDS], counts[TERM_WORD_CHARS] = n_terms, n_words, n_word_chars
    counts[ALPHABETIC], counts[SENTENCES] = n_alphabetic, n_sentences
    counts[DIFFERENT_STOPS] = count_ones(np.uint64(stops_seen))


@compiled
def _hash_plain(data, first, last, has_mark, known_filter):
    """Hash a word, and tell whether it may be an exception, with the mark behind it or without."""
    value = hash_word(data, first, last)
    maybe = known_filter[np.int64(value * _STEP >> np.uint64(52))]
    if has_mark:
        whole = hash_word(data, first, last + 1)
        maybe |= known_filter[np.int64(whole * _STEP >> np.uint64(52))]
    return value, maybe & _MAYBE_KNOWN != 0


@compiled
def _is_last_mark(data, place, end, spaces, n_plain, classes):
    """Tell whether a mark ends the span that comes off letters and digits whatever they are."""
    if place + 1 < end and not spaces >> np.uint64(n_plain + 1) & np.uint64(1):
        return False
    byte = data[place]
    if byte == 0x2E:
        return (classes[data[place - 1]] & BEFORE_STOP) != 0
    return byte in (0x2C, 0x3A, 0x3B, 0x21, 0x3F, 0x29)


@compiled
def _span_end(data, place, end, classes):
    """Find the white space that ends a span."""
    while place < end:
        code, n_bytes = (np.int64(data[place]), 1) if data[place] < 0x80 else decode(data, place)
        if classes[code] & WHITE:
            break
        place += n_bytes
    return place


@compiled
def _look_at(data, first, last, classes):
    """Give a term's characters, the bits that all of them have, that any has, and the last character."""
    n_chars = 0
    all_bits, any_bits = np.int64(0xFFFF), np.int64(0)
    code = np.int64(0)
    place = first
    while place < last:
        code, n_bytes = (np.int64(data[place]), 1) if data[place] < 0x80 else decode(data, place)
        place += n_bytes
        bits = np.int64(classes[code])
        all_bits &= bits
        any_bits |= bits
        n_chars += 1
    return n_chars, all_bits, any_bits, code


@compiled
def _is_end(code):
    for each in _ENDS:
        if each == code:
            return True
    return False


@compiled
def _find_known(data, first, end, known_filter, known, cuts):
    """Find the first cut of an exception; -1 for what is none."""
    if end - first > _MAX_KNOWN_BYTES:
        return _NONE
    value = hash_word(data, first, end)
    slot = np.int64(value * _STEP >> np.uint64(52))
    if not known_filter[slot] & _MAYBE_KNOWN:
        return _NONE
    while known[slot] != np.uint64(0):
        if known[slot] == value:
            return cuts[slot]
        slot = (slot + 1) % _N_KNOWN
    return _NONE


@compiled
def _cut_span(data, first, last, classes, known_filter, known, cuts, backs, ends):
    """Cut what stands between white space, as `terms.cut_span`: `ends` gets where each term ends."""
    n_ends = n_backs = 0
    end = last
    cut = _find_known(data, first, end, known_filter, known, cuts)
    while first < end and cut < 0:
        n_front = front_bytes(data, first, end, classes)
        if n_front and first + n_front < end:
            cut = _find_known(data, first + n_front, end, known_filter, known, cuts)
            if cut >= 0:
                first += n_front
                ends[n_ends] = first
                n_ends += 1
                break
        n_back = back_bytes(data, first + n_front, end, classes)
        if n_back and end - n_back > first:
            cut = _find_known(data, first, end - n_back, known_filter, known, cuts)
            if cut >= 0:
                backs[n_backs] = end
                n_backs += 1
                end -= n_back
                break
        if n_front == 0 and n_back == 0:
            break
        if n_front:
            first += n_front
            ends[n_ends] = first
            n_ends += 1
        if n_back:
            backs[n_backs] = end
            n_backs += 1
            end -= n_back
        if first < end:
            cut = _find_known(data, first, end, known_filter, known, cuts)
    if first < end:
        if cut >= 0 and cut < end - first:
            ends[n_ends] = first + cut
            n_ends += 1
        elif cut < 0 and not is_address(data, first, end, classes):
            n_ends = _cut_inside(data, first, end, classes, ends, n_ends)
        ends[n_ends] = end
        n_ends += 1
    while n_backs:
        n_backs -= 1
        ends[n_ends] = backs[n_backs]
        n_ends += 1
    return n_ends


@compiled
def _cut_inside(data, first, end, classes, ends, n_ends):
    """Write down where the terms within a span end, but for the last one."""
    start = place = first
    before_bits = np.int64(0)
    while place < end:
        if data[place] < 0x80 and classes[data[place]] & (LETTER | DIGIT):
            before_bits = np.int64(classes[data[place]])
            place += 1
            continue
        n_cut = inner_bytes(data, place, end, before_bits, place > first, classes)
        if n_cut:
            if place > start:
                ends[n_ends] = place
                n_ends += 1
            before_bits = np.int64(classes[code_at(data, start_of_last(data, place, place + n_cut))])
            place += n_cut
            if place < end:
                ends[n_ends] = place
                n_ends += 1
            start = place
        else:
            before_bits = np.int64(classes[code_at(data, place)])
            place += size_of(data, place)
    return n_ends
