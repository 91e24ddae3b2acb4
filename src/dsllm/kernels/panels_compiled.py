"""The loops of `panels.py`, compiled: a model reads tokens into a paged cache, in fp32 on a CPU.

Rows, one for each token, lie side by side in blocks of `lanes`: number c of row r of a block is at
c * lanes + r, so that the loops over channels go on all rows of a block at once. Queries, keys and values lie
row by row. Several threads run the same code, each on its part, and meet after each stage.
"""

import numpy as np
from numpy.typing import NDArray

from dsllm.kernels.exponential_compiled import exponential
from dsllm.kernels.share_compiled import part_of
from dsllm.text.compiled import compiled, compiled_apart
from dsllm.text.vector_floats import (
    BLOCK,
    GROUP,
    add_weighted_rows,
    floats_at,
    meet,
    multiply_panel_4,
    multiply_panel_8,
    multiply_panel_16,
    multiply_rows,
)

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

# A model's shape, and of its weights the places of one layer, behind the last layer those of the end.
N_SIZES = 8
_D_MODEL, _D_FF, _HEADS, _KV_HEADS, _HEAD_DIM, _VOCAB, _PAGE_TOKENS, _PAGES = range(N_SIZES)
N_PLACES = 7
_INPUT_GAIN, _QKV, _OUTPUT, _MLP_GAIN, _GATE, _UP, _DOWN = range(N_PLACES)

_NEAR_NUMBERS = 1 << 17
_ZERO, _ONE = np.float32(0), np.float32(1)
_LOWEST_SCORE = np.float32(-3e38)


@compiled
def read_rows(
    share: Integers,
    meeting: Integers,
    sizes: Integers,
    weights: Floats,
    places: Integers,
    cached: Integers,
    pages_of: Integers,
    rows: Integers,
    chosen: Integers,
    copies: Integers,
    turns: Floats,
    eps: float,
    x: Floats,
    room: Floats,
    heads: Floats,
    own_room: Floats,
    logits: Floats,
) -> None:
    """Carry rows through the model, do one thread's part of it: see `panels.py` for what is where.

    share: this thread's number, and how many there are.
    cached: addresses of each layer's keys and values, (2, n_layers).
    pages_of: pages of each text. rows: (2, n_new), the text of each row, and its tokens up to the row's end.
    chosen: the rows whose logits are wanted. copies: (n, 3), from page, to page, tokens.
    x: (n_blocks, d_model, lanes), overwritten. room: (2, n_blocks, widest, lanes). heads: (n_new, all heads,
    head_dim). own_room: of this thread alone. logits: (n_chosen, vocab_size).
    """
    d_model, d_ff, n_heads, n_kv_heads = sizes[_D_MODEL], sizes[_D_FF], sizes[_HEADS], sizes[_KV_HEADS]
    n_layers, head_dim, lanes, n_threads = len(places) - 1, sizes[_HEAD_DIM], x.shape[2], share[1]
    cache_shape = (sizes[_PAGES], n_kv_heads, sizes[_PAGE_TOKENS], head_dim)
    n_cached = sizes[_PAGES] * n_kv_heads * sizes[_PAGE_TOKENS] * head_dim
    n_mixed = n_heads * head_dim
    for layer in range(n_layers):
        place = places[layer]
        keys = floats_at(cached[0, layer], n_cached).reshape(cache_shape)
        values = floats_at(cached[1, layer], n_cached).reshape(cache_shape)
        _norm(share, x, len(x), d_model, weights, place[_INPUT_GAIN], eps, room[0])
        _wait(meeting, n_threads)
        n_channels = n_mixed + 2 * n_kv_heads * head_dim
        _project(
            share, weights, place[_QKV], room[0], d_model, heads.reshape(len(heads), n_channels), own_room
        )
        _wait(meeting, n_threads)
        _store(share, heads, turns, keys, values, pages_of, rows)
        _wait(meeting, n_threads)
        if len(copies):
            if share[0] == 0:
                for source, target, n in copies:
                    keys[target, :, :n] = keys[source, :, :n]
                    values[target, :, :n] = values[source, :, :n]
            _wait(meeting, n_threads)
        _attend(share, heads, keys, values, pages_of, rows, own_room, room[1])
        _wait(meeting, n_threads)
        _add_product(share, weights, place[_OUTPUT], room[1], n_mixed, x, own_room)
        _wait(meeting, n_threads)
        _norm(share, x, len(x), d_model, weights, place[_MLP_GAIN], eps, room[0])
        _wait(meeting, n_threads)
        _gate(share, weights, place, room[0], d_model, d_ff, room[1], own_room)
        _wait(meeting, n_threads)
        _add_product(share, weights, place[_DOWN], room[1], d_ff, x, own_room)
        _wait(meeting, n_threads)
    if share[0] == 0:
        _choose(x, chosen, lanes, room[1])
    _wait(meeting, n_threads)
    n_blocks = (len(chosen) + lanes - 1) // lanes
    _norm(share, room[1], n_blocks, d_model, weights, places[n_layers, _INPUT_GAIN], eps, room[0])
    _wait(meeting, n_threads)
    _project(share, weights, places[n_layers, _QKV], room[0], d_model, logits, own_room)


