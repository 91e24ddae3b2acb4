"""Signatures, digests and sets of shingles straight from texts, compiled: the same as `shingles.py`.

One pass over the bytes of a batch of texts: words, their hashes, the hashes of runs of words, the least
values of the permutations. Nothing is kept of a text but what is asked for.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsllm.text import shingles as definition
from dsllm.text.compiled import compiled
from dsllm.text.scan_compiled import (
    MAX_EDGES,
    N_STATE,
    PLACE,
    keep_open_word,
    scan_piece,
    word_tables,
)
from dsllm.text.shingles import Hashes, Permutations
from dsllm.text.texts import Texts
from dsllm.text.vector import BLOCK_BYTES, load_word

_FACTOR, _SHIFT = definition.WORD_FACTOR, definition.WORD_SHIFT
_HEAD_MASKS = np.array(
    [(1 << 8 * n_bytes) - 1 for n_bytes in range(9)], np.uint64
)  # of a block's first bytes
_BASE = definition.BASE
_DIGEST_STEPS, _DIGEST_OFFSET = definition.DIGEST_STEPS, definition.DIGEST_OFFSET
MAX_WORDS = MAX_EDGES // 2 + BLOCK_BYTES  # of one piece
SAMPLE_BITS = 9  # one shingle in 512
MAX_SAMPLES = 256
_SAMPLED_BELOW = np.uint64(1 << 64 - SAMPLE_BITS)
_EMPTY = np.uint64(0)  # marks a free place of a hash table


@dataclass(frozen=True)
class Sketches:
    """What is known of each text: (n_texts, n_hashes), (n_texts, 2) and (n_texts,).

    `samples` (n_samples,) are the shingles whose upper SAMPLE_BITS bits are zero, in order, at most
    MAX_SAMPLES of a text, and `sampled_texts` says which text each one is from.
    """

    signatures: NDArray[np.uint32]
    digests: NDArray[np.uint64]
    n_words: NDArray[np.int64]
    samples: NDArray[np.uint64]
    sampled_texts: NDArray[np.int64]


@dataclass(frozen=True)
class Shingler:
    """How texts are cut into shingles."""

    n_words: int
    fold: bool
    punctuation: bool

    def sign(self, texts: Texts, permutations: Permutations) -> Sketches:
        """Sign texts, shape (2, n_hashes) of permutations; a text without words has the signature of none.

        Equal to `minhash(shingle_set(words(text), n_words))` and to `digest(hash_words(words(text)))`.
        """
        n_texts = len(texts.ends)
        signatures = np.full((n_texts, permutations.shape[1]), np.iinfo(np.uint32).max, np.uint32)
        digests = np.zeros((n_texts, 2), np.uint64)
        n_words = np.zeros(n_texts, np.int64)
        samples = np.empty(n_texts * MAX_SAMPLES, np.uint64)
        sampled_texts = np.empty(len(samples), np.int64)
        n_samples = _sign_texts(
            texts.data, texts.ends, self.n_words, self.fold, self.punctuation, *word_tables(),
            permutations[0], permutations[1], signatures, digests, n_words, samples, sampled_texts,
        )  # fmt: skip
        return Sketches(
            signatures, digests, n_words, samples[:n_samples].copy(), sampled_texts[:n_samples].copy()
        )

    def shingle_sets(self, texts: Texts) -> tuple[Hashes, NDArray[np.int64]]:
        """Give the distinct shingles of each text, in order of appearance, and where each set ends."""
        ends = np.zeros(len(texts.ends), np.int64)
        room = int(texts.ends[-1]) + 1 if len(ends) else 0  # a shingle a byte at most
        hashes = np.empty(room, np.uint64)
        n_hashes = _find_sets(
            texts.data, texts.ends, self.n_words, self.fold, self.punctuation, *word_tables(), hashes, ends
        )  # fmt: skip
        return hashes[:n_hashes].copy(), ends


@compiled
def _sign_texts(
    data, ends, n_words, fold, punctuation, classes, folding, factors, offsets, signatures, digests, counts,
    samples, sampled_texts,
):  # fmt: skip
    folded, edges, parts, state = make_room(ends)
    words = np.empty(n_words + MAX_WORDS, np.uint64)
    found = np.empty(n_words + MAX_WORDS, np.uint64)
    start = n_samples = 0
    for text in range(len(ends)):
        state[:] = 0
        state[PLACE] = start
        n_held = 0
        while True:
            n_new = next_words(
                data, ends[text], state, folded, edges, parts, fold, punctuation, classes, folding,
                words, n_held,
            )  # fmt: skip
            _add_to_digest(words[n_held : n_held + n_new], counts[text], digests[text])
            counts[text] += n_new
            is_last = state[PLACE] >= ends[text]
            n_found = _hash_runs(words, n_held + n_new, n_words, is_last and counts[text] < n_words, found)
            _lower(found, n_found, factors, offsets, signatures[text])
            n_samples = _sample(found, n_found, text, samples, sampled_texts, n_samples)
            if is_last:
                break
            n_held = _keep_last(words, n_held + n_new, n_words - 1)
        start = ends[text]
    return n_samples


@compiled
def _find_sets(data, ends, n_words, fold, punctuation, classes, folding, hashes, set_ends):
    folded, edges, parts, state = make_room(ends)
    words = np.empty(n_words + MAX_WORDS, np.uint64)
    found = np.empty(n_words + MAX_WORDS, np.uint64)
    start = n_hashes = 0
    for text in range(len(ends)):
        state[:] = 0
        state[PLACE] = start
        n_held = n_seen = 0
        set_start = n_hashes
        table = np.zeros(64, np.uint64)
        while True:
            n_new = next_words(
                data, ends[text], state, folded, edges, parts, fold, punctuation, classes, folding,
                words, n_held,
            )  # fmt: skip
            n_seen += n_new
            is_last = state[PLACE] >= ends[text]
            n_found = _hash_runs(words, n_held + n_new, n_words, is_last and n_seen < n_words, found)
            table = grow_table(table, hashes[set_start:n_hashes], n_found)
            for index in range(n_found):
                if put(table, found[index]):
                    hashes[n_hashes] = found[index]
                    n_hashes += 1
            if is_last:
                break
            n_held = _keep_last(words, n_held + n_new, n_words - 1)
        set_ends[text] = n_hashes
        start = ends[text]
    return n_hashes


@compiled
def make_room(ends):
    """Give what `next_words` writes to, large enough for each of the texts: (folded, edges, parts, state)."""
    longest = start = 0
    for end in ends:
        longest = max(longest, end - start)
        start = end
    folded = np.empty(longest + longest // 2 + 4 * BLOCK_BYTES, np.uint8)
    edges = np.empty(MAX_EDGES + 3 * BLOCK_BYTES, np.int64)
    return folded, edges, np.empty((2, MAX_WORDS), np.uint64), np.zeros(N_STATE, np.int64)


@compiled
def next_words(data, end, state, folded, edges, parts, fold, punctuation, classes, folding, words, n_held):
    """Hash the words of the next piece into `words[n_held:]`; returns their number."""
    n_new = scan_piece(data, end, state, folded, edges, fold, punctuation, classes, folding)
    _hash_words(folded, edges, n_new, parts[0], parts[1], words[n_held:])
    keep_open_word(state, folded, edges)
    return n_new


@compiled
def _hash_words(data, edges, n_words, lengths, seconds, words):
    """Hash words as `hash_word` does: first read each, then multiply many at a time."""
    n_long = 0
    for word in range(n_words):
        start = edges[2 * word]
        n_bytes = edges[2 * word + 1] - start
        lengths[word] = n_bytes
        words[word] = load_word(data, start) & _HEAD_MASKS[np.uint64(min(n_bytes, 8))]
        seconds[word] = load_word(data, start + 8) & _HEAD_MASKS[np.uint64(min(max(n_bytes - 8, 0), 8))]
        n_long += n_bytes > 16
    for word in range(n_words):
        value = lengths[word] * _FACTOR
        value = (value ^ words[word]) * _FACTOR
        value ^= value >> _SHIFT
        value = (value ^ seconds[word]) * _FACTOR
        value ^= value >> _SHIFT
        value *= _FACTOR
        words[word] = value ^ value >> _SHIFT
    word = 0
    while n_long:
        if lengths[word] > 16:
            words[word] = hash_word(data, edges[2 * word], edges[2 * word + 1])
            n_long -= 1
        word += 1


@compiled
def hash_word(data, start, end):
    """Hash `data[start:end]` as `hash_words` does; 16 bytes from the last place on may be read."""
    n_left = end - start
    value = np.uint64(n_left) * _FACTOR
    value = (value ^ load_word(data, start) & _HEAD_MASKS[min(n_left, 8)]) * _FACTOR
    value ^= value >> _SHIFT
    value = (value ^ load_word(data, start + 8) & _HEAD_MASKS[min(max(n_left - 8, 0), 8)]) * _FACTOR
    start += 16
    while start < end:
        value ^= value >> _SHIFT
        value = (value ^ load_word(data, start) & _HEAD_MASKS[min(end - start, 8)]) * _FACTOR
        start += 8
    value ^= value >> _SHIFT
    value *= _FACTOR
    return value ^ value >> _SHIFT


@compiled
def hash_two(head, tail, n_bytes):
    """Hash a word of at most 16 bytes as `hash_word` does: its first eight bytes, and the others."""
    value = (np.uint64(n_bytes) * _FACTOR ^ head) * _FACTOR
    value ^= value >> _SHIFT
    value = (value ^ tail) * _FACTOR
    value ^= value >> _SHIFT
    value *= _FACTOR
    return value ^ value >> _SHIFT


@compiled
def _hash_runs(words, n_held, n_words, is_short, found):
    """Hash each run of `n_words`, or of all words where the text has fewer; returns their number."""
    if is_short:
        n_words = n_held
    n_found = max(0, n_held - n_words + 1) if n_words else 0
    for place in range(n_found):
        found[place] = words[place]
    for shift in range(1, n_words):  # the outer loop, so that the inner one is done many places at a time
        for place in range(n_found):
            found[place] = found[place] * _BASE + words[place + shift]
    for place in range(n_found):
        found[place] = fmix64(found[place])
    return n_found


@compiled
def _lower(found, n_found, factors, offsets, least):
    """Lower the least value of each permutation, four shingles at a time to save memory traffic."""
    place = 0
    while place + 4 <= n_found:
        a, b = _fmix32(found[place]), _fmix32(found[place + 1])
        c, d = _fmix32(found[place + 2]), _fmix32(found[place + 3])
        for index in range(len(factors)):
            factor, offset = factors[index], offsets[index]
            ab = min(_permute(a, factor, offset), _permute(b, factor, offset))
            cd = min(_permute(c, factor, offset), _permute(d, factor, offset))
            least[index] = min(least[index], ab, cd)
        place += 4
    while place < n_found:
        a = _fmix32(found[place])
        for index in range(len(factors)):
            least[index] = min(least[index], _permute(a, factors[index], offsets[index]))
        place += 1


@compiled
def _sample(found, n_found, text, samples, sampled_texts, n_samples):
    first = n_samples
    while first and sampled_texts[first - 1] == text:
        first -= 1
    for start in range(0, n_found, BLOCK_BYTES):  # most have none: counted without a branch
        block = found[start : min(start + BLOCK_BYTES, n_found)]
        n_hits = 0
        for value in block:
            n_hits += value < _SAMPLED_BELOW
        for value in block[: len(block) if n_hits else 0]:
            if value < _SAMPLED_BELOW and n_samples - first < MAX_SAMPLES:
                samples[n_samples] = value
                sampled_texts[n_samples] = text
                n_samples += 1
    return n_samples


@compiled
def _permute(value, factor, offset):
    return np.uint32(np.uint32(value * factor) + offset)  # numba would widen the product


@compiled
def _add_to_digest(words, first_place, digest):
    low, high = digest[0], digest[1]
    for index in range(len(words)):
        place = np.uint64(first_place + index)
        low += fmix64(words[index] + place * _DIGEST_STEPS[0])
        high += fmix64(words[index] ^ (place * _DIGEST_STEPS[1] + _DIGEST_OFFSET))
    digest[0], digest[1] = low, high


@compiled
def _keep_last(words, n_held, n_kept):
    n_kept = min(n_held, n_kept)
    for index in range(n_kept):
        words[index] = words[n_held - n_kept + index]
    return n_kept


@compiled
def fmix64(value):
    """Apply the 64-bit finaliser of MurmurHash3."""
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xFF51AFD7ED558CCD)
    value ^= value >> np.uint64(33)
    value *= np.uint64(0xC4CEB9FE1A85EC53)
    return value ^ value >> np.uint64(33)


@compiled
def _fmix32(hashed):
    value = np.uint32(hashed)
    value ^= value >> np.uint32(16)
    value = np.uint32(value * np.uint32(0x85EBCA6B))
    value ^= value >> np.uint32(13)
    value = np.uint32(value * np.uint32(0xC2B2AE35))
    return np.uint32(value ^ value >> np.uint32(16))


@compiled
def grow_table(table, members, n_more):
    """Give a table with room for its `members` and `n_more`, at most half full."""
    size = len(table)
    while size < 2 * (len(members) + n_more):
        size *= 2
    if size == len(table):
        return table
    grown = np.zeros(size, np.uint64)
    for member in members:
        put(grown, member)
    return grown


@compiled
def put(table, value):
    """Put a hash into a table (a power of two long, 0 where free); tells whether it is new.

    0 stands for 1: one of 2**64 hashes is taken for another.
    """
    value = max(value, np.uint64(1))
    mask = np.uint64(len(table) - 1)
    place = value & mask
    while table[place] != _EMPTY:
        if table[place] == value:
            return False
        place = (place + np.uint64(1)) & mask
    table[place] = value
    return True


@compiled
def contains(table, value):
    """Tell whether a hash is in a table."""
    value = max(value, np.uint64(1))
    mask = np.uint64(len(table) - 1)
    place = value & mask
    while table[place] != _EMPTY:
        if table[place] == value:
            return True
        place = (place + np.uint64(1)) & mask
    return False
