"""The loops of `quotes.py`, compiled: where texts quote references, with one word changed or none."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.shingles import Hashes
from dsllm.text.word_hashes_compiled import hash_runs

Int64s = NDArray[np.int64]

# A row a quote: which text, its first word and the word behind the last; which reference, likewise.
TEXT, FIRST, END, REFERENCE, REFERENCE_FIRST, REFERENCE_END = range(6)
N_COLUMNS = 6
FULL = -1
_STRETCH = 4096  # words whose runs are hashed at a time
_LOOK_BACK = 64  # quotes of the same text, of which one may already have what a seed leads to
_FREE = -1


@compiled
def fill_table(seeds: Hashes, keys: Hashes, starts: Int64s, bits: Hashes) -> None:
    """Enter sorted seeds, equal ones by the first of them, into an open table and a filter of bits.

    Args:
        seeds: ascending.
        keys: (2**k,), at most half of which will be taken.
        starts: as `keys`, all -1: where the seeds of that key begin.
        bits: (2**j,) zeros.
    """
    mask = np.uint64(len(keys) - 1)
    for index in range(len(seeds)):
        seed = seeds[index]
        if index and seeds[index - 1] == seed:
            continue
        place = seed & mask
        while starts[place] != _FREE:
            place = (place + np.uint64(1)) & mask
        keys[place] = seed
        starts[place] = index
        bit = seed >> np.uint64(32)
        bits[(bit >> np.uint64(6)) & np.uint64(len(bits) - 1)] |= np.uint64(1) << (bit & np.uint64(63))


@compiled
def find_quotes(
    words: Hashes,
    ends: Int64s,
    seed_words: Int64s,
    references: Hashes,
    reference_ends: Int64s,
    seeds: Hashes,
    seed_references: Int64s,
    seed_places: Int64s,
    keys: Hashes,
    starts: Int64s,
    bits: Hashes,
    n_words: int,
    least_changed: int,
    quotes: Int64s,
) -> int:
    """Find where texts quote references; returns the number of quotes, or FULL where there is no room.

    Args:
        words: uint64, hashes of the words of all texts.
        ends: int64 (n_texts,): where those of each text end.
        seed_words: int64: the numbers of words that a seed may have.
        references: uint64, hashes of the words of all references.
        reference_ends: int64 (n_references,).
        seeds: uint64 (n_seeds,), ascending.
        seed_references: int64 (n_seeds,): which reference each is of.
        seed_places: int64 (n_seeds,): its first word among those of all references.
        keys: as from `fill_table`.
        starts: as from `fill_table`.
        bits: as from `fill_table`.
        n_words: what a quote must cover of a reference, or all of a shorter one.
        least_changed: words that must be covered for one of them to be changed, missing or added.
        quotes: int64 (room, N_COLUMNS), filled.
    """
    hashes, maybe = np.empty(_STRETCH, np.uint64), np.empty(_STRETCH, np.int64)
    n_found = start = 0
    for text in range(len(ends)):
        first_of_text = n_found
        for stretch in range(start, ends[text], _STRETCH):
            for kind in range(len(seed_words)):
                last = min(stretch + _STRETCH + seed_words[kind] - 1, ends[text])
                n_runs = hash_runs(words[stretch:last], seed_words[kind], hashes)
                for at in range(_sift(hashes[:n_runs], bits, maybe)):
                    run = maybe[at]
                    index = _look_up(hashes[run], keys, starts)
                    while index != _FREE and index < len(seeds) and seeds[index] == hashes[run]:
                        if n_found == len(quotes):
                            return FULL
                        reference = seed_references[index]
                        quote = quotes[n_found]
                        quote[TEXT], quote[REFERENCE] = text, reference
                        quote[FIRST], quote[REFERENCE_FIRST] = stretch + run, seed_places[index]
                        if not _is_known(quotes, first_of_text, n_found):
                            reference_start = reference_ends[reference - 1] if reference else 0
                            n_needed = min(n_words, reference_ends[reference] - reference_start)
                            n_found += _extend(
                                words, start, ends[text], references, reference_start,
                                reference_ends[reference], seed_words[kind], n_needed >= least_changed,
                                n_needed, quote,
                            )  # fmt: skip
                        index += 1
        _count_from_starts(quotes[first_of_text:n_found], start, reference_ends)
        start = ends[text]
    return n_found


@compiled
def _sift(hashes, bits, maybe):
    """Find which hashes may be those of seeds: without a branch, so that no load waits for another."""
    n_maybe = np.int64(0)
    mask = np.uint64(len(bits) - 1)
    for run in range(len(hashes)):
        bit = hashes[run] >> np.uint64(32)
        maybe[n_maybe] = run
        n_maybe += np.int64((bits[(bit >> np.uint64(6)) & mask] >> (bit & np.uint64(63))) & np.uint64(1))
    return n_maybe


@compiled
def _look_up(seed, keys, starts):
    """Find the first of the seeds with this hash, _FREE where there is none."""
    mask = np.uint64(len(keys) - 1)
    place = seed & mask
    while starts[place] != _FREE and keys[place] != seed:
        place = (place + np.uint64(1)) & mask
    return starts[place]


@compiled
def _count_from_starts(quotes, start, reference_ends):
    """Count the words of quotes from the beginning of their text and reference."""
    for row in range(len(quotes)):
        quotes[row, FIRST] -= start
        quotes[row, END] -= start
        if quotes[row, REFERENCE]:
            quotes[row, REFERENCE_FIRST] -= reference_ends[quotes[row, REFERENCE] - 1]
            quotes[row, REFERENCE_END] -= reference_ends[quotes[row, REFERENCE] - 1]


@compiled
def _is_known(quotes, first, n_found):
    """Tell whether a quote of the same text has the two words that the next quote begins with."""
    new = quotes[n_found]
    for row in range(max(first, n_found - _LOOK_BACK), n_found):
        if (
            quotes[row, REFERENCE] != new[REFERENCE]
            or not quotes[row, FIRST] <= new[FIRST] < quotes[row, END]
        ):
            continue
        is_on_left = new[FIRST] - quotes[row, FIRST] == new[REFERENCE_FIRST] - quotes[row, REFERENCE_FIRST]
        is_on_right = quotes[row, END] - new[FIRST] == quotes[row, REFERENCE_END] - new[REFERENCE_FIRST]
        if is_on_left or is_on_right:
            return True
    return False


@compiled
def _extend(
    words, start, end, references, reference_start, reference_end, n_seed, may_change, n_needed, quote
):
    """Extend a seed both ways over equal words, and over one change; tells whether it covers enough."""
    here, there = quote[FIRST], quote[REFERENCE_FIRST]
    if not _is_equal(words, here, references, there, n_seed):
        return 0  # another run with the same hash
    n_left = _n_equal(words, here - 1, start - 1, references, there - 1, reference_start - 1, -1)
    n_right = _n_equal(words, here + n_seed, end, references, there + n_seed, reference_end, 1)
    first, last = here - n_left, here + n_seed + n_right
    reference_first, reference_last = there - n_left, there + n_seed + n_right
    quote[FIRST], quote[END] = first, last
    quote[REFERENCE_FIRST], quote[REFERENCE_END] = reference_first, reference_last
    n_covered = reference_last - reference_first
    if may_change:
        for change in range(3):  # changed, missing, added
            step, reference_step = change != 1, change != 2
            if last + step <= end and reference_last + reference_step <= reference_end:
                n_more = _n_equal(
                    words, last + step, end, references, reference_last + reference_step, reference_end, 1
                )
                if reference_last + reference_step + n_more - reference_first > n_covered:
                    n_covered = reference_last + reference_step + n_more - reference_first
                    quote[FIRST], quote[END] = first, last + step + n_more
                    quote[REFERENCE_FIRST], quote[REFERENCE_END] = (
                        reference_first,
                        reference_last + reference_step + n_more,
                    )
            if first - step >= start and reference_first - reference_step >= reference_start:
                n_more = _n_equal(
                    words, first - step - 1, start - 1,
                    references, reference_first - reference_step - 1, reference_start - 1, -1,
                )  # fmt: skip
                if reference_last - (reference_first - reference_step - n_more) > n_covered:
                    n_covered = reference_last - (reference_first - reference_step - n_more)
                    quote[FIRST], quote[END] = first - step - n_more, last
                    quote[REFERENCE_FIRST], quote[REFERENCE_END] = (
                        reference_first - reference_step - n_more,
                        reference_last,
                    )
    return 1 if n_covered >= n_needed else 0


@compiled
def _is_equal(words, here, references, there, n_words):
    for index in range(n_words):
        if words[here + index] != references[there + index]:
            return False
    return True


@compiled
def _n_equal(words, here, end, references, there, reference_end, step):
    """Count equal words from two places on, forwards or backwards."""
    n_equal = 0
    while here != end and there != reference_end and words[here] == references[there]:
        n_equal += 1
        here += step
        there += step
    return n_equal
