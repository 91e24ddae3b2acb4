"""Characters, marks and phrases of a text counted in one pass over its bytes, 64 at a time."""

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.vector import BLOCK_BYTES, count_ones, count_trailing_zeros, load_word, mask_of_run
from dsllm.text.vector_marks import ascii_mark_masks, wide_mark_masks

# What `count_marks` counts: characters, hash signs, opening curly brackets, ellipses as runs, runs of
# punctuation, runs of what ends a sentence, ellipses as plain counts ("..." and the character), line feeds.
CHARS, HASHES, CURLY, ELLIPSES, PUNCTUATIONS, SENTENCE_ENDS, DOTS_OR_SIGNS = range(7)
N_MARKS = 7
_MIN_DOTS = 3
_ONE, _LAST = np.uint64(1), np.uint64(63)
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
    """Add up what the constants above name, of `data[start:end]`, into `counts`, int64 (N_MARKS,).

    A mark of several bytes sets the bits of all of them, so that marks side by side are one run of bits.
    """
    n_dots = np.int64(0)  # the run of stops at the end of the block before
    run_of_full = np.int64(0)  # the same of ideographic stops, whose last one is at `last_full`
    last_full = start - 3
    was_mark = was_end = was_sign = np.uint64(0)  # what the block before has said of its last byte
    mark_rest = end_rest = sign_rest = np.uint64(0)  # and of those that follow a lead in it
    for place in range(start, end, BLOCK_BYTES):
        inside = ~np.uint64(0) >> np.uint64(max(0, BLOCK_BYTES - (end - place)))
        high, marks, ends, stops, hashes, curly = ascii_mark_masks(data, place)
        stops &= inside
        counts[HASHES] += count_ones(hashes & inside)
        counts[CURLY] += count_ones(curly & inside)
        counts[CHARS] += count_ones(inside)
        signs = np.uint64(0)
        mark_leads, end_leads = marks, ends
        if high & inside:
            followers, wide_marks, wide_ends, full, signs, wide_hashes = wide_mark_masks(data, place)
            full &= inside
            signs &= inside
            counts[CHARS] -= count_ones(followers & inside)
            counts[HASHES] += count_ones(wide_hashes & inside)
            counts[DOTS_OR_SIGNS] += count_ones(signs)
            mark_leads, end_leads = marks | wide_marks, ends | wide_ends
            marks |= _with_followers(wide_marks) | mark_rest
            ends |= _with_followers(wide_ends) | end_rest
            mark_rest, end_rest = _rest_of(wide_marks), _rest_of(wide_ends)
            while full:
                at = place + count_trailing_zeros(full)
                full &= full - _ONE
                run_of_full = run_of_full + 1 if at == last_full + 3 else np.int64(1)
                counts[ELLIPSES] += run_of_full == _MIN_DOTS
                last_full = at
        counts[PUNCTUATIONS] += count_ones(mark_leads & ~(marks << _ONE | was_mark) & inside)
        counts[SENTENCE_ENDS] += count_ones(end_leads & ~(ends << _ONE | was_end) & inside)
        was_mark, was_end = marks >> _LAST, ends >> _LAST
        if signs | sign_rest | was_sign:
            all_signs = _with_followers(signs) | sign_rest
            counts[ELLIPSES] += count_ones(signs & ~(all_signs << _ONE | was_sign))
            sign_rest, was_sign = _rest_of(signs), all_signs >> _LAST
        if stops & (stops << _ONE | np.uint64(n_dots > 0)):
            n_dots = _count_dots(stops, n_dots, counts)
        else:
            n_dots = np.int64(stops >> _LAST)


@compiled
def _with_followers(leads):
    """Set the two bits behind each one too."""
    return leads | leads << _ONE | leads << np.uint64(2)


@compiled
def _rest_of(leads):
    """Give what `_with_followers` leaves to the next block."""
    return leads >> np.uint64(62) | leads >> np.uint64(63)


@compiled
def _count_dots(stops, n_before, counts):
    """Count ellipses of stops; returns how many stops are at the end of the block."""
    n_dots = np.int64(0)
    while stops:
        first = count_trailing_zeros(stops)
        n_more = count_trailing_zeros(~(stops >> np.uint64(first)))
        if first:
            n_before = np.int64(0)
        n_dots = n_before + n_more
        counts[ELLIPSES] += n_before < _MIN_DOTS <= n_dots
        counts[DOTS_OR_SIGNS] += n_dots // _MIN_DOTS - n_before // _MIN_DOTS
        behind = first + n_more
        if behind >= BLOCK_BYTES:
            return n_dots
        stops &= ~np.uint64(0) << np.uint64(behind)
        n_before = np.int64(0)
    return np.int64(0)
