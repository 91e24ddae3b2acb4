"""The words of `scan.py` out of UTF-8 bytes, compiled: ASCII 64 bytes at a time, the rest by code points.

A text is gone through in pieces, so that what a piece leaves stays in the processor's cache: its bytes,
folded, and the edges of its words. A word that is open at the end of a piece goes on in the next one.
"""

import functools

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled, kept_array
from dsllm.text.scan import CJK, LETTER, MARK, PUNCTUATION, character_classes, simple_folding
from dsllm.text.vector import (
    BLOCK_BYTES,
    copy_block,
    copy_wide_block,
    count_ones,
    count_trailing_zeros,
    write_places,
)

Bytes = NDArray[np.uint8]

PIECE_BYTES = 16384  # of text in a piece; a piece has more only to end a word that is longer
MAX_EDGES = 2 * PIECE_BYTES + 2 * BLOCK_BYTES  # a piece stops before it has more
_CASE_BIT = 0x20
_FIRST_WIDE = 0xE2  # the least lead of UTF-8 that `copy_wide_block` knows
# What a scan remembers from one piece to the next.
PLACE, N_FOLDED, N_EDGES = 0, 1, 2  # next byte of the text; bytes and edges of the word left open
N_STATE = 3


@functools.cache
def word_tables() -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Give the classes and the folding of code points as the compiled loops take them."""
    return kept_array("character_classes", character_classes), kept_array("simple_folding", simple_folding)


@compiled
def scan_piece(text, end, state, folded, edges, fold, punctuation, classes, folding):
    """Find the words of the next piece of `text[:end]`.

    `folded` gets the bytes of the words, case folded where `fold` is set; `edges` where each word begins and
    ends in them. Nothing else in `folded` means anything. At the end of the text an open word is closed.

    Args:
        text: uint8 bytes of valid UTF-8 with 64 more behind `end`.
        end: where the text ends.
        state: int64 (N_STATE,): zero but for PLACE before the first piece.
        folded: uint8 with room for 1.5 times the text, since folding makes 3 bytes of 2, and 128 more.
        edges: int64 (MAX_EDGES + 3 * BLOCK_BYTES,).
        fold: whether the case is folded.
        punctuation: whether each PUNCTUATION character is a word too.
        classes: as from `word_tables`.
        folding: as from `word_tables`.

    Returns:
        The number of whole words.
    """
    place, written, n_edges = state[PLACE], state[N_FOLDED], state[N_EDGES]
    limit = place + max(PIECE_BYTES, written)
    case_bit = np.uint8(_CASE_BIT if fold else 0)
    while place < min(end, limit) and n_edges < MAX_EDGES:
        if text[place] < 0x80:
            is_high, is_word = copy_block(text, place, folded, written, case_bit)
            n_bytes = min(count_trailing_zeros(is_high), end - place)
            if punctuation:
                n_edges = _ascii_edges(text, place, n_bytes, written, edges, n_edges, classes)
            else:
                n_edges = _edges_of_mask(is_word, n_bytes, written, edges, n_edges)
            place += n_bytes
            written += n_bytes
            continue
        if text[place] >= _FIRST_WIDE and not punctuation:
            n_bytes, n_edges = _wide_edges(text, place, end, folded, written, edges, n_edges)
            if n_bytes:
                place += n_bytes
                written += n_bytes
                continue
        code, n_bytes = decode(text, place)
        kind = classes[code]
        is_open = n_edges & 1
        if kind == LETTER or (kind == MARK and is_open):
            if not is_open:
                edges[n_edges] = written
                n_edges += 1
            written = encode(np.int64(folding[code]) if fold else code, folded, written)
        else:
            if is_open:
                edges[n_edges] = written
                n_edges += 1
            if kind == CJK or (kind == PUNCTUATION and punctuation):
                edges[n_edges] = written
                written = encode(np.int64(folding[code]) if fold else code, folded, written)
                edges[n_edges + 1] = written
                n_edges += 2
        place += n_bytes
    if place >= end and n_edges & 1:
        edges[n_edges] = written
        n_edges += 1
    state[PLACE], state[N_FOLDED], state[N_EDGES] = place, written, n_edges
    return n_edges >> 1


@compiled
def keep_open_word(state, folded, edges):
    """Move the word that a piece has left open to the front, where the next piece goes on with it."""
    n_kept = 0
    if state[N_EDGES] & 1:
        first = edges[state[N_EDGES] - 1]
        n_kept = state[N_FOLDED] - first
        for index in range(n_kept):
            folded[index] = folded[first + index]
        edges[0] = 0
    state[N_FOLDED] = n_kept
    state[N_EDGES] &= 1


@compiled
def _edges_of_mask(is_word, n_bytes, written, edges, n_edges):
    """Write down where runs of set bits begin and end; an odd number of edges is an open word."""
    one = np.uint64(1)
    inside = ~np.uint64(0) >> np.uint64(BLOCK_BYTES - n_bytes)
    is_word &= inside
    changes = (is_word ^ ((is_word << one) | np.uint64(n_edges & 1))) & inside
    return write_places(changes, written, edges, n_edges)


@compiled
def _ascii_edges(text, place, n_bytes, written, edges, n_edges, classes):
    """The same byte by byte, with each punctuation character as a word."""
    for index in range(n_bytes):
        kind = classes[text[place + index]]
        if (kind == LETTER) != (n_edges & 1):
            edges[n_edges] = written + index
            n_edges += 1
        if kind == PUNCTUATION:
            edges[n_edges] = written + index
            edges[n_edges + 1] = written + index + 1
            n_edges += 2
    return n_edges


@compiled
def _wide_edges(text, place, end, folded, written, edges, n_edges):
    """Copy ideographs, each of them a word, and marks, as many as come; returns their bytes and the edges."""
    ideographs, marks, followers = copy_wide_block(text, place, folded, written)
    n_bytes = count_trailing_zeros(~(ideographs | marks | followers))
    n_bytes = min(n_bytes, end - place, BLOCK_BYTES) // 3 * 3
    if not n_bytes:
        return 0, n_edges
    if n_edges & 1:
        edges[n_edges] = written
        n_edges += 1
    ideographs &= (np.uint64(1) << np.uint64(n_bytes)) - np.uint64(1)
    n_new = count_ones(ideographs)
    for first in range(0, n_new, 8):  # eight at a time, the surplus overwritten: see `write_places`
        for index in range(first, first + 8):
            edge = written + count_trailing_zeros(ideographs)
            edges[n_edges + 2 * index] = edge
            edges[n_edges + 2 * index + 1] = edge + 3
            ideographs &= ideographs - np.uint64(1)
    return n_bytes, n_edges + 2 * n_new


@compiled
def decode(text, place):
    """Read a code point of two to four bytes; returns it and their number."""
    first = np.int64(text[place])
    second = np.int64(text[place + 1] & 0x3F)
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = np.int64(text[place + 2] & 0x3F)
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    return (first & 0x07) << 18 | second << 12 | third << 6 | np.int64(text[place + 3] & 0x3F), 4


@compiled
def encode(code, target, place):
    """Write a code point in UTF-8; returns the place behind it."""
    if code < 0x80:
        target[place] = code
        return place + 1
    if code < 0x800:
        target[place] = 0xC0 | code >> 6
        target[place + 1] = 0x80 | code & 0x3F
        return place + 2
    if code < 0x10000:
        target[place] = 0xE0 | code >> 12
        target[place + 1] = 0x80 | code >> 6 & 0x3F
        target[place + 2] = 0x80 | code & 0x3F
        return place + 3
    target[place] = 0xF0 | code >> 18
    target[place + 1] = 0x80 | code >> 12 & 0x3F
    target[place + 2] = 0x80 | code >> 6 & 0x3F
    target[place + 3] = 0x80 | code & 0x3F
    return place + 4
