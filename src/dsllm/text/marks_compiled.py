"""Characters, marks and phrases of a text counted in one pass over its bytes, 64 at a time."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.scan_compiled import decode
from dsllm.text.vector import (
    BLOCK_BYTES,
    count_ones,
    count_trailing_zeros,
    load_word,
    mark_masks,
    mask_of_run,
)

# What `count_marks` counts: characters, hash signs, opening curly brackets, ellipses as runs, runs of
# punctuation, runs of what ends a sentence, ellipses as plain counts ("..." and the character), line feeds.
CHARS, HASHES, CURLY, ELLIPSES, PUNCTUATIONS, SENTENCE_ENDS, DOTS_OR_SIGNS = range(7)
N_MARKS = 7
_MIN_DOTS = 3
_ONE = np.uint64(1)
_LOW_BITS = np.uint64(0x0101010101010101)
_ANCHOR_BYTES = 3

Phrases = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]


@functools.cache
def phrase_table(groups: Sequence[tuple[str, ...]]) -> Phrases:
    """Prepare phrases in lower case for `find_phrases`, which names the group that each one is of.

    Returns:
        anchors (n_anchors,), their first three bytes; where the phrases of each anchor end (n_anchors,);
        the phrases' bytes; where each phrase ends in these; the group of each phrase.
    """
    named = [(phrase.encode(), group) for group, phrases in enumerate(groups) for phrase in phrases]
    named.sort(key=lambda item: (_anchor(item[0]), item))
    by_anchor: dict[int, int] = {}
    for at, (phrase, _) in enumerate(named, start=1):
        by_anchor[_anchor(phrase)] = at
    return (
        np.array(list(by_anchor), np.int64),
        np.array(list(by_anchor.values()), np.int64),
        np.frombuffer(b"".join(phrase for phrase, _ in named), np.uint8),
        np.cumsum([len(phrase) for phrase, _ in named], dtype=np.int64),
        np.array([group for _, group in named], np.int64),
    )


def _anchor(phrase: bytes) -> int:
    return int.from_bytes(bytes(byte | 0x20 for byte in phrase[:_ANCHOR_BYTES]), "little")


@compiled
def find_phrases(data, start, end, anchors, anchor_ends, phrases, phrase_ends, groups, places, found):
    """Find phrases, ASCII letters of any case: `places` gets where they begin, ascending, `found` the group.

    Both have room for a phrase a byte. Returns the number.
    """
    n_found = 0
    for block in range(start, end, BLOCK_BYTES):
        inside = ~np.uint64(0) >> np.uint64(max(0, BLOCK_BYTES - (end - block)))
        n_before = n_found
        for anchor in range(len(anchors)):
            hits = mask_of_run(data, block, anchors[anchor]) & inside
            while hits:
                place = block + count_trailing_zeros(hits)
                hits &= hits - _ONE
                for phrase in range(anchor_ends[anchor - 1] if anchor else 0, anchor_ends[anchor]):
                    first = phrase_ends[phrase - 1] if phrase else 0
                    if _is_phrase(data, place, end, phrases[first : phrase_ends[phrase]]):
                        index = n_found
                        while index > n_before and places[index - 1] > place:
                            places[index], found[index] = places[index - 1], found[index - 1]
                            index -= 1
                        places[index], found[index] = place, groups[phrase]
                        n_found += 1
    return n_found


@compiled
def _is_phrase(data, place, end, phrase):
    if place + len(phrase) > end:
        return False
    for index in range(len(phrase)):
        byte = data[place + index]
        if ord("A") <= byte <= ord("Z"):
            byte |= np.uint8(0x20)
        if byte != phrase[index]:
            return False
    return True


@compiled
def count_chars(data, start, end):
    """Count the characters of `data[start:end]`; seven bytes behind may be read."""
    n_followers = 0
    for place in range(start, end, 8):
        word = load_word(data, place)
        if end - place < 8:
            word &= (_ONE << np.uint64(8 * (end - place))) - _ONE
        n_followers += count_ones(word >> np.uint64(7) & ~(word >> np.uint64(6)) & _LOW_BITS)
    return end - start - n_followers


@compiled
def count_marks(data, start, end, counts):
    """Add up what the constants above name, of `data[start:end]`, into `counts`, int64 (N_MARKS,)."""
    state = np.zeros(
        4, np.int64
    )  # in punctuation, in an end, dots so far, ideographic stops so far (-1: signs)
    place = start
    while place < end:
        n_bytes = min(BLOCK_BYTES, end - place)
        inside = ~np.uint64(0) >> np.uint64(BLOCK_BYTES - n_bytes)
        high, marks, ends, stops, hashes, curly = mark_masks(data, place)
        if high & inside:
            place = _count_by_character(data, place, place + n_bytes, state, counts)
            continue
        marks &= inside
        ends &= inside
        stops &= inside
        counts[CHARS] += n_bytes
        counts[HASHES] += count_ones(hashes & inside)
        counts[CURLY] += count_ones(curly & inside)
        counts[PUNCTUATIONS] += count_ones(marks & ~(marks << _ONE | np.uint64(state[0])))
        counts[SENTENCE_ENDS] += count_ones(ends & ~(ends << _ONE | np.uint64(state[1])))
        state[0] = np.int64(marks >> np.uint64(n_bytes - 1))
        state[1] = np.int64(ends >> np.uint64(n_bytes - 1))
        if stops & (stops << _ONE) or stops & _ONE:
            _count_dots(stops, n_bytes, state, counts)
        else:
            state[2] = np.int64(stops >> np.uint64(n_bytes - 1))
        state[3] = 0
        place += n_bytes


@compiled
def _count_dots(stops, n_bytes, state, counts):
    for index in range(n_bytes):
        _add_dot(stops >> np.uint64(index) & _ONE, state, counts)


@compiled
def _add_dot(is_dot, state, counts):
    if is_dot:
        state[2] += 1
        counts[ELLIPSES] += state[2] == _MIN_DOTS
        counts[DOTS_OR_SIGNS] += state[2] % _MIN_DOTS == 0
    else:
        state[2] = 0


@compiled
def _count_by_character(data, place, block_end, state, counts):
    """Do the same character by character; returns the place behind the last one."""
    while place < block_end:
        byte = data[place]
        if 0xE4 <= byte <= 0xE9:  # ideographs, most of them
            state[:] = 0
            counts[CHARS] += 1
            place += 3
            continue
        code, n_bytes = (np.int64(byte), 1) if byte < 0x80 else decode(data, place)
        place += n_bytes
        counts[CHARS] += 1
        is_end = code in (0x2E, 0x21, 0x3F, 0x3002, 0xFF0E, 0xFF01, 0xFF1F)
        is_mark = is_end or code in (0x2C, 0x3A, 0x3B, 0xFF0C, 0x3001, 0xFF1B, 0xFF1A, 0x2026)
        counts[PUNCTUATIONS] += is_mark and state[0] == 0
        counts[SENTENCE_ENDS] += is_end and state[1] == 0
        state[0], state[1] = np.int64(is_mark), np.int64(is_end)
        _add_dot(code == 0x2E, state, counts)
        if code == 0x2026:
            counts[ELLIPSES] += state[3] >= 0
            counts[DOTS_OR_SIGNS] += 1
            state[3] = -1
        elif code == 0x3002:
            state[3] = max(state[3], 0) + 1
            counts[ELLIPSES] += state[3] == _MIN_DOTS
        else:
            state[3] = 0
        counts[HASHES] += code in (0x23, 0xFF03)
        counts[CURLY] += code == 0x7B
    return place
