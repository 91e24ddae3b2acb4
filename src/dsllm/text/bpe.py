"""Byte-level BPE: tables of a tokenizer's merges, and encoding by them; `bpe_compiled.py` has the loops.

A piece of text begins as its bytes. Of the pairs of neighbours that have a merge, the one whose merge was
learned first is merged, the leftmost of several, and so on until none has one (Sennrich, Haddow and Birch
2016, arXiv:1508.07909). That is what Hugging Face `tokenizers` computes; the ids are equal.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.text.added_tokens import AddedTokens, unknown_manner
from dsllm.text.bpe_compiled import encode_spans
from dsllm.text.joints_compiled import N_JOINT_WORDS, note_crossings
from dsllm.text.merges_compiled import ID_BITS, N_PAIR_WORDS, NO_RANK, RANK_BITS, put_pairs, put_words
from dsllm.text.merging_compiled import N_CHARACTERS, NO_ID, know_characters
from dsllm.text.patterns import Cuts, cuts_of
from dsllm.text.texts import ROOM_BYTES, Texts
from dsllm.text.tokenizer_files import BYTE_OF_CHARACTER, read_tokenizer

Ids = NDArray[np.uint32]
Int64s = NDArray[np.int64]

MEMORY_SLOTS = 1 << 21  # of 32 bytes
_SLOT_BYTES = 32
_SPILL_IDS = 1 << 22
# What Hugging Face's BPE may be asked to do besides. Where all bytes are words, none is ever unknown, so that
# `unk_token`, `fuse_unk` and `byte_fallback` change nothing.
_EXTRAS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
_NOT_IN_UTF8 = (0xC0, 0xC1, *range(0xF5, 0x100))


@dataclass(frozen=True)
class Words:
    """The words of a vocabulary that a piece is looked up among; none where merges alone decide.

    data, ends: their bytes one after another.
    slots: a hash table from their bytes to their place: see `put_words`.
    ids: the id of each.
    """

    data: NDArray[np.uint8]
    ends: Int64s
    slots: Ids
    ids: Ids

    @classmethod
    def build(cls, vocabulary: Mapping[str, int]) -> "Words":
        """Take the words, in stand-ins, and the id of each."""
        texts = bytes_of_stand_ins([*vocabulary])
        slots = np.zeros(1 << max(4, (2 * len(vocabulary)).bit_length()), np.uint32)
        put_words(texts.data, texts.ends, slots)
        return cls(texts.data, texts.ends, slots, np.array([*vocabulary.values()], np.uint32))


@dataclass(frozen=True)
class Merges:
    """The merges of a vocabulary, and what comes before them.

    byte_ids: (256,), the id of each byte.
    merged_ids: (n_merges,), the id that each merge makes.
    pairs, is_pair: a hash table from two ids to the place of their merge among all, and bits that say
        whether it is worth a look: see `put_pairs`.
    byte_ranks: (65536,), the same for two bytes, without hashing.
    joints: bits, by a hash of two neighbouring characters: whether a token may reach over both.
    character_ids: (65536,), the id that a character of two or three bytes has in any text, else NO_ID.
    words: pieces that are one of these are not merged.
    cuts: how texts are cut into pieces.
    added_tokens: what is looked for in the text first, as in tokenizer.json.
    """

    byte_ids: Ids
    merged_ids: Ids
    pairs: NDArray[np.uint64]
    is_pair: NDArray[np.uint64]
    byte_ranks: Ids
    joints: NDArray[np.uint64]
    character_ids: Ids
    words: Words
    cuts: Cuts
    added_tokens: Sequence[dict[str, Any]]

    @classmethod
    def build(
        cls,
        vocabulary: Mapping[str, int],
        merges: Sequence[Sequence[str]],
        cuts: Cuts,
        *,
        added_tokens: Sequence[dict[str, Any]] = (),
        ignore_merges: bool = False,
    ) -> "Merges":
        """Take the words of a vocabulary, all single bytes among them, and the pairs to merge, in order.

        Both are written as in a tokenizer.json, a character for each byte.
        `ignore_merges` says that a piece which is a word has its id, whatever the merges make of it.

        Raises:
            KeyError: a merge is not of two words that make a third.
        """
        byte_ids, byte_ranks = np.zeros(256, np.uint32), np.full(1 << 16, NO_RANK, np.uint32)
        for character, byte in BYTE_OF_CHARACTER.items():
            byte_ids[byte] = vocabulary.get(character, 0)
        for rank, (left, right) in enumerate(merges):
            if len(left) == len(right) == 1:
                byte_ranks[BYTE_OF_CHARACTER[left] << 8 | BYTE_OF_CHARACTER[right]] = rank
        left_words, right_words = [left for left, _ in merges], [right for _, right in merges]
        merged = list(map(add, left_words, right_words))
        words = Words.build(vocabulary if ignore_merges else {})
        joints = np.zeros(N_JOINT_WORDS, np.uint64)
        for texts in (bytes_of_stand_ins(merged), words):
            note_crossings(texts.data, texts.ends, joints)
        lefts, rights, merged_ids = (
            np.fromiter(map(vocabulary.__getitem__, each), np.uint32, len(each))
            for each in (left_words, right_words, merged)
        )
        table = np.zeros(1 << max(4, (2 * len(merges) - 1).bit_length()), np.uint64)
        is_pair = np.zeros(N_PAIR_WORDS, np.uint64)
        put_pairs(lefts, rights, table, is_pair)
        character_ids = np.full(N_CHARACTERS, NO_ID, np.uint32)
        if _ascend(lefts, rights, merged_ids):
            texts = _characters(merged)
            know_characters(
                texts.data,
                texts.ends,
                byte_ids,
                merged_ids,
                table,
                is_pair,
                byte_ranks,
                joints,
                character_ids,
            )
        return cls(
            byte_ids, merged_ids, table, is_pair, byte_ranks, joints, character_ids, words, cuts, added_tokens
        )


@dataclass(frozen=True)
class Encoder:
    """Encodes texts; pieces of up to 16 bytes are remembered, for all threads that share the encoder.

    With `parse_special` the names of special tokens in a text are these tokens, else they are plain text.
    """

    merges: Merges
    parse_special: bool = False
    _added: AddedTokens = field(init=False, repr=False)
    _memory: NDArray[np.uint64] = field(init=False, repr=False)
    _spill: Ids = field(init=False, repr=False)
    _used: Int64s = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_added", AddedTokens(self.merges.added_tokens, self.parse_special))
        object.__setattr__(self, "_memory", _aligned_slots(MEMORY_SLOTS))
        object.__setattr__(self, "_spill", np.zeros(_SPILL_IDS, np.uint32))
        object.__setattr__(self, "_used", np.zeros(1, np.int64))

    def encode(self, texts: Texts, end_id: int | None = None) -> tuple[Ids, Int64s]:
        """Give the ids of all texts, `end_id` behind each, one after another, and where those of each end."""
        if not len(texts.ends):
            return np.zeros(0, np.uint32), np.zeros(0, np.int64)
        ends, ids, n_spans = self._spans(texts, end_id)
        found = np.empty(int(texts.ends[-1]) + len(ends) + 8, np.uint32)
        id_ends = np.zeros(len(ends), np.int64)
        merges, words, cuts = self.merges, self.merges.words, self.merges.cuts
        encode_spans(
            texts.data, ends, ids, cuts.classes, cuts.rule, cuts.n_digits, merges.byte_ids, merges.merged_ids,
            merges.pairs, merges.is_pair, merges.byte_ranks, merges.joints, merges.character_ids, words.data,
            words.ends, words.slots, words.ids, self._memory, self._spill, self._used, found, id_ends,
        )  # fmt: skip
        return found[: int(id_ends[-1])], id_ends[np.cumsum(n_spans) - 1]

    def _spans(self, texts: Texts, end_id: int | None) -> tuple[Int64s, Int64s, Int64s]:
        """Give where each span ends and the id that it stands for, -1 for text; how many each text has."""
        n_spans = np.full(len(texts.ends), 1 if end_id is None else 2, np.int64)
        places = self._added.places(texts)
        if not places:
            ends = np.repeat(texts.ends, n_spans[0])
            ids = np.full(len(ends), -1, np.int64)
            if end_id is not None:
                ids[1::2] = end_id
            return ends, ids, n_spans
        starts = np.concatenate([np.zeros(1, np.int64), texts.ends])
        rows = [[(end, -1)] for end in texts.ends.tolist()]
        for place in places:
            start, end = int(starts[place]), int(starts[place + 1])
            cut = self._added.spans(texts.data[start:end].tobytes())
            rows[place] = [(start + span_end, identity) for span_end, identity in cut]
        if end_id is not None:
            rows = [[*row, (end, end_id)] for row, end in zip(rows, texts.ends.tolist(), strict=True)]
        flat = np.array([span for row in rows for span in row], np.int64).reshape(-1, 2)
        return (
            np.ascontiguousarray(flat[:, 0]),
            np.ascontiguousarray(flat[:, 1]),
            np.array(list(map(len, rows)), np.int64),
        )


def _ascend(lefts: Ids, rights: Ids, merged_ids: Ids) -> bool:
    """Tell whether every merge comes behind those that make its two parts, as training leaves them."""
    ranks = np.arange(len(merged_ids))
    made_at = np.full(1 << ID_BITS, -1, np.int64)
    np.maximum.at(made_at, merged_ids, ranks)
    return bool((made_at[lefts] < ranks).all() and (made_at[rights] < ranks).all())


def _characters(words: Sequence[str]) -> Texts:
    """Give those of the words, in stand-ins, that are one character of two or three bytes."""
    short = bytes_of_stand_ins([word for word in words if len(word) in {2, 3}])
    candidates = [short.raw(place) for place in range(len(short.ends))]
    lead_bytes = {2: range(0xC2, 0xE0), 3: range(0xE0, 0xF0)}
    return Texts.join(
        [
            word
            for word in dict.fromkeys(candidates)
            if word[0] in lead_bytes[len(word)] and all(0x80 <= byte < 0xC0 for byte in word[1:])
        ]
    )


def _aligned_slots(n_slots: int) -> NDArray[np.uint64]:
    """Make room for slots of four words so that two of them share a line of the processor's cache."""
    room = np.zeros(n_slots * _SLOT_BYTES + 2 * _SLOT_BYTES, np.uint8)
    start = -room.ctypes.data % (2 * _SLOT_BYTES)
    return room[start : start + n_slots * _SLOT_BYTES].view(np.uint64).reshape(n_slots, 4)


