"""What a run missed and what it removed wrongly, estimated from pairs of documents compared exactly.

Pairs for this are found in a way that has nothing to do with bands: one shingle in 512, chosen by its hash,
is a meeting place, and of the documents that meet there two are drawn. A pair that shares s shingles has s
chances to meet; divided by these, the drawn pairs stand for all pairs of documents that share a shingle
(Horvitz and Thompson 1952). Of the places a few are taken, those of likely duplicates more often than others,
and weighed for it (priority sampling: Duffield, Lund and Thorup 2007). Copies take no part: they are found
without fail. Of the drawn pairs those are compared that may be alike: see `are_likely`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import write_atomic
from dsllm.progress import Reporter
from dsllm.stages.dedup.bands import band_keys, choose_bands, find_probability
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import SAMPLE, Chunk, Corpus, Numbers
from dsllm.stages.dedup.judge_compiled import compare_pairs
from dsllm.stages.dedup.sets import gather_sets
from dsllm.stages.dedup.shuffle import Shuffle, find_repeated
from dsllm.text.shingles import Hashes, fmix64

MEETING = np.dtype([("hash", "<u8"), ("number", "<i8")])
# A pair that met: its size as it is sampled by, that size over a random number, who, and how many pairs could
# have been drawn there.
PAIR = np.dtype([("priority", "<f8"), ("size", "<f8"), ("a", "<i8"), ("b", "<i8"), ("n_pairs", "<f8")])
SORT_FACTOR = 6  # what a partition takes in memory, as a multiple of its samples
N_PAIRS = 600
N_REMOVED = 200
N_RESAMPLES = 2000
_N_DIGITS = 6
# Sets in memory to compare pairs: as many shingles, unless those of a single pair are more.
_SHINGLES_AT_ONCE = 1 << 20
_PLACES_AT_ONCE = 4096
# Pairs whose estimated similarity is this far below the threshold are sampled so much less.
_FAR_BELOW, _FAR_FRAC = 0.3, 0.02
_LEAST_CHANCE = 1e-9  # of taking a pair of the least bin's similarity for unlike
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_Z = 1.959963984540054  # of the normal distribution: 95 % lie within so many standard deviations
_BINS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class SendSamples:
    """The task: send the sampled shingles of a chunk's documents to their partitions."""

    corpus: Corpus
    shuffle: Shuffle
    is_copy: Path

    releases_lock = True

    def __call__(self, chunk: Chunk) -> None:
        """Write the chunk's file."""
        samples = self.corpus.column(chunk.source_index, "samples", SAMPLE)
        lines = self.corpus.chunk_rows(chunk)["line"]
        first, end = np.searchsorted(samples["line"], [lines[0], lines[-1] + 1])
        numbers = chunk.first_number + np.searchsorted(lines, samples["line"][first:end])
        is_copy = np.memmap(self.is_copy, bool, "r")
        stays = ~is_copy[numbers]
        records = np.empty(int(stays.sum()), MEETING)
        records["hash"], records["number"] = samples["hash"][first:end][stays], numbers[stays]
        # The sample is chosen by the upper bits, which are therefore all alike: partitions need others.
        self.shuffle.write(chunk.index, fmix64(np.ascontiguousarray(records["hash"])), records)


