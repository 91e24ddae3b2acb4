"""The loops of `fasttext_model.py`, compiled: words of texts, and their rows of the input matrix.

A word is what stands between white space. Its rows are its own, where it is in the dictionary, and those of
its character n-grams, by their hash. Words of up to 32 bytes are remembered with the sum of their rows.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.fasttext_entries_compiled import NOT_FOUND, Bytes, Int64s, begins, find_entry, hash_bytes
from dsllm.text.fasttext_ngrams_compiled import (
    BUCKET,
    LONGEST,
    MAX_N,
    MAX_SIZE,
    N_STARTS,
    N_WORDS,
    ROW_BYTES,
    WORD_NGRAMS,
    find_ngrams,
    row_of_bucket,
)
from dsllm.text.vector import (
    BLOCK_BYTES,
    load_word,
    mask_of_equal,
    mask_of_range,
    prefetch,
    prefetch_byte,
    write_places,
)
from dsllm.text.vector_rows import N_LANES, add_floats, add_rows, equals_head

# A slot of the memory: four words with the bytes of a word, what is known of it, and the sum of its rows.
SLOT_WORDS = 8
_N_ROWS, _HASH, _SOURCE = 4, 5, 6
MAX_REMEMBERED = 32  # bytes
_N_PLACES = 1024  # at a time
_N_AHEAD, _N_TOGETHER = 32, 8  # rows

_NGRAM_FACTOR = np.uint64(116049371)
_FACTOR, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_THIRD, _FOURTH = np.uint64(0xA0761D6478BD642F), np.uint64(0xE7037ED1A0B428DB)
_HEAD_MASKS = np.array([(1 << 8 * n_bytes) - 1 for n_bytes in range(9)], np.uint64)
_BLANK = np.uint8(ord(" "))  # white space, as are zeros and five from the tab on
_FIRST_SPACE, _N_SPACES = np.uint8(ord("\t")), np.uint8(5)
_END = np.frombuffer(b"</s>", np.uint8)
_LABEL = np.frombuffer(b"__label__", np.uint8)


@compiled
def sum_rows(
    data: Bytes, ends: Int64s, entry_data: Bytes, spans: Int64s, table: NDArray[np.int32], rows: Bytes,
    kept_bits: NDArray[np.uint64], kept_before: Int64s, shape: Int64s, memory: NDArray[np.uint64],
    sums: NDArray[np.float64], n_rows: Int64s,
) -> None:  # fmt: skip
    """Add up the rows of all words of each text into `sums` (n_texts, width), and count them in `n_rows`.

    Args:
        data: texts with 2 * BLOCK_BYTES or more behind the last.
        ends: (n_texts,), where each text ends.
        entry_data: bytes of the dictionary's entries.
        spans: where the entries are in it.
        table: hash table of the entries; entries from shape[N_WORDS] on are labels.
        rows: the input matrix as bytes, shape[ROW_BYTES] for a row of float32, with BLOCK_BYTES behind it.
        kept_bits: a bit for each bucket, whether it has a row; (0,) where all have.
        kept_before: how many have one before each word of these bits.
        shape: by the names in `fasttext_ngrams_compiled.py`; without n-grams MAX_N is 0, WORD_NGRAMS 1.
        memory: (a power of two, SLOT_WORDS + width / 2), or SLOT_WORDS if MAX_N is 0; zeros at first.
        sums: float64, zeros, of a width that is a multiple of N_LANES.
        n_rows: (n_texts,), zeros.
    """
    places = np.empty(_N_PLACES + 2 * BLOCK_BYTES, np.int64)
    slots = np.empty(len(places), np.int64)
    hashes = np.empty(len(places) + shape[WORD_NGRAMS], np.uint32)
    sources = np.empty(len(hashes) * shape[WORD_NGRAMS], np.int64)
    scratch = np.zeros((2 + MAX_SIZE, N_STARTS + shape[MAX_N] + 2 * N_LANES), np.int32)
    found = np.empty(N_STARTS * max(shape[MAX_N], 1) + 1, np.int32)
    word_sum = np.zeros((1, sums.shape[1]), np.float64)
    end_entry, end_hash = _find_end(entry_data, spans, table, shape)
    word_start = 0
    for text in range(len(ends)):
        place, n_hashes = word_start, 0
        while True:
            place, n_places = _find_spaces(data, place, ends[text], places)
            _find_slots(data, word_start, places[:n_places], memory, slots)
            n_before, n_sources = n_hashes, 0
            for index in range(n_places):
                start, end = word_start, places[index]
                word_start = end + 1
                if start == end:
                    continue
                slot, is_known = _look_up(memory, slots[index], data, start, end)
                if not is_known:
                    target, row = (word_sum, 0) if slot >= 0 else (sums, text)
                    n_added, hashed, source = _add_word(
                        data, start, end, entry_data, spans, table, rows, kept_bits, kept_before, shape,
                        scratch, found, target, row,
                    )  # fmt: skip
                    if slot >= 0:
                        slot = _remember(data, start, end, memory, slot, n_added, hashed, source, word_sum)
                if slot >= 0:
                    n_added, hashed = np.int64(memory[slot, _N_ROWS]), np.uint32(memory[slot, _HASH])
                    source = np.int64(memory[slot, _SOURCE])
                    _add_remembered(memory, slot, sums, text)
                if n_added >= 0:
                    n_rows[text] += n_added
                    hashes[n_hashes], sources[n_sources] = hashed, source
                    n_hashes += 1
                    n_sources += source >= 0
            if place == ends[text]:  # the end of a line counts as a word
                hashes[n_hashes], sources[n_sources] = end_hash, end_entry
                n_hashes += 1
                n_sources += end_entry >= 0
            n_sources = _chain(hashes, n_before, n_hashes, kept_bits, kept_before, shape, sources, n_sources)
            _add_rows(rows, sources, n_sources, shape, sums, text)
            n_rows[text] += n_sources
            n_hashes = _keep_last(hashes, n_hashes, shape[WORD_NGRAMS] - 1)
            if place == ends[text]:
                break
        word_start = ends[text]


@compiled
def _find_spaces(data, place, end, places):
    """Write where the next words end: the next white space, or the end of the text; (place, n_places)."""
    n_places = 0
    while place < end and n_places < _N_PLACES:
        mask = mask_of_equal(data, place, _BLANK) | mask_of_equal(data, place, np.uint8(0))
        mask |= mask_of_range(data, place, _FIRST_SPACE, _N_SPACES)
        if end - place < BLOCK_BYTES:
            mask &= (np.uint64(1) << np.uint64(end - place)) - np.uint64(1)
        n_places = write_places(mask, place, places, n_places)
        place = min(place + BLOCK_BYTES, end)
    if place == end:
        places[n_places] = end
        n_places += 1
    return place, n_places


@compiled
def _find_slots(data, start, ends, memory, slots):
    """Say which slot each word belongs to, NOT_FOUND for a long one; the slots begin to be fetched."""
    for index in range(len(ends)):
        n_bytes = ends[index] - start
        slots[index] = NOT_FOUND
        if 0 < n_bytes <= MAX_REMEMBERED:
            mixed = (load_word(data, start) & _HEAD_MASKS[min(n_bytes, 8)]) * _FACTOR
            mixed ^= (load_word(data, start + 8) & _HEAD_MASKS[min(max(n_bytes - 8, 0), 8)]) * _SECOND
            if n_bytes > 16:
                mixed ^= (load_word(data, start + 16) & _HEAD_MASKS[min(n_bytes - 16, 8)]) * _THIRD
                mixed ^= (load_word(data, start + 24) & _HEAD_MASKS[min(max(n_bytes - 24, 0), 8)]) * _FOURTH
            slots[index] = np.int64((mixed ^ mixed >> np.uint64(32)) & np.uint64(len(memory) - 1))
            prefetch_byte(memory, 8 * memory.shape[1] * slots[index])
            prefetch_byte(memory, 8 * memory.shape[1] * slots[index] + BLOCK_BYTES)
        start = ends[index] + 1


@compiled
def _look_up(memory, slot, data, start, end):
    """Tell which slot has this word, and whether it has; a long word has none.

    A word that is met again moves from the other slot into its own, where it is found at once.
    """
    if slot < 0:
        return slot, False
    if _holds(memory, slot, data, start, end):
        return slot, True
    if not _holds(memory, slot ^ 1, data, start, end):
        return slot, False
    for index in range(memory.shape[1]):
        memory[slot, index], memory[slot ^ 1, index] = memory[slot ^ 1, index], memory[slot, index]
    return slot, True


@compiled
def _holds(memory, slot, data, start, end):
    """Tell whether a slot has this word."""
    return equals_head(data, start, end - start, memory, 8 * slot * memory.shape[1])


@compiled
def _remember(data, start, end, memory, slot, n_added, hashed, source, word_sum):
    """Put a word into its slot, or where that has one into the other; returns which. Clears `word_sum`."""
    if memory[slot, 0] != np.uint64(0):
        slot ^= 1
    for index in range(4):
        n_bytes = min(max(end - start - 8 * index, 0), 8)
        memory[slot, index] = load_word(data, start + 8 * index) & _HEAD_MASKS[n_bytes]
    memory[slot, _N_ROWS], memory[slot, _HASH] = np.uint64(n_added), np.uint64(hashed)
    memory[slot, _SOURCE] = np.uint64(source)
    values = memory.view(np.float32)
    for column in range(2 * (memory.shape[1] - SLOT_WORDS)):
        values[slot, 2 * SLOT_WORDS + column] = np.float32(word_sum[0, column])
        word_sum[0, column] = 0
    return slot


@compiled
def _add_remembered(memory, slot, sums, text):
    width = 2 * (memory.shape[1] - SLOT_WORDS)
    first = 8 * (slot * memory.shape[1] + SLOT_WORDS)
    for column in range(0, width, N_LANES):
        add_floats(memory, first + 4 * column, sums, text * width + column)


@compiled
def _add_word(
    data, start, end, entry_data, spans, table, rows, kept_bits, kept_before, shape, scratch, found, target,
    row,
):  # fmt: skip
    """Add the rows of a word: (their number, its hash, a row that is still to be added or NOT_FOUND).

    The number is NOT_FOUND for what counts as no word. Without n-grams there is nothing but a row to add.
    """
    is_short = end - start <= shape[LONGEST]
    hashed = np.uint32(0)
    if is_short or shape[WORD_NGRAMS] > 1:
        hashed = hash_bytes(data, start, end)
        prefetch(table, np.int64(hashed) & (len(table) - 1))
    place, n_found = start - 1, 0  # "<" stands before the word, ">" behind it
    if shape[MAX_N]:
        n_found, place = _find_rows(
            data, start, end, place, rows, kept_bits, kept_before, shape, scratch, found
        )
    entry = np.int64(NOT_FOUND)
    if is_short:
        entry = np.int64(table[find_entry(data, start, end, hashed, entry_data, spans, table)])
    if entry >= shape[N_WORDS] or (entry == NOT_FOUND and begins(data, start, end, _LABEL)):
        return NOT_FOUND, hashed, NOT_FOUND
    if end - start == len(_END) and begins(data, start, end, _END):  # would end the text for fastText
        return NOT_FOUND, hashed, NOT_FOUND
    if shape[MAX_N] == 0:
        return 0, hashed, entry
    width, row_bytes = target.shape[1], shape[ROW_BYTES]
    n_added = 0
    if entry != NOT_FOUND:
        for column in range(0, width, N_LANES):
            add_floats(rows, entry * row_bytes + 4 * column, target, row * width + column)
        n_added = 1
    while True:
        for column in range(0, width, N_LANES):
            add_rows(rows, row_bytes, 4 * column, found, n_found, target, row * width + column)
        n_added += n_found
        if place >= end:
            return n_added, hashed, NOT_FOUND
        n_found, place = _find_rows(
            data, start, end, place, rows, kept_bits, kept_before, shape, scratch, found
        )


@compiled
def _find_rows(data, start, end, place, rows, kept_bits, kept_before, shape, scratch, found):
    """Find the rows of n-grams as `find_ngrams` does; they begin to be fetched."""
    n_found, place = find_ngrams(data, start, end, place, kept_bits, kept_before, shape, scratch, found)
    for index in range(n_found):
        prefetch_byte(rows, np.int64(found[index]) * shape[ROW_BYTES])
    return n_found, place


@compiled
def _chain(hashes, first, end, kept_bits, kept_before, shape, sources, n_sources):
    """Add the rows of the word n-grams that end with words `first` to `end` to `sources`; their number."""
    for last in range(first, end):
        for start in range(last - 1, max(-1, last - shape[WORD_NGRAMS]), -1):
            chained = _widened(hashes[start])
            for index in range(start + 1, last + 1):
                chained = chained * _NGRAM_FACTOR + _widened(hashes[index])
            bucket = np.int64(chained % np.uint64(shape[BUCKET]))
            if len(kept_bits) == 0 or kept_bits[bucket >> 6] >> np.uint64(bucket & 63) & np.uint64(1):
                sources[n_sources] = row_of_bucket(bucket, kept_bits, kept_before, shape)
                n_sources += 1
    return n_sources


@compiled
def _widened(hashed):
    return np.uint64(np.int64(np.int32(hashed)))  # with its sign


@compiled
def _keep_last(hashes, n_hashes, n_kept):
    n_kept = min(n_hashes, n_kept)
    for index in range(n_kept):
        hashes[index] = hashes[n_hashes - n_kept + index]
    return n_kept


@compiled
def _add_rows(rows, sources, n_sources, shape, sums, text):
    """Add rows, some at a time; they begin to come from memory some rows before it is their turn."""
    width, row_bytes = sums.shape[1], shape[ROW_BYTES]
    for first in range(-_N_AHEAD, n_sources, _N_TOGETHER):
        for index in range(first + _N_AHEAD, min(first + _N_AHEAD + _N_TOGETHER, n_sources)):
            for byte in range(0, row_bytes, BLOCK_BYTES):
                prefetch_byte(rows, sources[index] * row_bytes + byte)
            prefetch_byte(rows, sources[index] * row_bytes + row_bytes - 1)
        if first >= 0:
            n_rows = min(_N_TOGETHER, n_sources - first)
            for column in range(0, width, N_LANES):
                add_rows(rows, row_bytes, 4 * column, sources[first:], n_rows, sums, text * width + column)


@compiled
def _find_end(entry_data, spans, table, shape):
    """Give the entry of the end of a line, NOT_FOUND for none, and its hash."""
    hashed = hash_bytes(_END, 0, len(_END))
    entry = np.int64(table[find_entry(_END, 0, len(_END), hashed, entry_data, spans, table)])
    return (entry if entry < shape[N_WORDS] else NOT_FOUND), hashed
