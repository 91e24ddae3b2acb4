"""Byte-level BPE: the tables of a tokenizer's merges, and encoding by them; the loops are in `bpe_compiled.py`.

A piece of text begins as its bytes. Of the pairs of neighbours that have a merge, the one whose merge was
learned first is merged, the leftmost of several, and so on until none has one (Sennrich, Haddow and Birch
2016, arXiv:1508.07909). That is what Hugging Face `tokenizers` computes; the ids are equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dsllm.text.bpe_compiled import N_JOINT_WORDS, N_PAIR_WORDS, NO_RANK, encode_texts, note_crossings, put_pairs
from dsllm.text.pretokens_compiled import piece_classes
from dsllm.text.texts import Texts

Ids = NDArray[np.uint32]

MEMORY_SLOTS = 1 << 21  # of 24 bytes; three quarters of them are used
_SPILL_IDS = 1 << 22


@dataclass(frozen=True)
class Merges:
    """The merges of a vocabulary.

    byte_ids: (256,), the id of each byte.
    merged_ids: (n_merges,), the id that each merge makes.
    pairs, is_pair: a hash table from two ids to the place of their merge among all, and bits that say
        whether it is worth a look: see `put_pairs`.
    byte_ranks: (65536,), the same for two bytes, without hashing.
    joints: bits, by a hash of two neighbouring characters: whether a token may reach over both.
    """

    byte_ids: Ids
    merged_ids: Ids
    pairs: NDArray[np.uint64]
    is_pair: NDArray[np.uint64]
    byte_ranks: Ids
    joints: NDArray[np.uint64]

    @classmethod
    def build(cls, vocabulary: Mapping[bytes, int], merges: Sequence[tuple[bytes, bytes]]) -> "Merges":
        """Take the words of a vocabulary, all single bytes among them, and the pairs to merge, in order."""
        byte_ids = [vocabulary[bytes([byte])] for byte in range(256)]
        joints = np.zeros(N_JOINT_WORDS, np.uint64)
        for left, right in merges:
            note_crossings(np.frombuffer(left + right, np.uint8), joints)
        ids = [(vocabulary[left], vocabulary[right], vocabulary[left + right]) for left, right in merges]
        rows = np.array(ids, np.uint32).reshape(-1, 3)
        table = np.zeros(1 << max(4, (2 * len(rows) - 1).bit_length()), np.uint64)
        is_pair = np.zeros(N_PAIR_WORDS, np.uint64)
        put_pairs(rows[:, 0].copy(), rows[:, 1].copy(), table, is_pair)
        byte_ranks = np.full(1 << 16, NO_RANK, np.uint32)
        byte_of_id = {identity: byte for byte, identity in enumerate(byte_ids)}
        for rank in range(len(rows) - 1, -1, -1):
            left, right = (byte_of_id.get(int(identity)) for identity in rows[rank, :2])
            if left is not None and right is not None:
                byte_ranks[left << 8 | right] = rank
        return cls(np.array(byte_ids, np.uint32), rows[:, 2].copy(), table, is_pair, byte_ranks, joints)


@dataclass(frozen=True)
class Encoder:
    """Encodes texts; pieces of up to 16 bytes are remembered, so one thread has one encoder."""

    merges: Merges
    _memory: NDArray[np.uint64] = field(init=False, repr=False)
    _spill: Ids = field(init=False, repr=False)
    _used: NDArray[np.int64] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_memory", np.zeros((MEMORY_SLOTS, 3), np.uint64))
        object.__setattr__(self, "_spill", np.zeros(_SPILL_IDS, np.uint32))
        object.__setattr__(self, "_used", np.zeros(2, np.int64))

    def encode(self, texts: Texts) -> tuple[Ids, NDArray[np.int64]]:
        """Give the ids of all texts, one after another, and where those of each text end."""
        n_bytes = int(texts.ends[-1]) if len(texts.ends) else 0
        ids, ends = np.empty(n_bytes, np.uint32), np.zeros(len(texts.ends), np.int64)
        merges = self.merges
        encode_texts(
            texts.data, texts.ends, piece_classes(), merges.byte_ids, merges.merged_ids, merges.pairs,
            merges.is_pair, merges.byte_ranks, merges.joints, self._memory, self._spill, self._used, ids, ends,
        )  # fmt: skip
        return ids[: int(ends[-1]) if len(ends) else 0], ends