@dataclass(frozen=True)
class DrawPairs:
    """The task: draw a pair of documents at each meeting place of a partition, written as PAIR rows."""

    corpus: Corpus
    config: DedupConfig
    shuffle: Shuffle

    releases_lock = True

    def __call__(self, partition: int) -> Path:
        """Return the file: the N_PAIRS + 1 rows of the greatest priority."""
        path = self.shuffle.scratch / f"drawn-{partition:05d}"
        if path.exists():
            return path
        records = self.shuffle.read(partition)
        records = records[find_repeated(np.ascontiguousarray(records["hash"]))]
        seed = np.uint64(self.config.seed)
        ranks = fmix64(records["number"].astype(np.uint64) * _FACTOR ^ records["hash"]) + seed
        is_indexed = records["number"] >= self.corpus.n_own
        # a document that is sampled twice stands beside itself
        order = np.lexsort((ranks, is_indexed, records["hash"]))
        hashes, numbers = records["hash"][order], records["number"][order]
        is_new = np.append(True, (hashes[1:] != hashes[:-1]) | (numbers[1:] != numbers[:-1]))[: len(hashes)]
        hashes, numbers = hashes[is_new], numbers[is_new]
        starts, pairs = self._draw(hashes, numbers)
        pairs["size"] = self._sizes(pairs)
        draws = _draw_numbers(hashes[starts] + seed)
        pairs["priority"] = pairs["size"] / draws
        write_atomic(path, _first(pairs).tobytes())
        return path

    def _draw(self, hashes: Hashes, numbers: Numbers) -> tuple[NDArray[np.intp], NDArray[Any]]:
        """Draw at each place, all its pairs being as likely but those of two indexed documents.

        The documents of a place are in random order, the indexed ones behind the others. Gives where each
        place starts, and its pair.
        """
        starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
        sizes = np.diff(np.append(starts, len(hashes)))
        n_own = np.add.reduceat(numbers < self.corpus.n_own, starts, dtype=np.int64) if len(starts) else sizes
        is_met = (sizes > 1) & (n_own > 0)
        starts, sizes, n_own = starts[is_met], sizes[is_met], n_own[is_met]
        pairs = np.zeros(len(starts), PAIR)
        n_inner, n_outer = n_own * (n_own - 1) / 2, n_own * (sizes - n_own)
        pairs["n_pairs"] = n_inner + n_outer
        draws = _draw_numbers(hashes[starts] ^ _FACTOR) / 2.0**53
        is_inner = draws * pairs["n_pairs"] <= n_inner
        pairs["a"], pairs["b"] = numbers[starts], numbers[starts + np.where(is_inner, 1, n_own)]
        return starts, pairs

    def _sizes(self, pairs: NDArray[Any]) -> NDArray[np.float64]:
        """Guess for how many pairs each stands, by its sketch; an error here costs width, not truth."""
        likely = self.config.threshold - _FAR_BELOW
        sizes = np.zeros(len(pairs))
        for first in range(0, len(pairs), _PLACES_AT_ONCE):
            part = pairs[first : first + _PLACES_AT_ONCE]
            a, b = self.corpus.gather_signatures(part["a"]), self.corpus.gather_signatures(part["b"])
            similarity = (a == b).mean(axis=1)
            n_words = sum(self.corpus.gather_rows(part[name])["n_words"] for name in ("a", "b"))
            n_likely_shared = np.maximum(1.0, similarity / (1.0 + similarity) * n_words)
            sizes[first : first + len(part)] = part["n_pairs"] / n_likely_shared
            sizes[first : first + len(part)] *= np.where(similarity >= likely, 1.0, _FAR_FRAC)
        return sizes


def _draw_numbers(keys: Hashes) -> NDArray[np.float64]:
    """Draw a whole number from 1 to 2**53 for each key."""
    return (fmix64(keys) >> np.uint64(11)).astype(np.float64) + 1.0


def take_pairs(files: Sequence[Path]) -> NDArray[Any]:
    """Choose the pairs to compare; "size" becomes how many a pair stands for, by the sample alone."""
    drawn = _first(np.concatenate([np.zeros(0, PAIR), *(np.fromfile(path, PAIR) for path in files)]))
    least = drawn["priority"][N_PAIRS] if len(drawn) > N_PAIRS else 0.0
    drawn = drawn[:N_PAIRS]
    # By the greatest priority that was left out, or the size where that is greater; the random numbers that
    # priorities were divided by are whole, up to 2**53.
    drawn["n_pairs"] *= np.maximum(1.0, least * 2.0**53 / drawn["size"])
    return drawn


def _first(pairs: NDArray[Any]) -> NDArray[Any]:
    return pairs[np.lexsort((pairs["b"], pairs["a"], -pairs["priority"]))[: N_PAIRS + 1]]


@dataclass(frozen=True)
class Compared:
    """The drawn pairs, compared exactly; arrays of one length.

    `weight` is in proportion to the number of pairs that a drawn one stands for.
    """

    similarity: NDArray[np.float64]
    weight: NDArray[np.float64]
    shares_band: NDArray[np.bool_]
    is_broken: NDArray[np.bool_]  # one of the two went


