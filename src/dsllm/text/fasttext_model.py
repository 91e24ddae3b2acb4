"""fastText classifiers read into arrays, and what they say of texts: the labels' probabilities.

The model is that of Joulin et al. 2017 (arXiv:1607.01759): the mean of the rows of all words, of their
character n-grams (arXiv:1607.04606) and of word n-grams, times an output matrix. Both kinds of files are
read, .bin and .ftz (arXiv:1612.03651: rows in codes of a product quantiser, few of the n-grams kept). The
package `fasttext`, version 0.11.9 of fasttext-community, is the definition; it adds up in single precision.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dsllm.text.fasttext_compiled import SLOT_WORDS, sum_rows
from dsllm.text.fasttext_ngrams_compiled import MAX_N
from dsllm.text.texts import Texts
from dsllm.text.vector import BLOCK_BYTES
from dsllm.text.vector_rows import N_LANES

Loss = Literal["hs", "ns", "softmax", "ova"]
LOSSES: dict[int, Loss] = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}  # by their numbers in a file

ADDED = 1e-5  # to every probability, before its logarithm is taken
MEMORY_BYTES = 1 << 24  # of a thread
_MAX_SIGMOID, _SIGMOID_STEPS = 8, 512


@dataclass(frozen=True)
class FastText:
    """A classifier.

    labels: as the file has them, `__label__` in front.
    label_counts: how often each was met in training.
    loss: what the output means.
    rows: the input matrix, float32, as bytes, with room behind.
    output: (n_labels, dim); with the loss "hs" all but the last row, one for each fork of its tree.
    The others are as `sum_rows` takes them.
    """

    labels: tuple[str, ...]
    label_counts: NDArray[np.int64]
    loss: Loss
    data: NDArray[np.uint8]
    spans: NDArray[np.int64]
    table: NDArray[np.int32]
    rows: NDArray[np.uint8]
    kept_bits: NDArray[np.uint64]
    kept_before: NDArray[np.int64]
    shape: NDArray[np.int64]
    output: NDArray[np.float32]
    _memories: deque[NDArray[np.uint64]] = field(
        default_factory=deque, init=False, repr=False, compare=False
    )  # one for each thread that is at work

    def predict(self, texts: Texts) -> NDArray[np.float64]:
        """Give the probability of each label, shape (n_texts, n_labels); zeros for a text without any row.

        As fastText has them: with 1e-5 added, which can make more than 1.
        Each text counts as one line: line ends are white space, and a word `</s>`, which would end it for
        fastText, is passed over.
        """
        means, has_rows = self._mean_rows(texts)
        found = np.zeros((len(texts.ends), len(self.labels)))
        found[has_rows] = self._probabilities(means[has_rows])
        return found

    def _mean_rows(self, texts: Texts) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Give the mean of the rows of each text, shape (n_texts, dim), and say which texts have any."""
        dim = self.output.shape[1]
        width = -(-dim // N_LANES) * N_LANES
        sums = np.zeros((len(texts.ends), width))
        n_rows = np.zeros(len(texts.ends), np.int64)
        try:
            memory = self._memories.pop()
        except IndexError:
            n_words = SLOT_WORDS + (width // 2 if self.shape[MAX_N] else 0)
            memory = _aligned(1 << (MEMORY_BYTES // (8 * n_words)).bit_length() - 1, n_words)
        sum_rows(
            texts.data, texts.ends, self.data, self.spans, self.table, self.rows, self.kept_bits,
            self.kept_before, self.shape, memory, sums, n_rows,
        )  # fmt: skip
        self._memories.append(memory)
        return sums[:, :dim] / np.maximum(n_rows, 1)[:, None], n_rows > 0

    def _probabilities(self, means: NDArray[np.float64]) -> NDArray[np.float64]:
        # Not by BLAS, whose results may depend on how many texts there are.
        products = np.einsum("td,ld->tl", means, self.output)
        if self.loss == "softmax":
            found: NDArray[np.float64] = np.exp(products - products.max(axis=1, keepdims=True))
            found /= found.sum(axis=1, keepdims=True)
            found += ADDED
            return found
        if self.loss == "hs":
            return _walk_tree(products, self.label_counts.tolist())
        return _sigmoids(products) + ADDED


def _aligned(n_rows: int, n_words: int) -> NDArray[np.uint64]:
    """Give zeros that begin where a line of memory does."""
    room = np.zeros(n_rows * n_words + BLOCK_BYTES // 8, np.uint64)
    first = -room.ctypes.data % BLOCK_BYTES // 8
    return room[first : first + n_rows * n_words].reshape(n_rows, n_words)


def _walk_tree(products: NDArray[np.float64], counts: Sequence[int]) -> NDArray[np.float64]:
    """Multiply the probabilities of the forks on the way to each label, from the root on."""
    found = np.ones((len(products), max(1, 2 * len(counts) - 1)))
    rights = 1 / (1 + np.exp(-products))
    for fork, (left, right) in reversed(list(enumerate(_tree(counts)))):
        node = len(counts) + fork
        found[:, left] = found[:, node] * (1 - rights[:, fork] + ADDED)
        found[:, right] = found[:, node] * (rights[:, fork] + ADDED)
    return found[:, : len(counts)]


def _tree(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Build the Huffman tree of labels in order of falling counts: the children of each fork, the root last.

    Nodes are the labels, then the forks. fastText's way of breaking ties: a fork before a label.
    """
    totals = list(counts)
    forks: list[tuple[int, int]] = []
    label, fork = len(counts) - 1, len(counts)
    while len(forks) < len(counts) - 1:
        children = []
        for _ in range(2):
            if label >= 0 and (fork >= len(totals) or totals[label] < totals[fork]):
                children.append(label)
                label -= 1
            else:
                children.append(fork)
                fork += 1
        forks.append((children[0], children[1]))
        totals.append(totals[children[0]] + totals[children[1]])
    return forks


def _sigmoids(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Apply the logistic function in fastText's steps, each one's value that at its beginning."""
    steps = np.floor((values + _MAX_SIGMOID) * (_SIGMOID_STEPS / (2 * _MAX_SIGMOID)))
    at_steps = 1 / (1 + np.exp(_MAX_SIGMOID - steps * (2 * _MAX_SIGMOID / _SIGMOID_STEPS)))
    return np.where(values < -_MAX_SIGMOID, 0.0, np.where(values > _MAX_SIGMOID, 1.0, at_steps))
