"""Learn the merges of a byte-level BPE from counted pieces; `bpe_training_compiled.py` has the loops.

The commonest pair of neighbours is merged everywhere, ties going to the lower pair of ids, then the next,
until the vocabulary is full or no pair is frequent enough (Sennrich, Haddow and Birch 2016,
arXiv:1508.07909). The merges and ids are those of the trainer of Hugging Face `tokenizers` with the same
settings, also where that is not what one would think: a pair keeps its count when it was merged, so one that
comes up once more, because a token was made in a second way, counts for more than it is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsllm.text import bpe_symbols_compiled as symbols
from dsllm.text import bpe_training_compiled as loops
from dsllm.text import pair_queue_compiled as queue
from dsllm.text.texts import Texts

_MERGES_AT_ONCE = 1024
_UNLIMITED = 1 << 60
_FIRST_SLOTS = 1 << 18  # of the table of pairs, more than there are pairs of bytes
_BYTES_PER_SLOT = 50  # of the table of pairs, with entries and heap, while they move to larger ones


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What ends a training, and what it may not make.

    vocab_size: when to stop. min_frequency: a pair that occurs less often is not merged.
    max_token_length: tokens of three and more bytes stay shorter than this.
    table_bytes: for the pairs; when these need more, those that are rarer than `min_frequency` are forgotten,
        and those merged. That changes no merge unless a token is made in a second way.
    """

    vocab_size: int
    min_frequency: int = 0
    max_token_length: int | None = None
    table_bytes: int | None = None


@dataclass(frozen=True)
class Learned:
    """What training gives.

    tokens: the bytes of each id. merges: left, right and merged id of each, in order, (n_merges, 3).
    n_pairs_forgotten: how often a rare pair was forgotten for lack of memory.
    """

    tokens: list[bytes]
    merges: NDArray[np.int64]
    n_pairs_forgotten: int


def learn_merges(
    pieces: Texts,
    counts: NDArray[np.int64],
    alphabet: list[bytes],
    limits: Limits,
    told: Callable[[int], None] = lambda n_ids: None,
) -> Learned:
    """Learn up to `limits.vocab_size` tokens, those of the alphabet among them.

    Args:
        pieces: distinct; no token reaches from one into another.
        counts: how often each piece occurs, shape (n_pieces,), above zero.
        alphabet: single bytes, in the order of their ids; no piece has another.
        limits: when to stop.
        told: is told the number of tokens now and then.
    """
    training = _Training(pieces, counts, alphabet, limits.vocab_size)
    max_slots = (limits.table_bytes or _UNLIMITED) // _BYTES_PER_SLOT
    max_length = limits.max_token_length or _UNLIMITED
    numbers = np.array([limits.vocab_size, limits.min_frequency, max_length], np.int64)
    merges = [np.zeros((0, 3), np.int64)]
    status = loops.MERGED
    while status != loops.FINISHED:
        if status == loops.NEEDS_ROOM:
            training.make_room(max_slots, max(1, limits.min_frequency))
        rows = np.empty((_MERGES_AT_ONCE, 3), np.int64)
        n_merges, status = training.merge(numbers, rows)
        merges.append(rows[:n_merges])
        told(training.n_ids)
    tokens = [training.token(index) for index in range(training.n_ids)]
    return Learned(tokens, np.concatenate(merges), training.n_pairs_forgotten)