def merges_of_file(values: Mapping[str, Any]) -> Merges | str:
    """Read the merges out of a `tokenizer.json`, or say why its work cannot be done here."""
    model, added = values.get("model"), values.get("added_tokens", [])
    if (
        not isinstance(model, dict)
        or model.get("type", "BPE") != "BPE"
        or not isinstance(model.get("vocab"), dict)
        or not isinstance(model.get("merges"), list)
    ):
        return f"its model is {model.get('type') if isinstance(model, dict) else model}, not BPE"
    if asked := [name for name in _EXTRAS if model.get(name)]:
        return f"its {asked[0]} is {model[asked[0]]!r}"
    if (normalizer := values.get("normalizer")) and normalizer.get("normalizers") != []:
        return f"it changes texts first, by {normalizer['type']}"
    cuts = cuts_of(values.get("pre_tokenizer"))
    if cuts is None:
        return "it cuts texts in a way that is not known here"
    if manner := unknown_manner(added, model["vocab"]):
        return manner
    alphabet = BYTE_OF_CHARACTER.keys()
    words = model["vocab"]
    if not alphabet >= set("".join(words)):
        words = {word: identity for word, identity in words.items() if alphabet >= set(word)}
    for character, byte in BYTE_OF_CHARACTER.items():
        if character not in words and byte not in _NOT_IN_UTF8:
            return f"it has no word for byte {byte:02X}"
    if max(words.values()) >= 1 << ID_BITS or len(model["merges"]) >= 1 << RANK_BITS:
        return f"it has {len(words):,} words and {len(model['merges']):,} merges"
    merges = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    ignore_merges = bool(model.get("ignore_merges"))
    if _are_pairs(merges):
        with suppress(KeyError):
            return Merges.build(words, merges, cuts, added_tokens=added, ignore_merges=ignore_merges)
    return "its merges are not all pairs of words of bytes that make a third"


