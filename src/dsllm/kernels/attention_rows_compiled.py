"""Rows of one head laid out as tiles of products want them: copied, turned, or two and two together.

Numbers are float32 or bf16, these as int16. A word is one float32, or two bf16 whose products are added up
together: two channels of one token, or one channel of two tokens.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.vector import prefetch_byte
from dsllm.text.vector_blocks import put_block, put_pairs, take_block
from dsllm.text.vector_floats import BLOCK
from dsllm.text.vector_tiles import copy_word, turn_tile

Floats = NDArray[np.float32]
Numbers = NDArray[np.float32] | NDArray[np.int16]

AHEAD = 32  # tokens


@compiled
def row_at(x, row, token, head):
    """Count the numbers before a token's channels in (batch, seq_len, n_heads, head_dim)."""
    _, seq_len, n_heads, head_dim = x.shape
    return ((row * seq_len + token) * n_heads + head) * head_dim


@compiled
def prefetch_next(x, row, begin, end, head):
    """Begin to fetch as many tokens as from `begin` to `end`: those behind, at a head's end the next one's.

    The processor itself does not see such long strides coming.
    """
    n_tokens, head_dim = x.shape[1], x.shape[3]
    for token in range(end, 2 * end - begin):
        is_beyond = token >= n_tokens
        at = row_at(x, row, token - n_tokens * is_beyond, head + is_beyond)
        for channel in range(0, head_dim, 2 * BLOCK):
            prefetch_byte(x, (at + channel) * x.itemsize)


@compiled
def copy_rows(x, row, head, rows):
    """Copy one head's rows, (seq_len, head_dim)."""
    head_dim = x.shape[3]
    for token in range(x.shape[1]):
        if token % AHEAD == 0:
            prefetch_next(x, row, token, token + AHEAD, head)
        at = row_at(x, row, token, head)
        for channel in range(0, head_dim, BLOCK):
            put_block(rows, token * head_dim + channel, take_block(x, at + channel))


@compiled
def pair_rows(x, row, begin, end, head, rows):
    """Copy one head's tokens, each two of them channel by channel together; a last one alone with zeros."""
    head_dim = x.shape[3]
    for token in range(begin, end, 2):
        has_other = token + 1 < end
        at, other_at = row_at(x, row, token, head), row_at(x, row, token + has_other, head)
        for channel in range(0, head_dim, BLOCK):
            other = take_block(x, other_at + channel) * np.float32(has_other)
            put_pairs(rows, (token - begin) // 2, head_dim, channel, take_block(x, at + channel), other)


@compiled
def turn_rows(x, row, begin, end, head, columns):
    """Copy one head's tokens as columns of words, (head_dim in words, width); further columns are zeros."""
    n_words, width = columns.shape[0], columns.shape[1] * x.itemsize // 4
    to_next = x.shape[2] * n_words
    at = row_at(x, row, begin, head) * x.itemsize // 4
    n_whole = (end - begin) // BLOCK * BLOCK
    if n_whole < width:
        for word in range(n_words):
            for number in range(columns.shape[1]):
                columns[word, number] = 0
    for first in range(0, n_whole, BLOCK):
        n_turned = n_words // BLOCK * BLOCK
        for word in range(0, n_turned, BLOCK):
            turn_tile(x, at + first * to_next + word, to_next, columns, word * width + first, width)
        _turn_words(x, at, to_next, first, first + BLOCK, n_turned, columns)
    _turn_words(x, at, to_next, n_whole, end - begin, 0, columns)


@compiled
def _turn_words(x, at, to_next, first, last, first_word, columns):
    """Do so word by word for tokens from `first` to `last`, from a word of each on."""
    n_words, width = columns.shape[0], columns.shape[1] * x.itemsize // 4
    for token in range(first, last):
        for word in range(first_word, n_words):
            copy_word(x, at + token * to_next + word, columns, word * width + token)


@compiled
def put_rows(rows, factors, first, x, row, begin, end, head):
    """Write float32 rows to one head's tokens from `begin` to `end`, each times a factor, from `first` on."""
    head_dim = x.shape[3]
    for token in range(begin, end):
        at, factor = row_at(x, row, token, head), factors[first + token - begin]
        for channel in range(0, head_dim, BLOCK):
            put_block(x, at + channel, take_block(rows, (token - begin) * head_dim + channel) * factor)
