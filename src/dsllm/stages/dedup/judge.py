"""Which of the documents that may be alike go, and for which one that stays.

The documents of a component are taken in the order of their right to stay. One goes only when a document
that stays has a Jaccard similarity of at least the threshold, computed from the two whole sets of shingles.
Likeness is not passed on along chains: that A is like B and B like C says nothing about A and C.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsllm.stages.dedup.judge_compiled import STAYS, judge_in_order

# A bucket lists the first documents that stayed in it and no more, so that a document is compared with at
# most this many times n_bands others. Only recall can suffer, where thousands share a band but are not alike.
MAX_LISTED = 1000
# The sketch's estimate may fall short of the true similarity by this many standard errors.
N_ERRORS = 4.0
_NO_BUCKET = -1


@dataclass(frozen=True)
class Judged:
    """What became of documents, in their order.

    `kept` is the place of the one that stays for it, -1 for one that stays itself; `n_unlisted` counts the
    entries of full buckets, `n_compared` the pairs of sets. `is_listed` tells which ones stay and can be met
    by those that come later.
    """

    kept: NDArray[np.int64]
    similarity: NDArray[np.float64]
    is_listed: NDArray[np.bool_]
    n_unlisted: int
    n_compared: int


def judge(
    signatures: NDArray[np.uint32],
    keys: NDArray[np.uint64],
    sets: NDArray[np.uint64],
    set_ends: NDArray[np.int64],
    threshold: float,
    *,
    is_indexed: NDArray[np.bool_] | None = None,
    n_before: int = 0,
    repeated: NDArray[np.uint64] | None = None,
) -> Judged:
    """Judge documents, given in the order of their right to stay.

    Many can be judged in stretches: each is given after those of the stretches before that are listed, which
    is the same as all at once.

    Args:
        signatures: (n_documents, n_hashes).
        keys: the bands' hashes, (n_bands, n_documents).
        sets: the distinct shingles of all documents, one after another.
        set_ends: where each one's set ends.
        threshold: the least similarity for which a document goes.
        is_indexed: which documents an index describes: they stay, and their sets are the lower halves of
            the shingles. None: no document.
        n_before: how many of them, at the front, are of stretches before.
        repeated: which keys occur again in any stretch, ascending; without it these are all there are.
    """
    n_documents, n_hashes = signatures.shape
    if repeated is None:
        repeated = find_repeated_keys(keys.ravel().copy())
    buckets = np.full(keys.T.shape, _NO_BUCKET)
    if len(repeated):
        places = np.minimum(np.searchsorted(repeated, keys.T), len(repeated) - 1)
        np.copyto(buckets, places, where=repeated[places] == keys.T)
    error = math.sqrt(threshold * (1.0 - threshold) / n_hashes)  # of a binomial share
    least_equal = math.ceil((threshold - N_ERRORS * error) * n_hashes - 1e-9)
    kept = np.full(n_documents, STAYS, np.int64)
    similarity, is_listed = np.zeros(n_documents), np.zeros(n_documents, bool)
    if is_indexed is None:
        is_indexed = np.zeros(n_documents, bool)
    n_unlisted, n_compared = judge_in_order(
        signatures, np.ascontiguousarray(buckets), len(repeated), sets, set_ends, is_indexed, threshold,
        least_equal, MAX_LISTED, n_before, kept, similarity, is_listed,
    )  # fmt: skip
    return Judged(kept, similarity, is_listed, n_unlisted, n_compared)


def find_repeated_keys(keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Give those that occur more than once, ascending; sorts `keys` where they are."""
    keys.sort()
    repeated = keys[1:][keys[1:] == keys[:-1]]
    is_first = np.append(True, repeated[1:] != repeated[:-1])[: len(repeated)]
    return np.array(repeated[is_first], np.uint64)
