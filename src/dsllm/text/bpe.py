"""Byte-level BPE: tables of a tokenizer's merges, and encoding by them; `bpe_compiled.py` has the loops.

A piece of text begins as its bytes. Of the pairs of neighbours that have a merge, the one whose merge was
learned first is merged, the leftmost of several, and so on until none has one (Sennrich, Haddow and Birch
2016, arXiv:1508.07909). That is what Hugging Face `tokenizers` computes; the ids are equal.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.text.bpe_compiled import (
    ID_BITS,
    N_JOINT_WORDS,
    N_PAIR_WORDS,
    NO_RANK,
    RANK_BITS,
    encode_texts,
    note_crossings,
    put_pairs,
)
from dsllm.text.pretokens import huggingface_pre_tokenizer
from dsllm.text.pretokens_compiled import piece_classes
from dsllm.text.texts import Texts
from dsllm.text.tokenizer_files import BYTE_OF_CHARACTER, TOKENIZER_JSON

Ids = NDArray[np.uint32]

MEMORY_SLOTS = 1 << 21  # of 24 bytes; three quarters of them are used
_SPILL_IDS = 1 << 22
# What Hugging Face's BPE may be asked to do besides.
_EXTRAS = (
    "dropout",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)


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
        byte_ids = np.array([vocabulary[bytes([byte])] for byte in range(256)], np.uint32)
        joints = np.zeros(N_JOINT_WORDS, np.uint64)
        byte_ranks = np.full(1 << 16, NO_RANK, np.uint32)
        rows = np.empty((len(merges), 3), np.uint32)
        for rank, (left, right) in enumerate(merges):
            rows[rank] = vocabulary[left], vocabulary[right], vocabulary[left + right]
            if len(left) == len(right) == 1:
                byte_ranks[left[0] << 8 | right[0]] = rank
        texts = Texts.join([left + right for left, right in merges])
        note_crossings(texts.data, texts.ends, joints)
        table = np.zeros(1 << max(4, (2 * len(rows) - 1).bit_length()), np.uint64)
        is_pair = np.zeros(N_PAIR_WORDS, np.uint64)
        lefts, rights, merged_ids = np.ascontiguousarray(rows.T)
        put_pairs(lefts, rights, table, is_pair)
        return cls(byte_ids, merged_ids, table, is_pair, byte_ranks, joints)


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

    def encode(self, texts: Texts, end_id: int | None = None) -> tuple[Ids, NDArray[np.int64]]:
        """Give the ids of all texts, `end_id` behind each, one after another, and where those of each end."""
        if not len(texts.ends):
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        n_bytes = int(texts.ends[-1])
        ids = np.empty(n_bytes + len(texts.ends) + 8, np.uint32)
        ends = np.zeros(len(texts.ends), np.int64)
        merges = self.merges
        encode_texts(
            texts.data, texts.ends, piece_classes(), merges.byte_ids, merges.merged_ids, merges.pairs,
            merges.is_pair, merges.byte_ranks, merges.joints, self._memory, self._spill, self._used,
            -1 if end_id is None else end_id, ids, ends,
        )  # fmt: skip
        return ids[: int(ends[-1])], ends


def merges_of_file(values: Mapping[str, Any]) -> Merges | str:
    """Read the merges out of a `tokenizer.json`, or say why its work cannot be done here."""
    model, added = values["model"], values.get("added_tokens", [])
    pre_tokenizer = json.loads(huggingface_pre_tokenizer().__getstate__())
    if model.get("type") != "BPE":
        return f"its model is {model.get('type')}, not BPE"
    if asked := [name for name in _EXTRAS if model.get(name)]:
        return f"its {asked[0]} is {model[asked[0]]!r}"
    if values.get("normalizer") is not None:
        return f"it changes texts first, by {values['normalizer']['type']}"
    if values.get("pre_tokenizer") != pre_tokenizer:
        return "it cuts texts in another way than DeepSeek LLM's tokenizer"
    if plain := [token["content"] for token in added if not token["special"]]:
        return f"it looks for {plain[0]!r} in the text, which is no special token"
    words = {
        _bytes_of(word): identity
        for word, identity in model["vocab"].items()
        if all(character in BYTE_OF_CHARACTER for character in word)
    }
    if missing := [byte for byte in range(256) if bytes([byte]) not in words]:
        return f"it has no word for byte {missing[0]:02X}"
    if max(words.values()) >= 1 << ID_BITS or len(model["merges"]) >= 1 << RANK_BITS:
        return f"it has {len(words):,} words and {len(model['merges']):,} merges"
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    merges = [(_bytes_of(left), _bytes_of(right)) for left, right in pairs]
    return Merges.build(words, merges)


def _bytes_of(word: str) -> bytes:
    return bytes(BYTE_OF_CHARACTER[character] for character in word)


def read_merges(folder: str | Path) -> Merges | str:
    """Read the merges of a tokenizer's folder, or say why not: see `merges_of_file`."""
    return merges_of_file(json.loads((Path(folder) / TOKENIZER_JSON).read_bytes()))