def are_likely(pairs: NDArray[Any], corpus: Corpus, config: DedupConfig) -> NDArray[np.bool_]:
    """Say which of the drawn pairs are worth comparing: most of what meets by chance is unlike.

    Those that share a band are, and those whose signatures agree in more places than a pair of the least
    similarity that is told of (or of the threshold) would fail to but once in 1e9 times.
    """
    numbers = np.stack([pairs["a"], pairs["b"]], axis=1).ravel()
    signatures = corpus.gather_signatures(numbers)
    n_equal = (signatures[::2] == signatures[1::2]).sum(axis=1)
    most = _most_by_chance(min(_BINS[0], config.threshold), config.n_hashes)
    is_likely: NDArray[np.bool_] = (n_equal > most) | _share_band(signatures, choose_bands(config))
    return is_likely


def _most_by_chance(similarity: float, n_hashes: int) -> int:
    """Give how many hashes may agree that those of a pair of `similarity` do not exceed once in 1e9; or -1.

    Source: the distribution function of the binomial.
    """
    share = 0.0
    for n_equal in range(n_hashes):
        n_others = n_hashes - n_equal  # in logarithms: of a thousand hashes the factors are no numbers
        ways = math.lgamma(n_hashes + 1) - math.lgamma(n_equal + 1) - math.lgamma(n_others + 1)
        share += math.exp(ways + n_equal * math.log(similarity) + n_others * math.log1p(-similarity))
        if share > _LEAST_CHANCE:
            return n_equal - 1
    return n_hashes - 1


def _share_band(signatures: NDArray[np.uint32], bands: tuple[int, int]) -> NDArray[np.bool_]:
    keys = band_keys(signatures, *bands)
    shares: NDArray[np.bool_] = (keys[:, ::2] == keys[:, 1::2]).any(axis=0)
    return shares


def compare(
    pairs: NDArray[Any],
    likely: NDArray[np.bool_],
    corpus: Corpus,
    verdicts: NDArray[Any],
    bands: tuple[int, int],
) -> Compared:
    """Compare the likely ones of the drawn pairs exactly, by the definition of `text/shingles.py`."""
    numbers: Numbers = np.stack([pairs["a"], pairs["b"]], axis=1).ravel()
    shared, similarity = np.ones(len(pairs), np.int64), np.zeros(len(pairs))
    shared[likely], similarity[likely] = _compare_exactly(corpus, numbers[np.repeat(likely, 2)])
    stays = verdicts["kept"][numbers] < 0
    return Compared(
        similarity,
        pairs["n_pairs"] / np.maximum(shared, 1),
        _share_band(corpus.gather_signatures(numbers), bands),
        ~(stays[::2] & stays[1::2]),
    )


