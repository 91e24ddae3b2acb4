"""The loops of `attention_cpu.py`, compiled: causal attention of one group of heads, forward and backward.

A tile is 8 queries by 32 keys, or 8 rows by 16 or 32 channels. Rows are filled up to whole tiles; what lies
beyond the last token is never looked at. Of the square of queries and keys only the tiles are computed that
some query sees.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.kernels.exponential_compiled import exponential
from dsllm.kernels.share_compiled import part_of
from dsllm.text.compiled import compiled
from dsllm.text.vector import prefetch_byte
from dsllm.text.vector_floats import (
    BLOCK,
    TILE_ROWS,
    greatest_of,
    multiply_tile_16,
    multiply_tile_32,
    sum_of_products,
)

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

TILE_KEYS = 32
_AHEAD = 12  # tokens
BLOCK_QUERIES = 64  # whose weights are held at a time
_LOWEST, _LEAST = np.float32(-3e38), np.float32(-60)  # a score that is hidden; one that weighs 1e-26
_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def attend_heads(
    share: Integers,
    q: Floats,
    k: Floats,
    v: Floats,
    starts: Integers,
    scale: float,
    out: Floats,
    sums: Floats,
) -> None:
    """Compute attention for one thread's part of all groups of heads.

    share: this thread's number, and how many there are.
    q: (batch, seq_len, n_heads, head_dim). k, v: (batch, seq_len, n_kv_heads, head_dim).
    starts: the first position that each token sees, (batch or 1, seq_len).
    out: as `q`. sums: (batch, n_heads, seq_len), the logarithm of the sum of each softmax.
    """
    batch, seq_len, n_heads, head_dim = q.shape
    n_kv_heads = k.shape[2]
    n_sharing = n_heads // n_kv_heads
    n_padded, factor = _padded(seq_len), np.float32(scale)
    keys = np.zeros((head_dim, n_padded + BLOCK), np.float32)
    values = np.zeros((n_padded, head_dim), np.float32)
    queries, mixed = np.zeros((n_padded, head_dim), np.float32), np.empty((TILE_ROWS, head_dim), np.float32)
    totals = np.empty(TILE_ROWS, np.float32)
    weights, ones = np.empty((TILE_ROWS, n_padded + BLOCK), np.float32), np.ones(n_padded, np.float32)
    first, last = part_of(share, batch * n_kv_heads)
    for number in range(first, last):
        row, kv_head = number // n_kv_heads, number % n_kv_heads
        own_starts = starts[min(row, len(starts) - 1)]
        _turn_rows(k, row, kv_head, keys)
        _take_rows(v, row, kv_head, _ONE, values)
        for head in range(kv_head * n_sharing, (kv_head + 1) * n_sharing):
            _take_rows(q, row, head, factor, queries)
            for begin in range(0, seq_len, TILE_ROWS):
                end = min(begin + TILE_ROWS, seq_len)
                low, high = _reach(own_starts, begin, end)
                _score(queries, begin, keys, low, high, weights, 0)
                for query in range(begin, end):
                    most, totals[query - begin] = _soften(
                        weights, ones, query - begin, low, high, own_starts[query], query + 1
                    )
                    sums[row, head, query] = most + np.log(totals[query - begin])
                _multiply(weights, low, n_padded + BLOCK, 1, high - low, values, low, mixed, 0, 0)
                for query in range(begin, end):
                    for channel in range(head_dim):
                        mean = mixed[query - begin, channel] / totals[query - begin]
                        out[row, query, head, channel] = mean


@compiled
def attend_heads_backward(
    share: Integers,
    q: Floats,
    k: Floats,
    v: Floats,
    out: Floats,
    dout: Floats,
    starts: Integers,
    sums: Floats,
    scale: float,
    dq: Floats,
    dk: Floats,
    dv: Floats,
) -> None:
    """Compute the gradients for one thread's part of all groups of heads: see `attend_heads`."""
    batch, seq_len, n_heads, head_dim = q.shape
    n_kv_heads = k.shape[2]
    n_sharing = n_heads // n_kv_heads
    n_padded, factor = _padded(seq_len), np.float32(scale)
    width = n_padded + BLOCK
    turned = np.zeros((2, head_dim, width), np.float32)
    turned_keys, turned_values = turned[0], turned[1]  # by index, so that numba knows how they lie
    rows = np.zeros((5, n_padded, head_dim), np.float32)
    keys, queries, douts, dkeys, dvalues = rows[0], rows[1], rows[2], rows[3], rows[4]
    scores = np.zeros((2, BLOCK_QUERIES, width), np.float32)
    weights, dweights = scores[0], scores[1]
    mixed = np.empty((TILE_ROWS, head_dim), np.float32)
    first, last = part_of(share, batch * n_kv_heads)
    for number in range(first, last):
        row, kv_head = number // n_kv_heads, number % n_kv_heads
        own_starts = starts[min(row, len(starts) - 1)]
        _turn_rows(k, row, kv_head, turned_keys)
        _turn_rows(v, row, kv_head, turned_values)
        _take_rows(k, row, kv_head, _ONE, keys)
        dkeys[:] = _ZERO
        dvalues[:] = _ZERO
        for head in range(kv_head * n_sharing, (kv_head + 1) * n_sharing):
            _take_rows(q, row, head, factor, queries)
            _take_rows(dout, row, head, _ONE, douts)
            for begin in range(0, seq_len, BLOCK_QUERIES):
                block_end = min(begin + BLOCK_QUERIES, seq_len)
                block_low, block_high = _reach(own_starts, begin, block_end)
                for tile in range(begin, block_end, TILE_ROWS):
                    end, place = min(tile + TILE_ROWS, block_end), tile - begin
                    low, high = _reach(own_starts, tile, end)
                    weights[place : place + TILE_ROWS, block_low:low] = _ZERO  # of documents before
                    dweights[place : place + TILE_ROWS, block_low:low] = _ZERO
                    _score(queries, tile, turned_keys, low, high, weights, place)
                    _score(douts, tile, turned_values, low, high, dweights, place)
                    for query in range(tile, end):
                        _prefetch_row(out, row, query + _AHEAD, head)
                        at = ((row * seq_len + query) * n_heads + head) * head_dim
                        _soften_backward(
                            weights, dweights, query - begin, low, high, own_starts[query], query + 1,
                            sums[row, head, query], sum_of_products(out, at, dout, at, head_dim // BLOCK),
                        )  # fmt: skip
                    _multiply(dweights, place * width + low, width, 1, high - low, keys, low, mixed, 0, 0)
                    _put_rows(mixed, factor, dq, row, tile, end, head)
                for key in range(block_low, block_high, TILE_ROWS):
                    query = max(begin, key)
                    n, at = block_end - query, (query - begin) * width + key
                    if n > 0:
                        _multiply(weights, at, 1, width, n, douts, query, dvalues, key, 1)
                        _multiply(dweights, at, 1, width, n, queries, query, dkeys, key, 1)
        _put_rows(dkeys, _ONE, dk, row, 0, seq_len, kv_head)
        _put_rows(dvalues, _ONE, dv, row, 0, seq_len, kv_head)


@compiled
def _padded(n):
    return (n + TILE_KEYS - 1) // TILE_KEYS * TILE_KEYS


@compiled
def _take_rows(x, row, head, factor, rows):
    """Copy one head's rows, (seq_len, head_dim), times a factor."""
    for token in range(x.shape[1]):
        _prefetch_row(x, row, token + _AHEAD, head)
        for channel in range(x.shape[3]):
            rows[token, channel] = x[row, token, head, channel] * factor


@compiled
def _prefetch_row(x, row, token, head):
    """Begin to fetch one token's channels; the processor itself does not see such long strides coming."""
    _, seq_len, n_heads, head_dim = x.shape
    at = ((row * seq_len + token) * n_heads + head) * head_dim
    for channel in range(0, head_dim, BLOCK):
        prefetch_byte(x, 4 * (at + channel))


@compiled
def _put_rows(rows, factor, x, row, begin, end, head):
    """Write rows, times a factor, to one head's tokens from `begin` to `end`."""
    for token in range(begin, end):
        for channel in range(x.shape[3]):
            x[row, token, head, channel] = rows[token - begin, channel] * factor


@compiled
def _turn_rows(x, row, head, columns):
    """Copy one head's rows as columns, (head_dim, seq_len)."""
    for token in range(x.shape[1]):
        _prefetch_row(x, row, token + _AHEAD, head)
        for channel in range(x.shape[3]):
            columns[channel, token] = x[row, token, head, channel]


@compiled
def _reach(starts, begin, end):
    """Give the first key of the tiles that queries from `begin` to `end` see, and the one behind the last."""
    return starts[begin] // TILE_KEYS * TILE_KEYS, _padded(end)


@compiled
def _score(rows, begin, columns, low, high, scores, place):
    """Multiply 8 rows by the columns from `low` to `high`, into rows of `scores` from `place` on."""
    head_dim, n_padded = columns.shape
    for key in range(low, high, TILE_KEYS):
        multiply_tile_32(
            rows, begin * head_dim, head_dim, 1, head_dim, columns, key, n_padded,
            scores, place * n_padded + key, n_padded, 0,
        )  # fmt: skip


@compiled
def _multiply(a, at, row, step, n, b, first, out, place, is_sum):
    """Multiply 8 rows of `n` numbers of `a` by rows of `b` from `first` on, into rows of `out`."""
    head_dim = b.shape[1]
    if head_dim % (2 * BLOCK) == 0:
        for channel in range(0, head_dim, 2 * BLOCK):
            multiply_tile_32(
                a, at, row, step, n, b, first * head_dim + channel, head_dim,
                out, place * head_dim + channel, head_dim, is_sum,
            )  # fmt: skip
    else:
        for channel in range(0, head_dim, BLOCK):
            multiply_tile_16(
                a, at, row, step, n, b, first * head_dim + channel, head_dim,
                out, place * head_dim + channel, head_dim, is_sum,
            )  # fmt: skip


@compiled
def _soften(weights, ones, place, low, high, first, end):
    """Turn a row of scores, of which `first` to `end` count, into softmax's numerators.

    Returns the greatest score and the numerators' sum.
    """
    _hide(weights, place, low, high, first, end)
    at, n_blocks = place * weights.shape[1] + low, (high - low) // BLOCK
    most = greatest_of(weights, at, n_blocks)
    row = weights[place, low:high]
    for key in range(len(row)):
        row[key] = _weight(row[key] - most)
    return most, sum_of_products(weights, at, ones, 0, n_blocks)


@compiled
def _weight(x):
    """Compute e**x, and nothing where it is too little to count: products with it stay normal numbers."""
    return _ZERO if x < _LEAST else exponential(x)


@compiled
def _hide(scores, place, low, high, first, end):
    scores[place, low:first] = _LOWEST
    scores[place, end:high] = _LOWEST


@compiled
def _soften_backward(weights, dweights, place, low, high, first, end, total, delta):
    """Make the weights again out of their scores, and the gradients of the scores out of those of theirs."""
    _hide(weights, place, low, high, first, end)
    row, gradients = weights[place, low:high], dweights[place, low:high]
    for key in range(len(row)):
        weight = _weight(row[key] - total)
        row[key] = weight
        gradients[key] = weight * (gradients[key] - delta)
