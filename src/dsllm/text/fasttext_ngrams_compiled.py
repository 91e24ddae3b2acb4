"""The character n-grams of a word in a fastText model, compiled: their buckets, by a hash, and rows."""

import numpy as np

from dsllm.text.compiled import compiled
from dsllm.text.fasttext_entries_compiled import FNV_OFFSET
from dsllm.text.vector import count_ones
from dsllm.text.vector_rows import N_LANES, NO_BYTE, step_hashes, write_remainders

# What `shape` says of a model, by place.
N_SHAPE = 8
N_WORDS, DIM, BUCKET, MIN_N, MAX_N, WORD_NGRAMS, ROW_BYTES, LONGEST = range(8)  # bytes of an entry at last

N_STARTS = 256  # at a time
MAX_SIZE = 4  # bytes of a character
# Rows of the scratch: hashes, buckets, then the bytes of the characters, widened with their sign.
_HASHES, _BUCKETS, _BYTES = 0, 1, 2
_BEGIN, _END = np.uint8(ord("<")), np.uint8(ord(">"))  # stand before a word, and behind it
_SIGNED_OFFSET = np.int32(FNV_OFFSET - (1 << 32))


@compiled
def find_ngrams(data, start, end, first, kept_bits, kept_before, shape, scratch, found):
    """Find the rows of the n-grams from place `first` on, of those that have one, some starts at a time.

    Returns their number, and the place of the next start. "<" and ">" alone are no n-grams.
    """
    min_n, max_n = shape[MIN_N], shape[MAX_N]
    n_characters, n_bytes, after, is_to_end = _spread_characters(data, start, end, first, max_n, scratch)
    n_starts = min(n_characters, N_STARTS)
    for index in range(n_starts + N_LANES):
        scratch[_HASHES, index] = _SIGNED_OFFSET
    n_found = 0
    for n in range(1, min(max_n, n_characters) + 1):
        for block in range(0, n_starts, N_LANES):
            for index in range(n_bytes):
                step_hashes(scratch, block, scratch, (_BYTES + index) * scratch.shape[1] + block + n - 1)
            if n >= min_n:
                write_remainders(scratch, block, shape[BUCKET], scratch, scratch.shape[1] + block)
        if n >= min_n:
            n_last = min(n_starts, n_characters - n + 1 - (n == 1 and is_to_end))
            buckets = scratch[_BUCKETS, int(n == 1 and first < start) : max(0, n_last)]
            n_found = _find_rows(buckets, kept_bits, kept_before, shape[N_WORDS], found, n_found)
    return n_found, after


@compiled
def _spread_characters(data, start, end, place, max_n, scratch):
    """Write the bytes of the characters from `place` on to the rows of the scratch, first bytes to the first.

    Returns the number of characters, how many bytes the longest has, the place behind those with which
    n-grams start, and whether the word ends with them.
    """
    n_characters, n_bytes, after = 0, 1, end
    while place <= end and n_characters < N_STARTS + max_n - 1:
        lead = data[place]
        if place < start:
            lead = _BEGIN
        elif place == end:
            lead = _END
        size = 1
        if lead >= 0xC0:
            size = 2 + (lead >= 0xE0) + (lead >= 0xF0)
            if n_bytes == 1:
                scratch[_BYTES + 1 : _BYTES + MAX_SIZE, :n_characters] = NO_BYTE
            n_bytes = max(n_bytes, size)
        scratch[_BYTES, n_characters] = np.int32(np.int8(lead))
        if n_bytes > 1:
            second, third, fourth = data[place + 1], data[place + 2], data[place + 3]
            scratch[_BYTES + 1, n_characters] = np.int32(np.int8(second)) if size > 1 else NO_BYTE
            scratch[_BYTES + 2, n_characters] = np.int32(np.int8(third)) if size > 2 else NO_BYTE
            scratch[_BYTES + 3, n_characters] = np.int32(np.int8(fourth)) if size > 3 else NO_BYTE
        place += size
        n_characters += 1
        if n_characters == N_STARTS:
            after = place
    return n_characters, n_bytes, min(after, end), place > end


@compiled
def _find_rows(buckets, kept_bits, kept_before, n_words, found, n_found):
    """Add the rows of those of the buckets that have one to `found`; returns how many are in it."""
    if len(kept_bits) == 0:
        for index in range(len(buckets)):
            found[n_found + index] = n_words + buckets[index]
        return n_found + len(buckets)
    for index in range(len(buckets)):
        bucket = np.uint64(buckets[index])
        bits, bit = kept_bits[bucket >> np.uint64(6)], bucket & np.uint64(63)
        before = bits & (np.uint64(1) << bit) - np.uint64(1)
        found[n_found] = n_words + kept_before[bucket >> np.uint64(6)] + count_ones(before)
        n_found += np.int64(bits >> bit & np.uint64(1))
    return n_found


@compiled
def row_of_bucket(bucket, kept_bits, kept_before, shape):
    """Say which row the n-grams of a bucket have: those that were kept are in order of their buckets."""
    if len(kept_bits) == 0:
        return shape[N_WORDS] + bucket
    before = (np.uint64(1) << np.uint64(bucket & 63)) - np.uint64(1)
    return shape[N_WORDS] + kept_before[bucket >> 6] + count_ones(kept_bits[bucket >> 6] & before)
