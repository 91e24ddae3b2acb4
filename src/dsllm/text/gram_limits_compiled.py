"""Whether runs of words recur too rarely to be counted, compiled: bounds above what `grams_compiled` counts.

Most texts are far from the shares that rules allow. What is counted here in small tables without a second
look, so that unlike n-grams may be taken for one, is never less than what `measure_grams` finds:

- All places of the most frequent pair of words are added up in one slot. The most frequent runs of three and
  of four words have at most twice the characters of the most frequent pair.
- A run of n words that has occurred is found in the bits that those before it have set. All that runs of more
  words cover is covered by these.
"""

import numpy as np

from dsllm.text.compiled import compiled
from dsllm.text.grams_compiled import FACTOR
from dsllm.text.vector import BLOCK_BYTES

N_LIMITS = 4  # greatest shares of pairs; of runs of three and four; n, and the greatest share of duplicates
_MAX_SUMS = 2048
_WORDS_PER_SLOT = 2  # of 64 bits
_SPACES = 2  # more than there are in a run, a word of it: three in one of four words, which is two pairs
_MARGIN = 1 - 1e-9  # what is close to a limit is counted


@compiled
def may_exceed(hashes, chars_before, n_words, n_chars, limits, sums, bits):
    """Tell whether a share of the text's characters may be above its limit, spaces between words included.

    Args:
        hashes: uint64, of each word.
        chars_before: int64 (n_words + 1,): the characters of the words before each one.
        n_words: how many there are.
        n_chars: characters of the text.
        limits: float64 (N_LIMITS,): for the most frequent pair; for the most frequent run of three or four
            words; the least n of the runs that must not occur again, 0 for none; for the characters in these.
        sums: int64 with room for 2,048.
        bits: uint64 with room for n_words and 64 more.
    """
    room = n_chars * _MARGIN
    most = _most_of_a_pair(hashes, chars_before, n_words, sums)
    if most > limits[0] * room or 2 * most > limits[1] * room:
        return True
    n = np.int64(limits[2])
    return n > 0 and _may_recur(hashes, chars_before, n_words, n, limits[3] * room, bits)


@compiled
def _most_of_a_pair(hashes, chars_before, n_words, sums):
    size = BLOCK_BYTES
    while size < min(2 * n_words, _MAX_SUMS):
        size *= 2
    sums[:size] = 0
    mask = np.uint64(size - 1)
    for index in range(n_words - 1):
        slot = hashes[index] + np.uint64(3) * hashes[index + 1] & mask
        sums[slot] += chars_before[index + 2] - chars_before[index] + _SPACES
    most = np.int64(0)
    for index in range(size):
        most = max(most, sums[index])
    return most


@compiled
def _may_recur(hashes, chars_before, n_words, n, limit, bits):
    """Tell whether the characters in runs of `n` words that have occurred may be more than `limit`."""
    n_bits = 0
    while _WORDS_PER_SLOT << n_bits < n_words:
        n_bits += 1
    bits[: 1 << n_bits] = np.uint64(0)
    shift = np.uint64(63 - n_bits)
    weight = np.uint64(1)  # of the word that leaves
    for _ in range(n):
        weight *= FACTOR
    key = np.uint64(0)
    n_chars = covered = 0
    for index in range(n_words):
        key = key * FACTOR + hashes[index]
        if index >= n:
            key -= hashes[index - n] * weight
        if index < n - 1:
            continue
        mixed = key ^ key >> np.uint64(32)
        slot = (mixed * FACTOR >> np.uint64(1)) >> shift
        wanted = np.uint64(1) << (mixed & np.uint64(63)) | np.uint64(1) << (
            mixed >> np.uint64(6) & np.uint64(63)
        )
        known = bits[slot]
        bits[slot] = known | wanted
        if known & wanted == wanted:
            n_chars += chars_before[index + 1] - chars_before[max(index + 1 - n, covered)]
            covered = index + 1
            if n_chars > limit:
                return True
    return False
