"""The compiled loops behind candidates, against Python and numpy."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dsllm.stages.dedup.bands import band_keys
from dsllm.stages.dedup.groups_compiled import sort_by_part
from dsllm.text.shingles import fmix64

BASE, MASK = 0x9E3779B97F4A7C15, 2**64 - 1


def test_keys_are_those_of_whole_numbers():
    """A polynomial of the band's hashes and its place, then MurmurHash3's finaliser."""
    signatures = np.random.default_rng(0).integers(0, 2**32, (5, 16), dtype=np.uint32)
    expected = np.zeros((3, 5), np.uint64)
    for document, signature in enumerate(signatures.tolist()):
        for band in range(3):
            key = 0
            for value in signature[5 * band : 5 * band + 5]:
                key = (key * BASE + value) & MASK
            expected[band, document] = (key + band * BASE) & MASK
    assert (band_keys(signatures, 3, 5) == fmix64(expected)).all()
    assert band_keys(signatures[:0], 3, 5).shape == (3, 0)


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 5))
def test_rows_are_sorted_by_part_and_stay_in_order(parts, width):
    rows = np.arange(len(parts) * width, dtype=np.uint32).reshape(len(parts), width)
    ends, found = np.empty(6, np.int64), np.empty_like(rows)
    numbers = np.array(parts, np.int64)
    sort_by_part(rows, numbers, ends, found)
    assert (found == rows[np.argsort(numbers, kind="stable")]).all()
    assert ends.tolist() == [0, *np.cumsum(np.bincount(numbers, minlength=5)).tolist()]
