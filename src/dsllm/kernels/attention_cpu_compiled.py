"""The loops of `attention_cpu.py`, compiled: causal attention of one group of heads, forward and backward.

Queries lie side by side, 32 of them, and keys one below the other, so that a softmax goes down the columns
of a table of scores, for all its queries at once. A tile is 8 keys by 32 queries, or 8 rows by 16 or 32
channels. What lies beyond the last token is never looked at. Of the square of queries and keys only the tiles
are computed that some query sees. Sums are float32; of bf16, weights and gradients of scores are rounded
once.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.kernels.attention_rows_compiled import (
    Floats,
    Numbers,
    copy_rows,
    pair_rows,
    prefetch_next,
    put_rows,
    row_at,
    turn_rows,
)
from dsllm.kernels.exponential_compiled import exponential
from dsllm.kernels.share_compiled import part_of
from dsllm.text.compiled import compiled
from dsllm.text.vector_blocks import (
    count_lanes,
    multiply_add,
    put_block,
    put_pairs,
    take_block,
    where_less,
)
from dsllm.text.vector_floats import BLOCK, sum_of_products
from dsllm.text.vector_tiles import TILE_ROWS, multiply_tile_16, multiply_tile_32

Integers = NDArray[np.int64]

WIDTH = 32  # queries side by side
BLOCK_QUERIES = 64  # whose weights are held at a time going backward
_LOWEST, _LEAST = np.float32(-3e38), np.float32(-60)  # a score that is hidden; one that weighs 1e-26
_HIGHEST = np.float32(3e38)
_ZERO, _ONE = np.float32(0), np.float32(1)


@compiled
def attend_heads(
    share: Integers,
    q: Numbers,
    k: Numbers,
    v: Numbers,
    starts: Integers,
    scale: float,
    out: Numbers,
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
    n_padded, factor, n_together = _padded(seq_len), np.float32(scale), 4 // q.itemsize
    rows = np.zeros((2, n_padded, head_dim), k.dtype)
    keys, values = rows[0], rows[1]  # by index, so that numba knows how they lie
    queries = np.zeros((head_dim // n_together, n_together * WIDTH), q.dtype)
    scores = np.zeros((n_padded, WIDTH), np.float32)
    weights = np.zeros((n_padded, WIDTH), q.dtype)
    mixed = np.zeros((TILE_ROWS, head_dim), np.float32)
    facts = np.zeros((4, WIDTH), np.float32)
    most, totals, shares, firsts = facts[0], facts[1], facts[2], facts[3]
    first, last = part_of(share, batch * n_kv_heads)
    for number in range(first, last):
        row, kv_head = number // n_kv_heads, number % n_kv_heads
        own_starts = starts[min(row, len(starts) - 1)]
        copy_rows(k, row, kv_head, keys)
        pair_rows(v, row, 0, seq_len, kv_head, values)
        for head in range(kv_head * n_sharing, (kv_head + 1) * n_sharing):
            for begin in range(0, seq_len, WIDTH):
                end = min(begin + WIDTH, seq_len)
                low, high = _reach(own_starts, begin, end)
                turn_rows(q, row, begin, end, head, queries)
                prefetch_next(q, row, begin, end, head)
                _take_starts(own_starts, begin, end, firsts)
                for key in range(low, high, TILE_ROWS):
                    _score(keys, key, queries, scores, key - low)
                    _hide(scores, key - low, key, begin, end, firsts, own_starts)
                _find_most(scores, high - low, most)
                _soften(scores, high - low, factor, most, weights, totals, shares)
                for query in range(begin, end):
                    place = query - begin
                    sums[row, head, query] = most[place] * factor + np.log(totals[place])
                n, at = (high - low) // n_together, low // n_together * head_dim
                for query in range(begin, end, TILE_ROWS):
                    _multiply(weights, query - begin, 1, WIDTH, n, values, at, mixed, 0, 0)
                    put_rows(mixed, shares, query - begin, out, row, query, min(query + TILE_ROWS, end), head)


@compiled
def attend_heads_backward(
    share: Integers,
    q: Numbers,
    k: Numbers,
    v: Numbers,
    out: Numbers,
    dout: Numbers,
    starts: Integers,
    sums: Floats,
    scale: float,
    dq: Numbers,
    dk: Numbers,
    dv: Numbers,
) -> None:
    """Compute the gradients for one thread's part of all groups of heads: see `attend_heads`."""
    batch, seq_len, n_heads, head_dim = q.shape
    n_kv_heads = k.shape[2]
    n_sharing = n_heads // n_kv_heads
    n_padded, factor, n_together = _padded(seq_len), np.float32(scale), 4 // q.itemsize
    rows = np.zeros((3, n_padded, head_dim), q.dtype)
    keys, values, key_pairs = rows[0], rows[1], rows[2]
    query_rows = np.zeros((2, BLOCK_QUERIES, head_dim), q.dtype)
    turned = np.zeros((2, head_dim // n_together, n_together * WIDTH), q.dtype)
    # By keys, and of bf16 by two keys together too.
    n_tables = 1 + n_together
    tables = np.zeros((n_tables, n_padded, BLOCK_QUERIES), q.dtype)
    weights, dscores, dscore_pairs = tables[0], tables[1], tables[n_together]
    gradients = np.zeros((2, n_padded, head_dim), np.float32)
    dkeys, dvalues = gradients[0], gradients[1]
    tiles = np.zeros((2, TILE_ROWS, WIDTH), np.float32)
    mixed = np.zeros((TILE_ROWS, head_dim), np.float32)
    facts, firsts = np.zeros((2, BLOCK_QUERIES), np.float32), np.zeros(WIDTH, np.float32)
    scales, ones = np.full(n_padded, factor), np.full(n_padded, _ONE)
    first, last = part_of(share, batch * n_kv_heads)
    for number in range(first, last):
        row, kv_head = number // n_kv_heads, number % n_kv_heads
        own_starts = starts[min(row, len(starts) - 1)]
        copy_rows(k, row, kv_head, keys)
        copy_rows(v, row, kv_head, values)
        pair_rows(k, row, 0, seq_len, kv_head, key_pairs)
        gradients[:] = _ZERO
        for head in range(kv_head * n_sharing, (kv_head + 1) * n_sharing):
            for begin in range(0, seq_len, BLOCK_QUERIES):
                end = min(begin + BLOCK_QUERIES, seq_len)
                _take_queries(q, out, dout, sums, row, begin, end, head, query_rows, facts)
                block_low, block_high = _reach(own_starts, begin, end)
                for group in range(begin, end, WIDTH):
                    group_end, place = min(group + WIDTH, end), group - begin
                    low, high = _reach(own_starts, group, group_end)
                    turn_rows(q, row, group, group_end, head, turned[0])
                    turn_rows(dout, row, group, group_end, head, turned[1])
                    _take_starts(own_starts, group, group_end, firsts)
                    _clear(weights, dscores, block_low, low, place)
                    _clear(weights, dscores, high, block_high, place)
                    _find_gradients(
                        keys, values, turned, low, high, group, group_end, firsts, own_starts, factor, facts,
                        place, tiles, weights, dscores, dscore_pairs,
                    )  # fmt: skip
                    _put_query_gradients(
                        dscore_pairs, place, low, high, key_pairs, scales, mixed, dq, row, group, group_end,
                        head,
                    )  # fmt: skip
                _add_products(weights, begin, end, block_low, block_high, query_rows[1], dvalues)
                _add_products(dscores, begin, end, block_low, block_high, query_rows[0], dkeys)
        put_rows(dkeys, scales, 0, dk, row, 0, seq_len, kv_head)
        put_rows(dvalues, ones, 0, dv, row, 0, seq_len, kv_head)


@compiled
def _find_gradients(
    keys, values, turned, low, high, begin, end, firsts, starts, factor, facts, place, tiles, weights,
    dscores, pairs,
):  # fmt: skip
    """Make the weights of 32 queries for keys from `low` to `high` again, and the gradients of the scores."""
    for key in range(low, high, TILE_ROWS):
        _score(keys, key, turned[0], tiles[0], 0)
        _hide(tiles[0], 0, key, begin, end, firsts, starts)
        _score(values, key, turned[1], tiles[1], 0)
        _soften_backward(tiles, key, factor, facts, place, weights, dscores, pairs)


@compiled
def _put_query_gradients(dscores, place, low, high, keys, scales, mixed, dq, row, begin, end, head):
    """Multiply the gradients of scores, two keys together, by the keys, two and two together."""
    head_dim, n_together = keys.shape[1], 4 // keys.itemsize
    n, skipped = (high - low) // n_together, low // n_together
    for query in range(begin, end, TILE_ROWS):
        at = skipped * BLOCK_QUERIES + place + query - begin
        _multiply(dscores, at, 1, BLOCK_QUERIES, n, keys, skipped * head_dim, mixed, 0, 0)
        put_rows(mixed, scales, 0, dq, row, query, min(query + TILE_ROWS, end), head)


@compiled
def _add_products(table, begin, end, low, high, rows, out):
    """Add to the rows of keys from `low` to `high` the rows of the queries that see them, weighted."""
    head_dim, n_together = out.shape[1], 4 // table.itemsize
    for key in range(low, high, TILE_ROWS):
        skipped = max(begin, key) - begin  # queries that see none of the tile
        n = (end - begin - skipped + n_together - 1) // n_together
        if n > 0:
            at = (key * BLOCK_QUERIES + skipped) // n_together
            rows_at = skipped // n_together * head_dim
            _multiply(table, at, BLOCK_QUERIES // n_together, 1, n, rows, rows_at, out, key, 1)


@compiled
def _padded(n):
    return (n + WIDTH - 1) // WIDTH * WIDTH


@compiled
def _reach(starts, begin, end):
    """Give the first key of the tiles that queries from `begin` to `end` see, and the one behind the last."""
    return starts[begin] // TILE_ROWS * TILE_ROWS, (end + TILE_ROWS - 1) // TILE_ROWS * TILE_ROWS


@compiled
def _take_starts(starts, begin, end, firsts):
    firsts[:] = _ZERO
    for query in range(begin, end):
        firsts[query - begin] = np.float32(starts[query])


@compiled
def _take_queries(q, out, dout, sums, row, begin, end, head, rows, facts):
    """Take queries and gradients of their results, two and two together, and two numbers about each query.

    facts: the sum of its softmax, and what its gradients have in common; one beyond the end weighs nothing.
    """
    rows[:] = 0
    pair_rows(q, row, begin, end, head, rows[0])
    pair_rows(dout, row, begin, end, head, rows[1])
    for x in (q, out, dout):
        prefetch_next(x, row, begin, end, head)
    facts[0] = _HIGHEST
    facts[1] = _ZERO
    for query in range(begin, end):
        at = row_at(out, row, query, head)
        facts[0, query - begin] = sums[row, head, query]
        facts[1, query - begin] = sum_of_products(out, at, dout, at, out.shape[3] // BLOCK)


@compiled
def _clear(weights, dscores, begin, end, place):
    """Forget about keys from `begin` to `end`, which 32 queries from `place` on do not see."""
    for key in range(begin, end):
        for query in range(place, place + WIDTH):
            weights[key, query] = dscores[key, query] = 0


@compiled
def _score(rows, key, queries, scores, place):
    """Multiply 8 rows by 32 queries, into rows of `scores` from `place` on."""
    n, n_columns = len(queries), scores.shape[1]
    multiply_tile_32(rows, key * n, n, 1, n, queries, 0, WIDTH, scores, place * n_columns, n_columns, 0)


@compiled
def _multiply(a, at, row, step, n, b, b_at, out, place, is_sum):
    """Multiply 8 rows of `n` words of `a` by words of `b` from `b_at` on, into rows of `out`."""
    head_dim = out.shape[1]
    if head_dim % (2 * BLOCK) == 0:
        for channel in range(0, head_dim, 2 * BLOCK):
            multiply_tile_32(
                a, at, row, step, n, b, b_at + channel, head_dim,
                out, place * head_dim + channel, head_dim, is_sum,
            )  # fmt: skip
    else:
        for channel in range(0, head_dim, BLOCK):
            multiply_tile_16(
                a, at, row, step, n, b, b_at + channel, head_dim,
                out, place * head_dim + channel, head_dim, is_sum,
            )  # fmt: skip


@compiled
def _hide(scores, place, key, begin, end, firsts, starts):
    """Hide those of 8 keys, in rows of `scores` from `place` on, that queries from `begin` on do not see."""
    if key + TILE_ROWS <= begin and key >= starts[end - 1]:
        return
    for half in range(0, WIDTH, BLOCK):
        own_firsts = take_block(firsts, half)
        for row in range(TILE_ROWS):
            at = (place + row) * WIDTH + half
            own = take_block(scores, at)
            own = where_less(count_lanes(), np.float32(key + row - begin - half), _LOWEST, own)
            put_block(scores, at, where_less(np.float32(key + row), own_firsts, _LOWEST, own))


@compiled
def _find_most(scores, n, most):
    """Find each query's greatest score."""
    left = right = take_block(scores, 0) * _ZERO + _LOWEST
    for key in range(n):
        own_left, own_right = take_block(scores, key * WIDTH), take_block(scores, key * WIDTH + BLOCK)
        left, right = (
            where_less(left, own_left, own_left, left),
            where_less(right, own_right, own_right, right),
        )
    put_block(most, 0, left)
    put_block(most, BLOCK, right)


@compiled
def _soften(scores, n, factor, most, weights, totals, shares):
    """Turn scores of `n` keys into softmax's numerators, and add these up; `shares` are one over the sums."""
    for half in range(0, WIDTH, BLOCK):
        shift = take_block(most, half) * -factor
        total = shift * _ZERO
        for pair in range(n // 2):
            at = 2 * pair * WIDTH + half
            one = _weight(take_block(scores, at), factor, shift)
            two = _weight(take_block(scores, at + WIDTH), factor, shift)
            total = total + (one + two)
            put_pairs(weights, pair, WIDTH, half, one, two)
        put_block(totals, half, total)
        put_block(shares, half, _ONE / total)


@compiled
def _weight(scores, factor, shift):
    """Compute e**x, and nothing where it is too little to count: products with it stay normal numbers."""
    x = multiply_add(scores, factor, shift)
    return where_less(x, _LEAST, _ZERO, exponential(x))


@compiled
def _soften_backward(tiles, key, factor, facts, place, weights, dscores, dscore_pairs):
    """Make 8 keys' weights out of their scores, and the gradients of these out of those of the weights."""
    for half in range(0, WIDTH, BLOCK):
        column = place + half
        shift, delta = take_block(facts, column) * -_ONE, take_block(facts, BLOCK_QUERIES + column)
        for row in range(0, TILE_ROWS, 2):
            at, gradients_at = row * WIDTH + half, (TILE_ROWS + row) * WIDTH + half
            one = _weight(take_block(tiles, at), factor, shift)
            two = _weight(take_block(tiles, at + WIDTH), factor, shift)
            done = one * (take_block(tiles, gradients_at) - delta)
            dtwo = two * (take_block(tiles, gradients_at + WIDTH) - delta)
            own, following = (key + row) * BLOCK_QUERIES + column, (key + row + 1) * BLOCK_QUERIES + column
            put_block(weights, own, one)
            put_block(weights, following, two)
            put_block(dscores, own, done)
            put_block(dscores, following, dtwo)
            put_pairs(dscore_pairs, (key + row) // 2, BLOCK_QUERIES, column, done, dtwo)
