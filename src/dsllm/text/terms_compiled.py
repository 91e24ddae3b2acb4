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
_LINE_FEED, _STOP, _SPACE = np.uint8(10), np.uint8(0x2E), np.uint8(0x20)
_IS_ANY, _HAS_LETTER, _IS_FIRST = (
    1,
    2,
    4,
)  # a term of any characters; an ASCII one with a letter; a line's first
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
    data, start, end, classes, known_filter, known, cuts, stops, backs, starts, ends, kinds, hashes,
    chars_before, counts,
):  # fmt: skip
    """Find the terms of `data[start:end]`: their hashes, and the characters of all before each one.

    `classes` .. `stops` are `term_tables`; `backs`, `starts` and `ends` (int64) and `kinds` (uint8) have room
    for a term a byte. `counts` (int64, N_TERM_COUNTS) gets what the constants above name.
    """
    n_terms = _find_terms(data, start, end, classes, known_filter, known, cuts, backs, starts, ends, kinds)
    n_chars = n_words = n_word_chars = n_alphabetic = n_sentences = 0
    stops_seen = np.int64(0)
    has_ended = False
    for term in range(n_terms):
        first, last, kind = starts[term], ends[term], kinds[term]
        length = last - first
        is_end, is_mark, is_word = False, False, True
        has_letter = kind & _HAS_LETTER != 0
        value = hash_word(data, first, last)
        if kind & _IS_ANY:
            length, all_bits, any_bits, code = _look_at(data, first, last, classes)
            has_letter = (any_bits & LETTER) != 0
            is_word = (all_bits & SYMBOL) == 0
            is_mark = (all_bits & MARK) != 0
            is_end = is_mark and length == 1 and _is_end(code)
        hashes[term] = value
        chars_before[term] = n_chars
        n_chars += length
        n_words += is_word
        n_word_chars += length if is_word else 0
        n_alphabetic += has_letter
        if known_filter[np.int64(value * _STEP >> np.uint64(52))] & _MAYBE_STOP:
            for stop in range(len(stops)):
                stops_seen |= np.int64(stops[stop] == value) << stop
        begins = kind & _IS_FIRST != 0 or (has_ended and not is_end and not is_mark)
        n_sentences += begins
        has_ended = is_end or (has_ended and not begins)
    chars_before[n_terms] = n_chars
    counts[TERMS], counts[TERM_WORDS], counts[TERM_WORD_CHARS] = n_terms, n_words, n_word_chars
    counts[ALPHABETIC], counts[SENTENCES] = n_alphabetic, n_sentences
    counts[DIFFERENT_STOPS] = count_ones(np.uint64(stops_seen))


@compiled
def _find_terms(data, start, end, classes, known_filter, known, cuts, backs, starts, ends, kinds):
    """Say where terms begin and end, and what is known of them already; returns their number."""
    n_terms = 0
    is_first = np.uint8(_IS_FIRST)
    place = start
    while place < end:
        _high, letters, digits, _others, spaces, _line_ends = ascii_masks(data, place)
        n_plain = min(count_trailing_zeros(~(letters | digits)), end - place)
        if n_plain == 0 and spaces & np.uint64(1):
            if data[place] == _LINE_FEED:
                is_first = np.uint8(_IS_FIRST)
            place += 1
            continue
        first = place
        place += n_plain
        inside = ~np.uint64(0) >> np.uint64(63 & (64 - n_plain))
        has_letter = (letters & inside) != np.uint64(0)
        is_plain = 0 < n_plain < 63 and not (has_letter and digits & inside)
        has_mark = False
        if is_plain and place < end and not spaces >> np.uint64(n_plain) & np.uint64(1):
            has_mark = is_plain = _is_last_mark(data, place, end, spaces, n_plain, classes)
        if is_plain and n_plain <= _MAX_KNOWN_BYTES:  # but for the exceptions
            is_plain = not _may_be_known(data, first, place, known_filter)
            if has_mark and data[place] == _STOP:
                is_plain = is_plain and not _may_be_known(data, first, place + 1, known_filter)
        if is_plain:
            starts[n_terms], ends[n_terms] = first, place
            kinds[n_terms] = is_first | np.uint8(_HAS_LETTER if has_letter else 0)
            n_terms += 1
            if has_mark:
                starts[n_terms], ends[n_terms], kinds[n_terms] = place, place + 1, _IS_ANY
                n_terms += 1
                place += 1
            if place < end and data[place] == _SPACE:
                place += 1
            is_first = np.uint8(0)
            continue
        place = _span_end(data, place, end, classes)
        if place == first:  # white space beyond ASCII
            place += size_of(data, place)
            continue
        n_before = n_terms
        n_terms = _cut_span(data, first, place, classes, known_filter, known, cuts, backs, ends, n_terms)
        for term in range(n_before, n_terms):
            starts[term] = first
            first = ends[term]
            kinds[term] = is_first | np.uint8(_IS_ANY)
            is_first = np.uint8(0)
    return n_terms


@compiled
def _may_be_known(data, first, last, known_filter):
    value = hash_word(data, first, last)
    return known_filter[np.int64(value * _STEP >> np.uint64(52))] & _MAYBE_KNOWN != 0


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
def _is_letter(byte):
    return ord("a") <= byte | 0x20 <= ord("z")


@compiled
def _find_known(data, first, end, known_filter, known, cuts):
    """Find the first cut of an exception; -1 for what is none."""
    if first >= end or end - first > _MAX_KNOWN_BYTES:
        return _NONE
    if not (_is_letter(data[first]) and (data[end - 1] == _STOP or _is_letter(data[end - 1]))):
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
def _cut_span(data, first, last, classes, known_filter, known, cuts, backs, ends, n_ends):
    """Cut what stands between white space, as `terms.cut_span`: `ends[n_ends:]` gets where each term ends."""
    n_backs = 0
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
        elif cut < 0 and not _is_plain(data, first, end) and not is_address(data, first, end, classes):
            n_ends = _cut_inside(data, first, end, classes, ends, n_ends)
        ends[n_ends] = end
        n_ends += 1
    while n_backs:
        n_backs -= 1
        ends[n_ends] = backs[n_backs]
        n_ends += 1
    return n_ends


@compiled
def _is_plain(data, first, end):
    """Tell whether these are ASCII letters and digits only; not so if there are more than 64."""
    _high, letters, digits, _others, _spaces, _line_ends = ascii_masks(data, first)
    return count_trailing_zeros(~(letters | digits)) >= end - first


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