def _compare_exactly(corpus: Corpus, numbers: Numbers) -> tuple[Numbers, NDArray[np.float64]]:
    """Compare documents 0 and 1, 2 and 3, ...: how many shingles they share, and their Jaccard similarity."""
    pairs, places = np.unique(np.sort(numbers.reshape(-1, 2), axis=1), axis=0, return_inverse=True)
    shared, n_either = np.zeros(len(pairs), np.int64), np.zeros(len(pairs), np.int64)
    n_words = corpus.gather_rows(pairs.ravel())["n_words"].reshape(-1, 2).sum(axis=1)
    firsts = np.flatnonzero(np.diff(np.cumsum(n_words) // _SHINGLES_AT_ONCE, prepend=-1))
    for first, end in pairwise([*firsts.tolist(), len(pairs)]):
        members = pairs[first:end].ravel()
        sets, ends = gather_sets(corpus, members)
        compare_pairs(sets, ends, members >= corpus.n_own, shared[first:end])
        n_either[first:end] = np.diff(ends, prepend=0).reshape(-1, 2).sum(axis=1) - shared[first:end]
    return shared[places], (shared / np.maximum(n_either, 1))[places]


def check_removed(
    corpus: Corpus, verdicts: NDArray[Any], level: int, threshold: float, seed: int
) -> dict[str, Any] | None:
    """Look again at some near duplicates that went: does the twin stay, and is it similar enough?"""
    is_first = verdicts["level"] == level
    numbers = np.flatnonzero(is_first)
    numbers = numbers[~np.memmap(corpus.scratch / "is-copy", bool, "r")[numbers]]
    if not len(numbers):
        return None
    ranks = fmix64(numbers.astype(np.uint64) + np.uint64(seed))
    numbers = np.sort(numbers[np.argsort(ranks, kind="stable")[:N_REMOVED]])
    twins = np.array(verdicts["kept"][numbers])
    is_right = verdicts["kept"][twins] < 0
    both = np.stack([numbers, twins], axis=1).ravel()
    is_right &= _compare_exactly(corpus, both)[1] >= threshold
    return {"n_removed": len(numbers), **_share(is_right)}


def show_error(error: dict[str, Any], threshold: float, reporter: Reporter) -> None:
    """Print what was estimated: a sentence, and the bands' theory beside what they did."""
    if recall := error["recall"]:
        reporter.say(
            f"dsllm: recall at {threshold}: {_interval(recall)}, from {error['n_pairs_at_threshold']:,} "
            "pairs that were drawn without bands and compared"
        )
    if precision := error["precision"]:
        reporter.say(
            f"dsllm: precision at {threshold}: {_interval(precision)}, from {precision['n_removed']:,} "
            "removed documents that were compared again"
        )
    rows = [
        [f"{row['from']} to {row['to']}", row["n_pairs"], row["found"]["value"], row["expected"]]
        for row in error["by_similarity"]
    ]
    if rows:
        reporter.table("pairs that share a band", ("similarity", "drawn", "found", "expected"), rows)


def _interval(share: dict[str, float]) -> str:
    return f"{share['value']:.4f} ({share['low']:.4f} to {share['high']:.4f})"


def summarise(found: Compared, threshold: float, bands: tuple[int, int], seed: int) -> dict[str, Any]:
    """Say recall and precision at the threshold with 95 % intervals, and what bands find by similarity."""
    is_true = found.similarity >= threshold
    return {
        "n_pairs": len(found.similarity),
        "n_pairs_at_threshold": int(is_true.sum()),
        "recall": _ratio(found.is_broken, is_true, found.weight, seed),
        "recall_of_bands": _ratio(found.shares_band, is_true, found.weight, seed),
        "precision_of_bands": _ratio(is_true, found.shares_band, found.weight, seed),
        "by_similarity": [
            {
                "from": low,
                "to": high,
                "n_pairs": int(inside.sum()),
                "found": _share(found.shares_band[inside]),
                "expected": round(
                    float(np.mean([find_probability(s, *bands) for s in found.similarity[inside]])), _N_DIGITS
                ),
            }
            for low, high in pairwise(_BINS)
            if (inside := _within(found.similarity, low, high)).any()
        ],
    }


def _within(similarity: NDArray[np.float64], low: float, high: float) -> NDArray[np.bool_]:
    return (similarity >= low) & ((similarity < high) | (high == _BINS[-1]))


def _ratio(
    is_hit: NDArray[np.bool_], is_of: NDArray[np.bool_], weight: NDArray[np.float64], seed: int
) -> dict[str, float] | None:
    """Weigh the share of hits; the interval is that of a bootstrap, or Wilson's where all agree."""
    hits, weights = is_hit[is_of], weight[is_of]
    if not len(hits):
        return None
    value = float((weights * hits).sum() / weights.sum())
    if hits.all() or not hits.any():
        return _share(hits)
    draws = np.random.default_rng(seed).integers(0, len(hits), (N_RESAMPLES, len(hits)))
    ratios = (weights * hits)[draws].sum(axis=1) / weights[draws].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return _rounded(value, float(low), float(high))


def _share(hits: NDArray[np.bool_]) -> dict[str, float]:
    """Wilson's interval of a share (1927)."""
    n, share = len(hits), float(hits.mean())
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * (share * (1 - share) / n + _Z**2 / (4 * n**2)) ** 0.5
    return _rounded(share, max(0.0, middle - half), min(1.0, middle + half))


def _rounded(value: float, low: float, high: float) -> dict[str, float]:
    return {"value": round(value, _N_DIGITS), "low": round(low, _N_DIGITS), "high": round(high, _N_DIGITS)}
