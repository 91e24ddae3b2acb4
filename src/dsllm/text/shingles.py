"""Shingles, MinHash and Jaccard similarity, in numpy: the definition for compiled passes.

A shingle is a run of n words. Its hash has 64 bits and is defined in three steps, all modulo 2**64:

1. a word's UTF-8 bytes, zeros behind them to two blocks of 8 or more, are taken in block by block as
   MurmurHash64A (Austin Appleby) takes its last bytes: value = (value ^ block) * F; value ^= value >> 47.
   The value begins as the number of bytes times F, 0xC6A4A7935BD1E995, and one step without a block ends it;
2. a run of words w[0] .. w[n-1] is the polynomial w[0] * B**(n-1) + w[1] * B**(n-2) + ... + w[n-1], where
   B is 0x9E3779B97F4A7C15 (Rabin and Karp; B is odd, so no word's bits are lost);
3. the polynomial goes through fmix64, the finaliser of MurmurHash3, a bijection that spreads it.

A document is the set of its shingles' hashes; two different shingles share a hash with probability 2**-64.
Signatures are datasketch's scheme "affine32": given the same 32-bit hashes (the low halves of ours) and the
same seed they equal `datasketch.MinHash.hashvalues`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Signature = NDArray[np.uint32]
Permutations = NDArray[np.uint32]

_MASK = (1 << 64) - 1
BLOCK_BYTES = 8
MIN_BLOCKS = 2  # so that words of up to 16 bytes, nearly all, are hashed without a branch
WORD_FACTOR, WORD_SHIFT = np.uint64(0xC6A4A7935BD1E995), np.uint64(47)
BASE = np.uint64(0x9E3779B97F4A7C15)
DIGEST_STEPS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93))
DIGEST_OFFSET = np.uint64(0x2545F4914F6CDD1D)

_LONG_WORD_BYTES = 512  # longer words are hashed one by one: the vectorised loop runs once per block
_CHUNK_SHINGLES = 1024  # times n_hashes times 4 bytes: a block that stays in the cache


def hash_words(words: Sequence[str]) -> Hashes:
    """Hash each word, shape (n_words,). Words hold no space and no surrogate, as `scan.words` gives them."""
    if not words:
        return np.zeros(0, np.uint64)
    packed = " ".join(words).encode()
    data = np.frombuffer(packed + bytes(MIN_BLOCKS * BLOCK_BYTES), np.uint8)
    ends = np.append(np.flatnonzero(data[: len(packed)] == ord(" ")), len(packed))
    starts = np.concatenate(([0], ends[:-1] + 1))
    return _hash_slices(data, starts, ends - starts)


def hash_shingles(word_hashes: Hashes, n_words: int) -> Hashes:
    """Hash every run of `n_words` words, in order, repeats included.

    A document of fewer words is one shingle of all of them; a document without words has none.
    """
    n_words = min(n_words, len(word_hashes))
    if n_words == 0:
        return np.zeros(0, np.uint64)
    n_shingles = len(word_hashes) - n_words + 1
    polynomial = word_hashes[:n_shingles].copy()
    for shift in range(1, n_words):
        polynomial *= BASE
        polynomial += word_hashes[shift : shift + n_shingles]
    return fmix64(polynomial)


def shingle_set(words: Sequence[str], n_words: int) -> Hashes:
    """Give the set of a document's shingles: distinct hashes, ascending."""
    return np.unique(hash_shingles(hash_words(words), n_words))


def digest(word_hashes: Hashes) -> tuple[int, int]:
    """Hash a sequence of words to 128 bits: two sums of hashes of the words, each salted with its place.

    Equal sequences have equal digests; two others have with probability 2**-128, unless they were made to.
    """
    places = np.arange(len(word_hashes), dtype=np.uint64)
    low = fmix64(word_hashes + places * DIGEST_STEPS[0])
    high = fmix64(word_hashes ^ (places * DIGEST_STEPS[1] + DIGEST_OFFSET))
    return int(low.sum(dtype=np.uint64)), int(high.sum(dtype=np.uint64))


