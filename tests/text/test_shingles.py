"""Shingle hashes against a walk by hand, signatures against datasketch, Jaccard against Python sets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsllm.text import shingles

MASK = 2**64 - 1
some_words = st.lists(st.text(st.characters(exclude_categories=["Cs", "Z", "C"]), min_size=1), max_size=30)


def fmix64(value):
    """MurmurHash3's finaliser, on Python integers."""
    value ^= value >> 33
    value = value * 0xFF51AFD7ED558CCD & MASK
    value ^= value >> 33
    value = value * 0xC4CEB9FE1A85EC53 & MASK
    return value ^ value >> 33


def test_word_hash_by_hand():
    """Words of one, nine and seventeen bytes, worked out step by step: two blocks at least, zeros behind."""
    factor = 0xC6A4A7935BD1E995

    def step(value, block):
        value = (value ^ block) * factor & MASK
        return value ^ value >> 47

    head = 0x6867666564636261  # "abcdefgh", little-endian
    assert shingles.hash_word(b"a") == step(step(step(factor, 0x61), 0), 0)
    assert shingles.hash_word(b"abcdefghi") == step(step(step(9 * factor, head), 0x69), 0)
    assert shingles.hash_word(b"abcdefghabcdefghi") == step(
        step(step(step(17 * factor, head), head), 0x69), 0
    )


@given(some_words)
def test_words_hashed_together_equal_words_hashed_alone(words):
    expected = [shingles.hash_word(word.encode()) for word in words]
    assert shingles.hash_words(words).tolist() == expected


@pytest.mark.parametrize("n_bytes", [7, 8, 9, 15, 16, 17, 24, 25, 511, 512, 513, 4096, 100_003])
def test_long_words_are_hashed_the_same_way(n_bytes):
    word = "".join(chr(97 + i * i % 26) for i in range(n_bytes))
    assert shingles.hash_words(["x", word, "y"]).tolist() == [
        shingles.hash_word(part.encode()) for part in ("x", word, "y")
    ]


@given(some_words, st.integers(1, 6))
def test_shingle_hash_is_the_stated_polynomial(words, n_words):
    hashes = [shingles.hash_word(word.encode()) for word in words]
    size = min(n_words, len(words))
    runs = [hashes[i : i + size] for i in range(len(words) - size + 1)] if words else []
    base = 0x9E3779B97F4A7C15
    expected = [fmix64(sum(h * base ** (len(run) - 1 - i) for i, h in enumerate(run)) & MASK) for run in runs]
    assert shingles.hash_shingles(shingles.hash_words(words), n_words).tolist() == expected


def test_a_short_document_is_one_shingle():
    assert len(shingles.shingle_set(["only", "four", "words", "here"], 5)) == 1
    assert len(shingles.shingle_set([], 5)) == 0
    assert len(shingles.shingle_set(["a", "b", "c", "d", "e", "f"], 5)) == 2


@pytest.mark.parametrize("n_shingles", [0, 1, 5, 1023, 1024, 1025, 5000])
def test_signatures_equal_datasketch(n_shingles):
    from datasketch import MinHash

    hashes = np.random.default_rng(n_shingles).integers(0, 2**64, n_shingles, dtype=np.uint64)
    reference = MinHash(num_perm=96, seed=7, scheme="affine32", hashfunc=lambda value: value)
    reference.update_batch([int(value) & 0xFFFFFFFF for value in hashes])
    permutations = shingles.make_permutations(96, seed=7)
    np.testing.assert_array_equal(permutations, reference.permutations)
    np.testing.assert_array_equal(shingles.minhash(hashes, permutations), reference.hashvalues)


@given(st.sets(st.integers(0, 40)), st.sets(st.integers(0, 40)))
def test_jaccard_equals_that_of_python_sets(a, b):
    arrays = [np.array(sorted(values), np.uint64) for values in (a, b)]
    expected = len(a & b) / len(a | b) if a | b else 0.0
    assert shingles.jaccard(*arrays) == expected


def test_jaccard_at_four_fifths_is_not_below_the_threshold():
    a = np.arange(9, dtype=np.uint64)
    b = np.arange(1, 10, dtype=np.uint64)  # 8 shared of 10
    assert shingles.jaccard(a, b) >= 0.8