def _are_pairs(merges: list[Any]) -> bool:
    """Tell whether each merge is two strings: some 100,000, so without a line of Python for each."""
    if {*map(type, merges)} - {list} or {*map(len, merges)} - {2}:
        return False
    return not {*map(type, chain.from_iterable(merges))} - {str}


def bytes_of_stand_ins(words: Sequence[str]) -> Texts:
    """Give the bytes that words stand for, each character of theirs being one of the byte alphabet."""
    joined = "".join(f"{word}\n" for word in words)
    codes = np.frombuffer(joined.encode("utf-32-le"), "<u4")
    is_end = codes == ord("\n")
    data = np.concatenate([_BYTE_OF_CODE[codes[~is_end]], np.zeros(ROOM_BYTES, np.uint8)])
    return Texts(data, np.flatnonzero(is_end) - np.arange(len(words)))


_BYTE_OF_CODE = np.zeros(ord(max(BYTE_OF_CHARACTER)) + 1, np.uint8)
_BYTE_OF_CODE[[*map(ord, BYTE_OF_CHARACTER)]] = [*BYTE_OF_CHARACTER.values()]


def read_merges(folder: str | Path) -> Merges | str:
    """Read the merges of a tokenizer's folder, or say why not: see `merges_of_file`."""
    return merges_of_file(read_tokenizer(folder))
