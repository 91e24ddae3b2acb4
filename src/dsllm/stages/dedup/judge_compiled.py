"""The loops of `judge.py`, compiled."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.shingles_compiled import contains, grow_table, put

STAYS = -1
_NOBODY = -1
LOWER_HALF = np.uint64(0xFFFFFFFF)  # what an index has of a shingle's hash
ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)


@compiled
def judge_in_order(
    signatures: NDArray[np.uint32],
    buckets: NDArray[np.int64],
    n_buckets: int,
    sets: NDArray[np.uint64],
    set_ends: NDArray[np.int64],
    is_indexed: NDArray[np.bool_],
    threshold: float,
    least_equal: int,
    max_listed: int,
    n_before: int,
    kept: NDArray[np.int64],
    similarity: NDArray[np.float64],
    is_listed: NDArray[np.bool_],
) -> tuple[int, int]:
    """Fill `kept`, `similarity` and `is_listed`; the first `n_before` documents stay: that is known.

    `buckets` is (n_documents, n_bands), -1 for one with a single document.

    Returns:
        (entries that full buckets did not list, pairs of sets that were compared).
    """
    n_documents, n_bands = buckets.shape
    heads = np.full(n_buckets, _NOBODY, np.int64)  # of each bucket's list: the last entry
    n_listed = np.zeros(n_buckets, np.int64)
    entries = np.empty((n_documents * n_bands, 2), np.int64)  # (document, entry before)
    met_by = np.full(n_documents, _NOBODY, np.int64)
    likely = np.empty(64, np.int64)
    n_entries = n_unlisted = n_compared = 0
    for number in range(n_documents):
        n_likely = 0
        is_known = number < n_before or is_indexed[number]
        for bucket in buckets[number]:
            entry = heads[bucket] if bucket >= 0 and not is_known else _NOBODY
            while entry != _NOBODY:
                other, entry = entries[entry]
                if met_by[other] == number:
                    continue
                met_by[other] = number
                n_equal = _count_equal(signatures[number], signatures[other])
                if n_equal >= least_equal:
                    if n_likely == len(likely):
                        likely = np.concatenate((likely, likely))
                    likely[n_likely] = (n_equal + 1) * n_documents - other  # the likeliest, then the first
                    n_likely += 1
        twin, similarity[number], n_more = _find_twin(
            number, np.sort(likely[:n_likely])[::-1], sets, set_ends, is_indexed, threshold
        )
        n_compared += n_more
        kept[number] = twin
        if twin != STAYS:
            continue
        for bucket in buckets[number]:
            if bucket >= 0 and n_listed[bucket] < max_listed:
                entries[n_entries] = number, heads[bucket]
                heads[bucket] = n_entries
                n_listed[bucket] += 1
                n_entries += 1
                is_listed[number] = True
            elif bucket >= 0 and number >= n_before:
                n_unlisted += 1
    return n_unlisted, n_compared


@compiled
def _find_twin(number, likely, sets, set_ends, is_indexed, threshold):
    """Compare with the likeliest first; returns the first that is similar enough, and its similarity."""
    n_documents = len(set_ends)
    own = _cut(sets, set_ends, number)
    whole_table = half_table = np.empty(0, np.uint64)
    n_compared = 0
    for code in likely:
        other = (n_documents - code % n_documents) % n_documents
        others = _cut(sets, set_ends, other)
        # The intersection is at most the smaller set, the union at least the larger one.
        if min(len(own), len(others)) / max(len(own), len(others)) < threshold:
            continue
        if is_indexed[other]:
            if not len(half_table):
                half_table = _put_all(own, LOWER_HALF)
            table = half_table
        else:
            if not len(whole_table):
                whole_table = _put_all(own, ALL_BITS)
            table = whole_table
        n_compared += 1
        n_shared = _count_shared(table, others)
        similarity = n_shared / (len(own) + len(others) - n_shared)
        if similarity >= threshold:
            return other, similarity, n_compared
    return STAYS, 0.0, n_compared


@compiled
def compare_pairs(
    sets: NDArray[np.uint64],
    set_ends: NDArray[np.int64],
    is_indexed: NDArray[np.bool_],
    n_shared: NDArray[np.int64],
) -> None:
    """Count what the sets 0 and 1, 2 and 3, ... have in common, into `n_shared` (n_pairs,).

    Of a pair the second may be indexed, and be lower halves.
    """
    for pair in range(len(n_shared)):
        bits = LOWER_HALF if is_indexed[2 * pair + 1] else ALL_BITS
        table = _put_all(_cut(sets, set_ends, 2 * pair), bits)
        n_shared[pair] = _count_shared(table, _cut(sets, set_ends, 2 * pair + 1))


@compiled
def _put_all(values, bits):
    table = grow_table(np.zeros(64, np.uint64), values[:0], len(values))
    for value in values:
        put(table, value & bits)
    return table


@compiled
def _count_shared(table, values):
    n_shared = 0
    for value in values:
        n_shared += contains(table, value)
    return n_shared


@compiled
def _cut(sets, set_ends, number):
    start = set_ends[number - 1] if number else 0
    return sets[start : set_ends[number]]


@compiled
def _count_equal(a, b):
    n_equal = 0
    for index in range(len(a)):
        n_equal += a[index] == b[index]
    return n_equal