@compiled
def _wait(meeting, n_threads):
    if n_threads > 1:
        meet(meeting, n_threads)


@compiled
def _near(n_inputs, lanes):
    """Say how many blocks of rows stay in the second cache while all panels pass."""
    return max(1, _NEAR_NUMBERS // (n_inputs * lanes))


@compiled
def _multiply(weights, at, x, block, n_inputs, out, out_at):
    """Multiply a panel by a block of rows of `x`."""
    _, n_channels, lanes = x.shape
    x_at = block * n_channels * lanes
    if lanes == 16:
        multiply_panel_16(weights, at, x, x_at, n_inputs, out, out_at)
    elif lanes == 8:
        multiply_panel_8(weights, at, x, x_at, n_inputs, out, out_at)
    else:
        multiply_panel_4(weights, at, x, x_at, n_inputs, out, out_at)


@compiled
def _norm(share, x, n_blocks, d_model, weights, gain_at, eps, out):
    """Norm each row, see `rms_norm`."""
    lanes = x.shape[2]
    first, last = part_of(share, n_blocks)
    for block in range(first, last):
        factors = np.zeros(16, np.float32)
        for channel in range(d_model):
            for lane in range(lanes):
                factors[lane] += x[block, channel, lane] * x[block, channel, lane]
        for lane in range(lanes):
            factors[lane] = np.float32(1 / np.sqrt(factors[lane] / np.float32(d_model) + np.float32(eps)))
        for channel in range(d_model):
            gain = weights[gain_at + channel]
            for lane in range(lanes):
                out[block, channel, lane] = x[block, channel, lane] * factors[lane] * gain


@compiled_apart
def _project(share, weights, at, x, n_inputs, out, own_room):
    """Multiply all rows by a matrix; write the results row by row, (n_rows, n_columns)."""
    n_rows, n_columns = out.shape
    lanes = x.shape[2]
    first, last = part_of(share, (n_columns + BLOCK - 1) // BLOCK)
    n_blocks, n_near = (n_rows + lanes - 1) // lanes, _near(n_inputs, lanes)
    for near in range(0, n_blocks, n_near):
        for panel in range(first, last):
            begin = panel * BLOCK
            for block in range(near, min(near + n_near, n_blocks)):
                _multiply(weights, at + begin * n_inputs, x, block, n_inputs, own_room, 0)
                for row in range(block * lanes, min(block * lanes + lanes, n_rows)):
                    for column in range(begin, min(begin + BLOCK, n_columns)):
                        out[row, column] = own_room[(column - begin) * lanes + row - block * lanes]


@compiled_apart
def _add_product(share, weights, at, x, n_inputs, out, own_room):
    """Multiply all rows by a matrix, and add the results to `out`."""
    n_blocks, n_columns, lanes = out.shape
    first, last = part_of(share, n_columns // BLOCK)
    n_near = _near(n_inputs, lanes)
    for near in range(0, n_blocks, n_near):
        for panel in range(first, last):
            for block in range(near, min(near + n_near, n_blocks)):
                _multiply(weights, at + panel * BLOCK * n_inputs, x, block, n_inputs, own_room, 0)
                for column in range(BLOCK):
                    for lane in range(lanes):
                        out[block, panel * BLOCK + column, lane] += own_room[column * lanes + lane]


@compiled_apart
def _gate(share, weights, place, x, d_model, d_ff, out, own_room):
    """Compute silu(x gate) * (x up)."""
    n_blocks, _, lanes = x.shape
    first, last = part_of(share, d_ff // BLOCK)
    size, n_near = BLOCK * lanes, _near(d_model, lanes)
    for near in range(0, n_blocks, n_near):
        for panel in range(first, last):
            at = panel * BLOCK * d_model
            for block in range(near, min(near + n_near, n_blocks)):
                _multiply(weights, place[_GATE] + at, x, block, d_model, own_room, 0)
                _multiply(weights, place[_UP] + at, x, block, d_model, own_room, size)
                _open(own_room, size)
                for column in range(BLOCK):
                    for lane in range(lanes):
                        out[block, panel * BLOCK + column, lane] = own_room[column * lanes + lane]


@compiled
def _open(own_room, size):
    """Let numbers through by as many gates before them, where the results are written."""
    for number in range(size):
        gate = own_room[number]
        power = exponential(-abs(gate))
        opened = gate * (_ONE if gate >= 0 else power) / (_ONE + power)
        own_room[number] = opened * own_room[size + number]


@compiled
def _choose(x, chosen, lanes, out):
    """Copy the rows that are wanted at the end."""
    for place in range(len(chosen)):
        row = chosen[place]
        for channel in range(x.shape[1]):
            out[place // lanes, channel, place % lanes] = x[row // lanes, channel, row % lanes]


@compiled
def _store(share, heads, turns, keys, values, pages_of, rows):
    """Rotate each row's queries and keys; store its keys and values."""
    n_rows, n_all, head_dim = heads.shape
    n_kv_heads, page_tokens = keys.shape[1:3]
    n_turned = n_all - n_kv_heads
    first, last = part_of(share, n_rows)
    for row in range(first, last):
        _turn(heads, row, n_turned, turns)
        newest = rows[1, row] - 1
        page, place = pages_of[rows[0, row], newest // page_tokens], newest % page_tokens
        for head in range(n_kv_heads):
            for channel in range(head_dim):
                keys[page, head, place, channel] = heads[row, n_turned - n_kv_heads + head, channel]
                values[page, head, place, channel] = heads[row, n_turned + head, channel]


@compiled
def _turn(heads, row, n_turned, turns):
    half = heads.shape[2] // 2
    for head in range(n_turned):
        for channel in range(half):
            first, second = heads[row, head, channel], heads[row, head, half + channel]
            cos, sin = turns[row, 0, channel], turns[row, 1, channel]
            heads[row, head, channel] = first * cos - second * sin
            heads[row, head, half + channel] = second * cos + first * sin


@compiled_apart
def _attend(share, heads, keys, values, pages_of, rows, own_room, out):
    """Let each row look at its text up to itself."""
    n_rows, n_all, head_dim = heads.shape
    n_kv_heads, lanes = keys.shape[1], out.shape[2]
    n_sharing = n_all // n_kv_heads - 2
    first, last = part_of(share, n_rows * n_kv_heads)
    for number in range(first, last):  # heads inside: a page of all of them lies together
        row, kv_head = number // n_kv_heads, number % n_kv_heads
        pages, n_tokens = pages_of[rows[0, row]], rows[1, row]
        for head in range(kv_head * n_sharing, (kv_head + 1) * n_sharing):
            where = (row, head, kv_head)
            total = _weigh(heads, keys, pages, n_tokens, where, own_room[head_dim:])
            _mix(values, pages, n_tokens, kv_head, own_room)
            for channel in range(head_dim):
                mixed = own_room[channel] / total
                out[row // lanes, head * head_dim + channel, row % lanes] = mixed


@compiled
def _weigh(heads, keys, pages, n_tokens, where, scores):
    """Write the softmax's numerators of one head, and zeros up to a whole group; return their sum."""
    row, head, kv_head = where
    _, n_kv_heads, page_tokens, head_dim = keys.shape
    query = (row * heads.shape[1] + head) * head_dim
    for begin in range(0, n_tokens, page_tokens):
        at = (pages[begin // page_tokens] * n_kv_heads + kv_head) * page_tokens * head_dim
        n_groups = (min(page_tokens, n_tokens - begin) + GROUP - 1) // GROUP
        multiply_rows(heads, query, keys, at, head_dim // BLOCK, n_groups, scores, begin)
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
def _mix(values, pages, n_tokens, kv_head, own_room):
    """Add up the values of one head by their weights, which lie behind the sums."""
    _, n_kv_heads, page_tokens, head_dim = values.shape
    own_room[:head_dim] = _ZERO
    for begin in range(0, n_tokens, page_tokens):
        at = (pages[begin // page_tokens] * n_kv_heads + kv_head) * page_tokens * head_dim
        n_groups = (min(page_tokens, n_tokens - begin) + GROUP - 1) // GROUP
        for channel in range(0, head_dim, BLOCK):
            weights_at = head_dim + begin
            add_weighted_rows(
                own_room, weights_at, values, at + channel, head_dim, n_groups, own_room, channel
            )