def make_permutations(n_hashes: int, seed: int) -> Permutations:
    """Draw permutations h -> a * h + b modulo 2**32 as datasketch does: odd a and b, shape (2, n_hashes)."""
    generator = np.random.RandomState(seed)
    a = generator.randint(0, 1 << 31, n_hashes, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
    b = generator.randint(0, 1 << 32, n_hashes, dtype=np.uint32)
    return np.stack([a, b])


def minhash(shingles: Hashes, permutations: Permutations) -> Signature:
    """Sign a set of shingles: the least value that each permutation gives, shape (n_hashes,).

    The empty set has the greatest value everywhere. Source: Broder 1997; the scheme is datasketch's.
    """
    a, b = permutations
    least = np.full(len(a), np.iinfo(np.uint32).max, np.uint32)
    mixed = fmix32(shingles.astype(np.uint32))  # the low 32 bits
    for start in range(0, len(mixed), _CHUNK_SHINGLES):
        chunk = mixed[start : start + _CHUNK_SHINGLES, None]  # (n_shingles, 1)
        np.minimum(least, (chunk * a + b).min(axis=0), out=least)
    return least


def n_shared(a: Hashes, b: Hashes) -> int:
    """Count what two sets (distinct, ascending) have in common."""
    if len(a) > len(b):
        a, b = b, a
    if not len(a):
        return 0
    places = np.searchsorted(b, a)
    places[places == len(b)] = 0
    return int(np.count_nonzero(b[places] == a))


def jaccard(a: Hashes, b: Hashes) -> float:
    """Divide the size of the intersection of two sets by that of their union; 0 for two empty sets."""
    shared = n_shared(a, b)
    n_union = len(a) + len(b) - shared
    return shared / n_union if n_union else 0.0


def fmix32(values: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Apply the 32-bit finaliser of MurmurHash3, a bijection."""
    values = values ^ (values >> np.uint32(16))
    values *= np.uint32(0x85EBCA6B)
    values ^= values >> np.uint32(13)
    values *= np.uint32(0xC2B2AE35)
    values ^= values >> np.uint32(16)
    return values


def fmix64(values: Hashes) -> Hashes:
    """Apply the 64-bit finaliser of MurmurHash3, a bijection."""
    values = values ^ (values >> np.uint64(33))
    values *= np.uint64(0xFF51AFD7ED558CCD)
    values ^= values >> np.uint64(33)
    values *= np.uint64(0xC4CEB9FE1A85EC53)
    values ^= values >> np.uint64(33)
    return values


def _hash_slices(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Hashes:
    """Hash slices of `data`, which is followed by at least two blocks more."""
    # Eight bytes from every place, little-endian, overlapping: blocks[i] reads data[i : i + 8].
    blocks = np.ndarray((len(data) - BLOCK_BYTES + 1,), "<u8", data, strides=(1,))
    values = lengths.astype(np.uint64) * WORD_FACTOR
    is_long = lengths > _LONG_WORD_BYTES
    n_blocks = np.maximum(MIN_BLOCKS, -(-lengths // BLOCK_BYTES))
    for number in range(int(n_blocks[~is_long].max(initial=0))):
        member = np.flatnonzero((n_blocks > number) & ~is_long)
        n_left = np.maximum(0, lengths[member] - number * BLOCK_BYTES)
        block = blocks[starts[member] + np.minimum(number * BLOCK_BYTES, lengths[member])]
        n_bits = np.minimum(n_left, BLOCK_BYTES - 1).astype(np.uint64) * np.uint64(8)
        block &= np.where(n_left < BLOCK_BYTES, (np.uint64(1) << n_bits) - np.uint64(1), np.uint64(_MASK))
        values[member] = (values[member] ^ block) * WORD_FACTOR
        values[member] ^= values[member] >> WORD_SHIFT
    values *= WORD_FACTOR
    values ^= values >> WORD_SHIFT
    for place in np.flatnonzero(is_long):
        values[place] = hash_word(data[starts[place] : starts[place] + lengths[place]].tobytes())
    return values


def hash_word(word: bytes) -> int:
    """Hash the bytes of one word, block by block."""
    factor, shift = int(WORD_FACTOR), int(WORD_SHIFT)
    value = len(word) * factor & _MASK
    n_blocks = max(MIN_BLOCKS, -(-len(word) // BLOCK_BYTES))
    for block in np.frombuffer(word.ljust(n_blocks * BLOCK_BYTES, b"\0"), "<u8").tolist():
        value = (value ^ block) * factor & _MASK
        value ^= value >> shift
    value = value * factor & _MASK
    return value ^ value >> shift
