"""Which tokens form which step: pure functions of (seed, step), so that a run can stop and go on anywhere.

A token folder is one stream. Window i holds the tokens [i * seq_len, i * seq_len + seq_len + 1): seq_len
inputs and, one to the right, seq_len targets, so every token but the first is a target once an epoch. Each
epoch visits all windows in an order of its own. The order is not stored: `permute` maps a position to a
window by a small keyed bijection, so step 100,000 costs what step 0 costs and nothing grows with the data.
Step s takes the positions [s * batch_seqs, (s + 1) * batch_seqs), and rank r of w a contiguous part of
them: any number of ranks sees the same data in the same steps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IGNORED = -100  # a label that is not counted

Int64s = npt.NDArray[np.int64]

_N_ROUNDS = 8
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # SplitMix64 (Steele 2014)
_GOLDEN = 0x9E3779B97F4A7C15
_WORD = 0xFFFFFFFFFFFFFFFF


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """One micro-batch: what goes through the model at once.

    Args:
        tokens: int64, shape (n_seqs, seq_len).
        labels: int64, same shape: labels[b, t] is what position t must predict, so they are already
            shifted by one against `tokens`. IGNORED where nothing is asked.
        document_ids: same shape, or None: attention stays within equal ids.
        positions: same shape, or None for 0, 1, 2, ... along each row.
    """

    tokens: Tensor
    labels: Tensor
    document_ids: Tensor | None = None
    positions: Tensor | None = None

    @property
    def n_labels(self) -> int:
        """How many labels count."""
        return int((self.labels != IGNORED).sum())

    def to(self, device: torch.device) -> Self:
        """The same batch on `device`."""
        return type(self)(
            tokens=self.tokens.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            document_ids=None if self.document_ids is None else self.document_ids.to(device),
            positions=None if self.positions is None else self.positions.to(device),
        )


class TokenStream(Protocol):
    """The part of a token folder that is read here."""

    @property
    def n_tokens(self) -> int:
        """Tokens in the stream."""

    def window(self, start: int, n: int) -> npt.NDArray[np.uint32]:
        """The `n` tokens from `start`."""


def count_windows(n_tokens: int, seq_len: int) -> int:
    """How many windows of seq_len + 1 tokens, seq_len apart, fit into `n_tokens`."""
    return max(0, (n_tokens - 1) // seq_len)


def step_windows(step: int, *, batch_seqs: int, n_windows: int, seed: int) -> Int64s:
    """The windows of a step's global batch, in order: shape (batch_seqs,)."""
    return shuffled_items(step * batch_seqs, batch_seqs, n_items=n_windows, seed=seed)


def shuffled_items(start: int, n: int, *, n_items: int, seed: int) -> Int64s:
    """Positions [start, start + n) of an endless walk over 0..n_items-1, shuffled anew each epoch."""
    positions = np.arange(start, start + n, dtype=np.int64)
    items = np.empty(n, dtype=np.int64)
    epochs = positions // n_items
    for epoch in range(int(epochs[0]), int(epochs[-1]) + 1):
        chosen = epochs == epoch
        items[chosen] = permute(positions[chosen] - epoch * n_items, n_items, key=_mix_key(seed, epoch))
    return items


def permute(positions: Int64s, n_items: int, *, key: int) -> Int64s:
    """Map each position in 0..n_items-1 to another one, no two to the same: a shuffle without memory.

    A Feistel network permutes the smallest even number of bits that covers `n_items`; values that fall
    outside go through again until they are inside ("cycle walking"), under four times on average.

    Source: Black and Rogaway 2002, "Ciphers with arbitrary finite domains", sections 3 and 5.
    """
    half_bits = np.uint64(max(1, ((n_items - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    values = positions.astype(np.uint64)
    walking = np.arange(len(values))
    while len(walking):
        values[walking] = _feistel(values[walking], half_bits, mask, key)
        walking = walking[values[walking] >= np.uint64(n_items)]
    return values.astype(np.int64)


def _feistel(
    values: npt.NDArray[np.uint64], half_bits: np.uint64, mask: np.uint64, key: int
) -> npt.NDArray[np.uint64]:
    left, right = values >> half_bits, values & mask
    for number in range(_N_ROUNDS):
        round_key = np.uint64(_mix_key(key, number))
        left, right = right, left ^ (_mix(right ^ round_key) & mask)
    return (left << half_bits) | right


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def _mix_key(*numbers: int) -> int:
    """One 64-bit key out of several numbers."""
    key = 0
    for number in numbers:
        mixed = np.array([(key + number + _GOLDEN) & _WORD], dtype=np.uint64)
        key = int(_mix(mixed)[0]) * _GOLDEN & _WORD
    return key


def rank_part(n: int, rank: int, world_size: int) -> range:
    """The contiguous part of 0..n-1 that `rank` works on; parts differ by one item at most."""
    return range(n * rank // world_size, n * (rank + 1) // world_size)


def cut_micro(items: Int64s, micro_batch_seqs: int) -> list[Int64s]:
    """Cut a rank's sequences into micro-batches; the last may be smaller."""
    return [items[at : at + micro_batch_seqs] for at in range(0, len(items), micro_batch_seqs)]


def read_batch(
    stream: TokenStream, windows: Sequence[int] | Int64s, *, seq_len: int, document_end: int | None = None
) -> TokenBatch:
    """Read windows into a micro-batch of shape (n_windows, seq_len).

    With `document_end` (the id of the token that ends a document) the batch gets document ids, so that
    packed documents do not see each other.
    """
    rows = np.stack([stream.window(int(window) * seq_len, seq_len + 1) for window in windows])
    ids = torch.from_numpy(rows.astype(np.int64))  # (n_windows, seq_len + 1)
    tokens, labels = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    documents = None if document_end is None else number_documents(tokens, document_end)
    return TokenBatch(tokens=tokens, labels=labels, document_ids=documents)


def number_documents(tokens: Tensor, document_end: int) -> Tensor:
    """Number the documents in each row from 0; the end token still belongs to the one that it ends."""
    ends = (tokens == document_end).long()
    return ends.cumsum(dim=1) - ends


def iterate_windows(n_windows: int, micro_batch_seqs: int) -> Iterator[range]:
    """All windows in order, a micro-batch at a time: how a held-out stream is read."""
    for start in range(0, n_windows, micro_batch_seqs):
        yield range(start, min(start + micro_batch_seqs, n_windows))
