"""The character n-grams of a word in a fastText model, compiled: their buckets, by a hash, and rows."""

import numpy as np

from dsllm.text.compiled import compiled
from dsllm.text.fasttext_entries_compiled import FNV_OFFSET
from dsllm.text.vector import N_LANES, NO_BYTE, count_ones, step_hashes, write_remainders

# What `shape` says of a model, by place.
N_SHAPE = 8
N_WORDS, DIM, BUCKET, MIN_N, MAX_N, WORD_NGRAMS, ROW_BYTES = range(7)

N_STARTS = 256  # at a time
MAX_SIZE = 4  # bytes of a character
# Rows of the scratch: hashes, buckets, then the bytes of the characters, widened with their sign.
_HASHES, _BUCKETS, _BYTES = 0, 1, 2
_SIGNED_OFFSET = np.int32(FNV_OFFSET - (1 << 32))


@compiled
def find_ngrams(data, start, end, first, kept_bits, shape, scratch, found):
    """Find the buckets of the n-grams from place `first` on, those that were kept, some starts at a time.

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
            n_found = _keep(scratch, int(n == 1 and first < start), n_last, kept_bits, found, n_found)
    return n_found, after


@compiled
def _spread_characters(data, start, end, place, max_n, scratch):
    """Write the bytes of the characters from `place` on to the rows of the scratch, first bytes to the first.

    Returns the number of characters, how many bytes the longest may have, the place behind those with which
    n-grams start, and whether the word ends with them.
    """
    n_characters, n_bytes, after = 0, 1, end
    while place <= end and n_characters < N_STARTS + max_n - 1:
        size = 1
        if place < start or place == end:
            scratch[_BYTES, n_characters] = ord("<") if place < start else ord(">")
        else:
            lead = data[place]
            size = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
            for index in range(size):
                scratch[_BYTES + index, n_characters] = np.int32(np.int8(data[place + index]))
        if size > 1 and n_bytes == 1:
            n_bytes = MAX_SIZE
            for index in range(1, MAX_SIZE):
                for earlier in range(n_characters):
                    scratch[_BYTES + index, earlier] = NO_BYTE
        if n_bytes > 1:
            for index in range(size, MAX_SIZE):
                scratch[_BYTES + index, n_characters] = NO_BYTE
        place += size
        n_characters += 1
        if n_characters == N_STARTS:
            after = place
    return n_characters, n_bytes, min(after, end), place > end


@compiled
def _keep(scratch, first, end, kept_bits, found, n_found):
    """Add those of the buckets `scratch[_BUCKETS, first:end]` that have a row to `found`; their number."""
    if len(kept_bits):
        for index in range(first, end):
            bucket = scratch[_BUCKETS, index]
            found[n_found] = bucket
            n_found += np.int64(kept_bits[bucket >> 6] >> np.uint64(bucket & 63) & np.uint64(1))
    else:
        for index in range(first, end):
            found[n_found + index - first] = scratch[_BUCKETS, index]
        n_found += max(0, end - first)
    return n_found


@compiled
def row_of_bucket(bucket, kept_bits, kept_before, shape):
    """Say which row the n-grams of a bucket have: those that were kept are in order of their buckets."""
    if len(kept_bits) == 0:
        return shape[N_WORDS] + bucket
    before = (np.uint64(1) << np.uint64(bucket & 63)) - np.uint64(1)
    return shape[N_WORDS] + kept_before[bucket >> 6] + count_ones(kept_bits[bucket >> 6] & before)
