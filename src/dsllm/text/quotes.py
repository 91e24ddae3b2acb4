"""Quotes: where texts have what reference texts have, word for word but for one change.

A quote covers `n_words` words in a row of a reference, or all of one that has fewer. Where that is at least
`least_changed` words, one of them may be another word in the text, or missing, or have another one before it.
Words are those of `scan.py`, case folded: a CJK character is one. References of fewer than `min_words` words
are not looked for.

How: whatever is changed, a half of the covered words is unchanged. So halves are looked for first, by hash,
at every word of a text: `n_words // 2` words at each place of a reference, or the first and the last half of
a short one. What they lead to is compared word by word, as hashes of 64 bits. Halves that more than
MAX_SHARED references have in common are part of a template: what else these references say leads to them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsllm.text.quotes_compiled import FULL, N_COLUMNS, fill_table, find_quotes
from dsllm.text.shingles import Hashes
from dsllm.text.texts import Texts
from dsllm.text.word_hashes_compiled import hash_runs, hash_texts

Int64s = NDArray[np.int64]
MAX_SHARED = 1000
_BITS_PER_SEED = 16
_ROOM = 4096


@dataclass(frozen=True)
class QuoteIndex:
    """What is known of the references: see `quotes_compiled.find_quotes`."""

    n_words: int
    least_changed: int
    references: Hashes
    reference_ends: Int64s
    seed_words: Int64s
    seeds: Hashes
    seed_references: Int64s
    seed_places: Int64s
    keys: Hashes
    starts: Int64s
    bits: Hashes

    @classmethod
    def build(cls, references: Texts, *, n_words: int, min_words: int, least_changed: int) -> "QuoteIndex":
        """Index references, of which those with fewer than `min_words` words are left out."""
        words, ends = hash_texts(references, fold=True, punctuation=False)
        owners, places, sizes = _choose_seeds(ends, n_words, min_words, least_changed)
        seeds = np.empty(len(places), np.uint64)
        seed_words = np.unique(sizes)
        for size in seed_words.tolist():
            hashes = np.empty(len(words), np.uint64)
            hash_runs(words, size, hashes)
            seeds[sizes == size] = hashes[places[sizes == size]]
        order = np.argsort(seeds, kind="stable")
        _, counts = np.unique(seeds, return_counts=True)
        order = order[np.repeat(counts <= MAX_SHARED, counts)]
        seeds = seeds[order]
        keys = np.zeros(_power_of_two(2 * len(seeds)), np.uint64)
        starts = np.full(len(keys), -1, np.int64)
        bits = np.zeros(_power_of_two(_BITS_PER_SEED * len(seeds)) // 64, np.uint64)
        fill_table(seeds, keys, starts, bits)
        return cls(
            n_words, least_changed, words, ends, seed_words, seeds, owners[order], places[order], keys,
            starts, bits,
        )  # fmt: skip

    def find(self, texts: Texts) -> Int64s:
        """Find all quotes in texts, by text.

        Returns:
            (n_quotes, N_COLUMNS): TEXT, FIRST and END among its words, REFERENCE, REFERENCE_FIRST and
            REFERENCE_END, see `quotes_compiled`. Quotes of one reference may overlap.
        """
        words, ends = hash_texts(texts, fold=True, punctuation=False)
        room = _ROOM
        while True:
            quotes = np.empty((room, N_COLUMNS), np.int64)
            n_found = find_quotes(
                words, ends, self.seed_words, self.references, self.reference_ends, self.seeds,
                self.seed_references, self.seed_places, self.keys, self.starts, self.bits, self.n_words,
                self.least_changed, quotes,
            )  # fmt: skip
            if n_found != FULL:
                return quotes[:n_found].copy()
            room *= 8

    def size_of(self, reference: int) -> int:
        """Count the words of a reference."""
        return int(self.reference_ends[reference] - (self.reference_ends[reference - 1] if reference else 0))


def _choose_seeds(
    ends: Int64s, n_words: int, min_words: int, least_changed: int
) -> tuple[Int64s, Int64s, Int64s]:
    """Choose what is looked for first: (references, first words among all, numbers of words)."""
    counts = np.diff(ends, prepend=0)
    starts = ends - counts
    whole = n_words // 2
    owners = np.flatnonzero((counts >= n_words) & (counts >= min_words))
    step = 1 if n_words >= least_changed else n_words - whole + 1
    n_places = (counts[owners] - whole) // step + 1
    owners = np.repeat(owners, n_places)
    within = np.arange(len(owners)) - np.repeat(np.cumsum(n_places) - n_places, n_places)
    short = np.flatnonzero((counts >= min_words) & (counts < n_words))
    changed, unchanged = short[counts[short] >= least_changed], short[counts[short] < least_changed]
    halves = counts[changed] // 2
    sizes = [np.full(len(owners), whole), halves, halves, np.minimum(counts[unchanged], whole)]
    places = [starts[owners] + within * step, starts[changed], ends[changed] - halves, starts[unchanged]]
    return (
        np.concatenate([owners, changed, changed, unchanged]).astype(np.int64),
        np.concatenate(places).astype(np.int64),
        np.concatenate(sizes).astype(np.int64),
    )


def own_words(words: Hashes, ends: Int64s, n_words: int) -> NDArray[np.bool_]:
    """Say of each word of references whether it is in no `n_words` words in a row that another one has too.

    Shape (n_words_of_all,); `words` are hashes of the words of all, `ends` where those of each end.
    """
    hashes = np.empty(len(words), np.uint64)
    n_runs = hash_runs(words, n_words, hashes)
    owners = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    places = np.flatnonzero(owners[:n_runs] == owners[n_words - 1 : n_words - 1 + n_runs])
    if not len(places):
        return np.ones(len(words), bool)
    places = places[np.argsort(hashes[places], kind="stable")]  # equal ones side by side, by owner
    is_first = np.diff(hashes[places], prepend=hashes[places[:1]] + np.uint64(1)) != 0
    first = np.flatnonzero(is_first)
    last = np.append(first[1:], len(places)) - 1
    is_shared = owners[places[first]] != owners[places[last]]
    shared = places[np.repeat(is_shared, last - first + 1)]
    change = np.zeros(len(words) + 1, np.int64)
    np.add.at(change, shared, 1)
    np.add.at(change, shared + n_words, -1)
    is_own: NDArray[np.bool_] = np.cumsum(change[:-1]) == 0
    return is_own


def share_covered(ranges: Iterable[tuple[int, int]], n_words: int) -> float:
    """Say what share of `n_words` words lies in any of the ranges."""
    n_covered = reached = 0
    for first, end in sorted(ranges):
        n_covered += max(0, end - max(first, reached))
        reached = max(reached, end)
    return n_covered / n_words


def _power_of_two(n: int) -> int:
    return max(64, 1 << (n - 1).bit_length())
