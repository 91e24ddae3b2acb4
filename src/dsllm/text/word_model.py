"""A small language model of words: how predictable a text is to who has read other texts.

Trigrams of words with Witten and Bell's interpolation (Chen and Goodman 1998, TR-10-98, section 2.6):

    P(w | h) = (count(h w) + T(h) P(w | shorter h)) / (count(h) + T(h))

where T(h) is the number of different words that were met after h. Below the single words all have the same
probability, 1 / (different words + 1). Words are those of `scan.py`, case folded, with punctuation: a CJK
character is one. They are known by hashes of 64 bits.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file
from dsllm.text.texts import Texts
from dsllm.text.word_hashes_compiled import hash_texts
from dsllm.text.word_model_compiled import (
    N_TOTALS,
    SLOT_WORDS,
    Hashes,
    copy_slots,
    count_runs,
    sum_log_probabilities,
)

FIRST_SLOTS, MOST_SLOTS = 1 << 16, 1 << 27
_MARK = 0x6D776C736C6C6D01  # in the last row of a file: what it is


@dataclass(frozen=True)
class WordModel:
    """Counts: `table` (n_slots, SLOT_WORDS) and `totals` (N_TOTALS,) as `word_model_compiled.py` says."""

    table: Hashes
    totals: NDArray[np.int64]

    @classmethod
    def train(cls, batches: Iterable[Texts]) -> "WordModel":
        """Count the words of texts; those for which MOST_SLOTS have no room are passed over."""
        table, totals = np.zeros((FIRST_SLOTS, SLOT_WORDS), np.uint64), np.zeros(N_TOTALS, np.int64)
        for texts in batches:
            hashes, ends = hash_texts(texts, fold=True, punctuation=True)
            n_done = 0
            while (n_done := count_runs(hashes, ends, n_done, table, totals)) < len(ends):
                if len(table) == MOST_SLOTS:
                    n_done += 1
                    if n_done == len(ends):
                        break
                    continue
                larger = np.zeros((2 * len(table), SLOT_WORDS), np.uint64)
                copy_slots(table, larger)
                table = larger
        return cls(table, totals)

    def perplexities(self, texts: Texts) -> NDArray[np.float64]:
        """Give 1 over the geometric mean of the probabilities of each text's words; NaN for no words."""
        hashes, ends = hash_texts(texts, fold=True, punctuation=True)
        sums = np.zeros(len(ends))
        sum_log_probabilities(hashes, ends, self.table, self.totals, sums)
        n_words = np.diff(ends, prepend=0)
        found = np.exp(-sums / np.maximum(n_words, 1))
        found[n_words == 0] = np.nan
        return found

    def save(self, path: Path) -> None:
        """Write a file of numpy, .npy: the table, then a row with a mark and a row with the totals."""
        last = np.array([[_MARK, 0, 0], self.totals.tolist()], np.uint64)
        with atomic_file(path) as file:
            np.save(file, np.concatenate((self.table, last)))

    @classmethod
    def read(cls, path: Path) -> "WordModel":
        """Map a file into memory.

        Raises:
            ValueError: it is no such file.
        """
        rows = np.load(path, mmap_mode="r")
        if (
            rows.dtype != np.uint64
            or rows.shape[1:] != (SLOT_WORDS,)
            or len(rows) < 3
            or rows[-2, 0] != _MARK
        ):
            raise ValueError("no model of words")
        return cls(rows[:-2], np.array(rows[-1], np.int64))
