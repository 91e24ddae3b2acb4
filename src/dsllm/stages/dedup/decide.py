"""Second pass: which documents go, and for which one that stays.

Documents are taken in the order in which they have a right to stay. One goes only when a document that stays
has the same words, or a Jaccard similarity of at least the threshold, computed from the two whole sets of
shingles. Likeness is not passed on along chains: that A is like B and B like C says nothing about A and C.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.progress import Reporter
from dsllm.stages.dedup.bands import band_keys, choose_bands
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import Corpus, Numbers
from dsllm.text.shingles import jaccard

STAYS, EXACT, NEAR = 0, 1, 2
LEVEL_NAMES = {EXACT: "exact", NEAR: "near"}
# A row a document: how it goes, the number of the document that stays for it (-1: it stays itself), likeness.
VERDICT = np.dtype([("level", "u1"), ("kept", "<i8"), ("similarity", "<f8")])

# A bucket lists the first documents that stayed in it and no more, so that a document is compared with at
# most this many times n_bands others. Only recall can suffer, where thousands share a band but are not alike.
MAX_LISTED = 1000
# The sketch's estimate may fall short of the true similarity by this many standard errors.
N_ERRORS = 4.0
_CHUNK = 1 << 16


def decide(corpus: Corpus, config: DedupConfig, scratch: Path, reporter: Reporter) -> NDArray[Any]:
    """Judge every document; returns VERDICT rows by document number."""
    verdicts = np.zeros(len(corpus), VERDICT)
    verdicts["kept"] = -1
    order = keep_order(corpus, config)
    remaining = _remove_exact(corpus, order, verdicts)
    if config.level == "near":
        remaining = remaining[corpus.rows["n_shingles"][remaining] > 0]
        buckets = find_buckets(corpus, remaining, choose_bands(config), scratch)
        search = _Search(corpus, config, remaining, buckets)
        with reporter.bar("dedup: compare", total=len(remaining), unit="documents") as bar:
            for start in range(0, len(remaining), _CHUNK):
                search.judge(start, min(start + _CHUNK, len(remaining)), verdicts)
                bar.advance(min(_CHUNK, len(remaining) - start))
        if search.n_unlisted:
            reporter.say(
                f"dsllm: {search.n_unlisted:,} entries of buckets with more than {MAX_LISTED:,} unlike "
                "documents were not listed: some near duplicates of those may stay"
            )
        _follow(verdicts)
    return verdicts


def keep_order(corpus: Corpus, config: DedupConfig) -> Numbers:
    """List the documents by their right to stay: by place, or the longest first and then by place."""
    if config.keep == "longest":
        return np.argsort(-corpus.rows["n_bytes"], kind="stable")
    return np.arange(len(corpus))


def _remove_exact(corpus: Corpus, order: Numbers, verdicts: NDArray[Any]) -> Numbers:
    """Remove all but the first document of each digest; returns those that are left, in order."""
    digests = corpus.rows["digest"][order]
    by_digest = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: by order within equal digests
    digests = digests[by_digest]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (digests[1:] != digests[:-1]).any(axis=1)
    firsts = by_digest[is_first]
    first_of = firsts[np.cumsum(is_first) - 1]
    gone = order[by_digest[~is_first]]
    verdicts["level"][gone] = EXACT
    verdicts["kept"][gone] = order[first_of[~is_first]]
    verdicts["similarity"][gone] = 1.0
    return order[np.sort(firsts)]


def _follow(verdicts: NDArray[Any]) -> None:
    """Where the document of the same words went as a near duplicate, name the one that stays for it."""
    kept = verdicts["kept"]
    member = np.flatnonzero((verdicts["level"] == EXACT) & (kept[kept] >= 0))
    verdicts[member] = verdicts[kept[member]]


def find_buckets(
    corpus: Corpus, numbers: Numbers, bands: tuple[int, int], scratch: Path
) -> NDArray[np.int64]:
    """Group documents that agree in a band.

    Returns:
        For each document and band the bucket's number, -1 where nobody shares it: (len(numbers), n_bands),
        mapped from a file in `scratch`, as are the bands' hashes on the way.
    """
    n_bands, n_rows = bands
    if not len(numbers):
        return np.zeros((0, n_bands), np.int64)
    keys = np.memmap(scratch / "bands", np.uint64, "w+", shape=(n_bands, len(numbers)))
    for start in range(0, len(numbers), _CHUNK):
        chunk = numbers[start : start + _CHUNK]
        keys[:, start : start + _CHUNK] = band_keys(corpus.signatures(chunk), n_bands, n_rows)
    buckets = np.memmap(scratch / "buckets", np.int64, "w+", shape=(len(numbers), n_bands))
    n_buckets = 0
    for band in range(n_bands):
        order = np.argsort(keys[band], kind="stable")
        ordered = keys[band][order]
        starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        sizes = np.diff(np.append(starts, len(ordered)))
        is_shared = sizes > 1
        names = np.where(is_shared, n_buckets + np.cumsum(is_shared) - 1, -1)
        buckets[order, band] = np.repeat(names, sizes)
        n_buckets += int(is_shared.sum())
    return buckets


@dataclass
class _Search:
    """Compares documents, in order, with those of their buckets that stay."""

    corpus: Corpus
    config: DedupConfig
    numbers: Numbers
    buckets: NDArray[np.int64]  # (len(numbers), n_bands)
    n_unlisted: int = 0

    def __post_init__(self) -> None:
        self._listed: defaultdict[int, list[int]] = defaultdict(list)  # bucket -> documents that stay
        threshold = self.config.threshold
        error = math.sqrt(threshold * (1.0 - threshold) / self.config.n_hashes)  # of a binomial share
        self._least_estimate = threshold - N_ERRORS * error

    def judge(self, start: int, end: int, verdicts: NDArray[Any]) -> None:
        """Judge the documents from place `start` to `end`."""
        chunk = np.array(self.buckets[start:end])
        for place in np.flatnonzero((chunk >= 0).any(axis=1)):
            number = int(self.numbers[start + place])
            shared = chunk[place][chunk[place] >= 0].tolist()
            candidates = sorted({other for bucket in shared for other in self._listed.get(bucket, ())})
            kept, similarity = self._find_twin(number, np.array(candidates, np.int64))
            if kept >= 0:
                verdicts[number] = (NEAR, kept, similarity)
            else:
                self._list(number, shared)

    def _find_twin(self, number: int, candidates: Numbers) -> tuple[int, float]:
        """Return the likeliest candidate that is similar enough and its similarity; -1 where none is."""
        threshold = self.config.threshold
        sizes = self.corpus.rows["n_shingles"][candidates]
        own_size = int(self.corpus.rows["n_shingles"][number])
        # The intersection is at most the smaller set, the union at least the larger one.
        candidates = candidates[np.minimum(sizes, own_size) / np.maximum(sizes, own_size) >= threshold]
        if not len(candidates):
            return -1, 0.0
        own_signature = self.corpus.signatures(np.array([number]))
        estimates = (self.corpus.signatures(candidates) == own_signature).mean(axis=1)
        is_likely = estimates >= self._least_estimate
        candidates, estimates = candidates[is_likely], estimates[is_likely]
        own_shingles = self.corpus.shingles(number)
        for candidate in candidates[np.argsort(-estimates, kind="stable")].tolist():
            similarity = jaccard(own_shingles, self.corpus.shingles(candidate))
            if similarity >= threshold:
                return candidate, similarity
        return -1, 0.0

    def _list(self, number: int, shared: list[int]) -> None:
        for bucket in shared:
            listed = self._listed[bucket]
            if len(listed) < MAX_LISTED:
                listed.append(number)
            else:
                self.n_unlisted += 1
