"""The loops of `cached_rows.py`, compiled: norms, and attention over a paged cache, in fp32 on a CPU."""

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import compiled
from dsllm.text.vector_floats import GROUP, LANES, add_weighted_rows, multiply_rows, sum_products

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_ZERO, _ONE = np.float32(0), np.float32(1)
_LOWEST = np.float32(-87)  # below, the exponential is no normal number
_LOWEST_SCORE = np.float32(-3e38)
_LOG2_E = np.float32(1.4426950408889634)
_ROUNDER = np.float32(1.5 * 2**23)  # added and taken away again, it leaves an integer
# ln 2 in two parts, the first of few bits, so that its product with an integer is exact
_LN2_HIGH, _LN2_LOW = np.float32(0.693145751953125), np.float32(1.4286068203094172e-06)
_C2, _C3, _C4 = np.float32(1 / 2), np.float32(1 / 6), np.float32(1 / 24)
_C5, _C6, _C7 = np.float32(1 / 120), np.float32(1 / 720), np.float32(1 / 5040)


@compiled
def exponential(x):
    """Compute e**x for x <= 0: Taylor's series about the nearest multiple of ln 2, |r| <= 0.35, to r**7."""
    bounded = max(x, _LOWEST)
    n = bounded * _LOG2_E + _ROUNDER - _ROUNDER
    r = bounded - n * _LN2_HIGH - n * _LN2_LOW
    tail = _C3 + r * (_C4 + r * (_C5 + r * (_C6 + r * _C7)))
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return (_ONE + r + r * r * (_C2 + r * tail)) * power


@compiled
def norm_rows(x: Floats, gain: Floats, eps: float, out: Floats) -> None:
    """Write to `out` each row of `x`, (n_rows, d_model), over its root mean square, times `gain`."""
    n_rows, d_model = x.shape
    for row in range(n_rows):
        squares = sum_products(x, row * d_model, x, row * d_model, d_model // LANES)
        factor = np.float32(1 / np.sqrt(squares / np.float32(d_model) + np.float32(eps)))
        for channel in range(d_model):
            out[row, channel] = x[row, channel] * factor * gain[channel]


@compiled
def store_rows(
    heads: Floats,
    turns: Floats,
    keys: Floats,
    values: Floats,
    table: Integers,
    owners: Integers,
    ends: Integers,
) -> None:
    """Rotate each new token's queries and key where they are; store its key and value: see `attend_rows`.

    turns: (n_new, 2, head_dim), cosines and sines, both for the two halves, the first of the sines negative.
    """
    _, n_kv_heads, page_tokens, head_dim = keys.shape
    n_turned = heads.shape[1] - n_kv_heads
    for row in range(len(owners)):
        _turn(heads, row, n_turned, turns)
        newest = ends[row] - 1
        page, place = table[owners[row], newest // page_tokens], newest % page_tokens
        for head in range(n_kv_heads):
            for channel in range(head_dim):
                keys[page, head, place, channel] = heads[row, n_turned - n_kv_heads + head, channel]
                values[page, head, place, channel] = heads[row, n_turned + head, channel]


@compiled
def attend_rows(
    heads: Floats,
    keys: Floats,
    values: Floats,
    table: Integers,
    owners: Integers,
    ends: Integers,
    rows: Integers,
    scores: Floats,
    out: Floats,
) -> None:
    """Let each new token from `rows[0]` to before `rows[1]` look at its text up to itself.

    heads: (n_rows, n_heads + 2 n_kv_heads, head_dim), queries, keys, values.
    keys, values: a layer's cache, (n_pages, n_kv_heads, page_tokens, head_dim), the new tokens' included.
    table: pages of each text. owners: the text of each new token; ends: tokens up to and with it.
    scores: room for as many numbers as the pages of a text have tokens. out: (n_rows, n_heads, head_dim).
    """
    n_kv_heads = keys.shape[1]
    n_sharing = out.shape[1] // n_kv_heads
    for kv_head in range(n_kv_heads):  # rows inside: what they share stays near
        for row in range(rows[0], rows[1]):
            pages = table[owners[row]]
            for head in range(kv_head * n_sharing, (kv_head + 1) * n_sharing):
                where = (row, head, kv_head)
                total = _weigh(heads, keys, pages, ends[row], where, scores)
                _mix(values, pages, ends[row], where, scores, total, out)


@compiled
def _turn(heads, row, n_turned, turns):
    half = heads.shape[2] // 2
    for head in range(n_turned):
        for channel in range(half):
            first, second = heads[row, head, channel], heads[row, head, half + channel]
            cos, sin = turns[row, 0, half + channel], turns[row, 1, half + channel]
            heads[row, head, channel] = first * cos - second * sin
            heads[row, head, half + channel] = second * cos + first * sin


@compiled
def _weigh(heads, keys, pages, n_tokens, where, scores):
    """Write the softmax's numerators of one head, and zeros up to a whole group; return their sum."""
    row, head, kv_head = where
    _, n_kv_heads, page_tokens, head_dim = keys.shape
    query = (row * heads.shape[1] + head) * head_dim
    for begin in range(0, n_tokens, page_tokens):
        at = (pages[begin // page_tokens] * n_kv_heads + kv_head) * page_tokens * head_dim
        n_groups = (min(page_tokens, n_tokens - begin) + GROUP - 1) // GROUP
        multiply_rows(heads, query, keys, at, head_dim // LANES, n_groups, scores, begin)
    n_padded = (n_tokens + GROUP - 1) // GROUP * GROUP
    scores[n_tokens:n_padded] = _LOWEST_SCORE
    a = b = c = d = _LOWEST_SCORE
    for token in range(0, n_padded, GROUP):
        a, b = max(a, scores[token]), max(b, scores[token + 1])
        c, d = max(c, scores[token + 2]), max(d, scores[token + 3])
    most, scale = max(a, b, c, d), np.float32(1 / np.sqrt(head_dim))
    for token in range(n_padded):
        scores[token] = exponential((scores[token] - most) * scale)
    scores[n_tokens:n_padded] = _ZERO
    a = b = c = d = _ZERO
    for token in range(0, n_padded, GROUP):
        a, b = a + scores[token], b + scores[token + 1]
        c, d = c + scores[token + 2], d + scores[token + 3]
    return a + b + (c + d)


@compiled
def _mix(values, pages, n_tokens, where, scores, total, out):
    """Write the mean of the values of one head by their weights, which add up to `total`."""
    row, head, kv_head = where
    _, n_kv_heads, page_tokens, head_dim = values.shape
    out[row, head, :] = _ZERO
    own = (row * out.shape[1] + head) * head_dim
    for begin in range(0, n_tokens, page_tokens):
        at = (pages[begin // page_tokens] * n_kv_heads + kv_head) * page_tokens * head_dim
        n_groups = (min(page_tokens, n_tokens - begin) + GROUP - 1) // GROUP
        for channel in range(0, head_dim, LANES):
            add_weighted_rows(scores, begin, values, at + channel, head_dim, n_groups, out, own + channel)
    for channel in range(head_dim):
        out[row, head, channel] /= total
