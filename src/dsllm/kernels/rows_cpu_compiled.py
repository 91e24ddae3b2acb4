"""The loops of `rows_cpu.py`, compiled: each goes once over its rows, one thread's part of them."""

import numpy as np
from numpy.typing import NDArray

from dsllm.kernels.exponential_compiled import exponential
from dsllm.kernels.share_compiled import part_of
from dsllm.text.compiled import compiled
from dsllm.text.vector_floats import BLOCK, narrow, sum_of_products, widen

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Numbers = NDArray[np.float32] | NDArray[np.int16]  # the second are the bits of bf16

CHUNK_ROWS = 64  # whose gradients of a gain are added up together, whatever the number of threads
_ONE = np.float32(1)


@compiled
def norm_rows(
    share: Integers,
    x: Floats,
    residual: Floats,
    weight: Floats,
    eps: float,
    stream: Floats,
    out: Floats,
    factors: Floats,
) -> None:
    """Norm rows of `x`, (n, d_model), or of their sum with `residual`, if this has rows.

    stream: the sums, as `x`; without a residual, it has no rows. factors: (n,), what each row was scaled by.
    """
    n, d_model = x.shape
    first, last = part_of(share, n)
    has_residual = len(residual) > 0
    for row in range(first, last):
        own, target = x[row], out[row]
        if has_residual:
            own = stream[row]
            given, other = x[row], residual[row]
            for channel in range(len(own)):
                own[channel] = given[channel] + other[channel]
        mean = sum_of_products(own, 0, own, 0, d_model // BLOCK) / np.float32(d_model)
        factor = _ONE / np.sqrt(mean + np.float32(eps))
        factors[row] = factor
        for channel in range(len(own)):
            target[channel] = own[channel] * factor * weight[channel]


@compiled
def norm_rows_backward(
    share: Integers,
    dout: Floats,
    dstream: Floats,
    stream: Floats,
    weight: Floats,
    factors: Floats,
    dx: Floats,
    dweights: Floats,
) -> None:
    """Compute the gradients of `norm_rows`: of its rows, and of the weight for each chunk of rows.

    dstream: the gradient of the sums, or no rows. dweights: (n_chunks, d_model).
    """
    n, d_model = dout.shape
    scaled = np.empty(d_model, np.float32)
    first_chunk, last_chunk = part_of(share, len(dweights))
    for chunk in range(first_chunk, last_chunk):
        dweight = dweights[chunk]
        dweight[:] = np.float32(0)
        for row in range(chunk * CHUNK_ROWS, min(chunk * CHUNK_ROWS + CHUNK_ROWS, n)):
            given, own, target, factor = dout[row], stream[row], dx[row], factors[row]
            for channel in range(len(scaled)):
                scaled[channel] = given[channel] * weight[channel]
                dweight[channel] += given[channel] * own[channel] * factor
            shared = sum_of_products(scaled, 0, own, 0, d_model // BLOCK)
            shared *= factor * factor / np.float32(d_model)
            if len(dstream):
                other = dstream[row]
                for channel in range(len(scaled)):
                    target[channel] = other[channel] + factor * (scaled[channel] - own[channel] * shared)
            else:
                for channel in range(len(scaled)):
                    target[channel] = factor * (scaled[channel] - own[channel] * shared)


@compiled
def gate_rows(
    share: Integers,
    gate: Numbers,
    up: Numbers,
    out: Numbers,
) -> None:
    """Compute silu(gate) * up of numbers in a row, (n,), rounded once."""
    first, last = part_of(share, len(out))
    gates, ups, targets = gate[first:last], up[first:last], out[first:last]
    for place in range(len(targets)):
        wide = widen(gates[place])
        targets[place] = narrow(wide * _open(wide) * widen(ups[place]), targets[place])


@compiled
def gate_rows_backward(
    share: Integers,
    dout: Numbers,
    gate: Numbers,
    up: Numbers,
    dgate: Numbers,
    dup: Numbers,
) -> None:
    """Compute the gradients of `gate_rows`."""
    first, last = part_of(share, len(dout))
    given, gates, ups = dout[first:last], gate[first:last], up[first:last]
    dgates, dups = dgate[first:last], dup[first:last]
    for place in range(len(given)):
        dwide, dwide_up = _close(widen(given[place]), widen(gates[place]), widen(ups[place]))
        dgates[place], dups[place] = narrow(dwide, dgates[place]), narrow(dwide_up, dups[place])


@compiled
def _close(given, gate, up):
    """Compute the gradients of silu(gate) * up for both."""
    opened = _open(gate)
    passed = gate * opened
    return given * up * (opened + passed * (_ONE - opened)), given * passed


@compiled
def _open(x):
    """Compute the logistic function."""
    power = exponential(-abs(x))
    return (_ONE if x >= 0 else power) / (_ONE + power)


@compiled
def turn_rows(
    share: Integers,
    x: Numbers,
    cos: Floats,
    sin: Floats,
    sign: float,
    out: Numbers,
) -> None:
    """Rotate each head of tokens, (batch, seq_len, n_heads, head_dim), by `sign` times its angle.

    cos, sin: (batch or 1, seq_len, head_dim / 2).
    """
    batch, seq_len, n_heads, head_dim = x.shape
    half = head_dim // 2
    first, last = part_of(share, batch * seq_len)
    direction = np.float32(sign)
    for number in range(first, last):
        row, token = number // seq_len, number % seq_len
        cosines, sines = cos[min(row, len(cos) - 1), token], sin[min(row, len(sin) - 1), token]
        for head in range(n_heads):
            ones, twos = x[row, token, head, :half], x[row, token, head, half:]
            new_ones, new_twos = out[row, token, head, :half], out[row, token, head, half:]
            for channel in range(len(cosines)):
                one, two = widen(ones[channel]), widen(twos[channel])
                cosine, sine = cosines[channel], direction * sines[channel]
                new_ones[channel] = narrow(one * cosine - two * sine, new_ones[channel])
                new_twos[channel] = narrow(two * cosine + one * sine, new_twos[channel])