class _Training:
    """The arrays of a training; the large ones are only touched as far as they are used."""

    def __init__(
        self, pieces: Texts, counts: NDArray[np.int64], alphabet: list[bytes], vocab_size: int
    ) -> None:
        n_most = max(vocab_size, len(alphabet)) + 1
        self.n_pairs_forgotten = 0
        self._lay_out(pieces, counts, alphabet)
        n_slots = len(self.data)
        self.token_sizes, self.token_places = np.ones(n_most, np.int64), np.zeros(n_most, np.int64)
        self.token_places[: len(alphabet)] = np.arange(len(alphabet)) * 2 + 1
        self.words = np.zeros(1 << (2 * n_most).bit_length(), np.int64)
        self.positions = np.empty(5 * n_slots, np.uint32)
        self.table = np.zeros((_FIRST_SLOTS, 2), np.int64)
        self.entries = np.empty((_FIRST_SLOTS, 4), np.int64)
        self.sums = np.zeros((n_most, loops.N_SUMS), np.int64)
        self.neighbours = np.empty((4, n_slots), np.uint32)
        self.changed = np.empty((2 * n_most, loops.N_CHANGES), np.int64)
        self.state = np.zeros(queue.N_STATE, np.int64)
        self.state[queue.N_IDS] = len(alphabet)
        for token in range(len(alphabet)):
            symbols.put_word(token, self.data, self.token_sizes, self.token_places, self.words)
        symbols.find_first_pairs(
            self.symbols, self.class_starts, self.class_weights, len(alphabet),
            self.positions, self.entries, self.table, self.state,
        )  # fmt: skip
        self.heap = np.empty((len(self.entries), 3), np.int64)

    def _lay_out(self, pieces: Texts, counts: NDArray[np.int64], alphabet: list[bytes]) -> None:
        """Write the alphabet, then the pieces of more than one byte by their counts, ascending."""
        sizes = np.diff(pieces.ends, prepend=0)
        order = np.flatnonzero(sizes > 1)
        order = order[np.argsort(counts[order], kind="stable")]
        n_first = 2 * len(alphabet)
        n_slots = n_first + int(sizes[order].sum()) + len(order) + 1
        byte_ids = np.zeros(256, np.uint32)
        byte_ids[np.frombuffer(b"".join(alphabet), np.uint8)] = np.arange(len(alphabet))
        self.data, self.symbols = np.zeros(n_slots, np.uint8), np.full(n_slots, symbols.BOUNDARY, np.uint32)
        self.data[1:n_first:2] = np.frombuffer(b"".join(alphabet), np.uint8)
        self.symbols[1:n_first:2] = np.arange(len(alphabet))
        symbols.lay_out(
            pieces.data, pieces.ends - sizes, sizes, order, byte_ids, self.data[n_first:],
            self.symbols[n_first:],
        )  # fmt: skip
        weights, firsts = np.unique(counts[order], return_index=True)
        places = n_first + np.concatenate([[0], np.cumsum(sizes[order] + 1)])
        self.class_starts = np.concatenate([[0], places[firsts], [n_slots]]).astype(np.int64)
        self.class_weights = np.concatenate([[0], weights]).astype(np.int64)

    @property
    def n_ids(self) -> int:
        """The number of tokens."""
        return int(self.state[queue.N_IDS])

    def merge(self, limits: NDArray[np.int64], merges: NDArray[np.int64]) -> tuple[int, int]:
        """Merge until `merges` is full: see `merge_pairs`."""
        n_merges, status = loops.merge_pairs(
            self.data, self.symbols, self.class_starts, self.class_weights, self.token_sizes,
            self.token_places, self.words, self.positions, self.entries, self.heap, self.table, self.sums,
            self.neighbours, self.changed, limits, self.state, merges,
        )  # fmt: skip
        return n_merges, status

    def make_room(self, max_slots: int, min_frequency: int) -> None:
        """Double the table of pairs and what goes with it, or drop what is rare where it is large."""
        if 2 * len(self.table) > max_slots:
            self.n_pairs_forgotten += queue.drop_rare_pairs(
                self.entries, self.heap, self.table, min_frequency, self.state
            )
            if 4 * max(self.state[queue.N_PAIRS], self.state[queue.N_ENTRIES]) < len(self.table):
                return
        larger = np.zeros((2 * len(self.table), 2), np.int64)
        queue.move_table(self.table, larger)
        self.table = larger
        n_entries = int(self.state[queue.N_ENTRIES])
        entries = np.empty((len(larger), 4), np.int64)
        entries[:n_entries] = self.entries[:n_entries]
        self.entries = entries
        heap = np.empty((len(larger), 3), np.int64)
        n_heap = int(self.state[queue.N_HEAP])
        heap[:n_heap] = self.heap[:n_heap]
        self.heap = heap

    def token(self, index: int) -> bytes:
        """Give the bytes of a token."""
        place = self.token_places[index]
        return self.data[place : place + self.token_sizes[index]].tobytes()
