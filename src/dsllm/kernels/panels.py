"""A model that reads tokens into a paged cache, in fp32 on a CPU: weights in panels, and one call a step.

With few rows each operator waits for the memory, or costs more to call than to compute. Here each thread goes
through the whole model in one call. A panel holds the weights of 16 outputs, input by input, as the products
read them: once, however many rows there are. A row's results are the same bits whatever lies beside it and
however many threads there are. `decoder.py` does the same by torch's operators.
"""

import mmap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dsllm.kernels.threads import count_threads, run_threads

BLOCK = 16
MIN_THREAD_PRODUCTS = 1 << 22  # for each thread: what takes as long as to start one
SPARE = 4096  # numbers behind the last weight: what is fetched ahead


@dataclass(frozen=True)
class PanelShape:
    """What the loops must know of a model."""

    d_model: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    vocab_size: int
    eps: float


@dataclass(frozen=True)
class PanelLayer:
    """One block's weights, as a `Transformer` has them; the matrices are (n_outputs, n_inputs)."""

    input_gain: Tensor
    qkv: Sequence[Tensor]
    output: Tensor
    mlp_gain: Tensor
    gate: Tensor
    up: Tensor
    down: Tensor


@dataclass(frozen=True)
class NewRows:
    """The new tokens of one step.

    Attributes:
        tokens: text after text.
        reaches: the positions of each text's tokens.
        pages_of: each text's pages in order, enough for its tokens.
        turns: cosines and sines of the positions, fp32, shape (n_new, 2, head_dim / 2), contiguous.
        copies: for each page to be copied before it is read: from page, to page, tokens.
    """

    tokens: Sequence[int]
    reaches: Sequence[range]
    pages_of: Sequence[Sequence[int]]
    turns: Tensor
    copies: Sequence[tuple[int, int, int]]


def suits_panels(weight: Tensor, head_dim: int) -> bool:
    """Say whether a model can be read so by one of its weights, shape (n, d_model), and its heads."""
    fits = weight.shape[1] % BLOCK == 0 and head_dim % BLOCK == 0
    return fits and weight.device.type == "cpu" and weight.dtype == torch.float32


class Panels:
    """A model's weights in panels: a copy of all but the embedding.

    Args:
        shape: of the model.
        layers: its blocks.
        gain: of the last norm.
        output: the output projection, (vocab_size, d_model).
    """

    def __init__(self, shape: PanelShape, layers: Sequence[PanelLayer], gain: Tensor, output: Tensor) -> None:
        self.shape = shape
        parts = [_parts(layer) for layer in layers]
        parts.append([gain.detach(), [output], *[gain.new_empty(0)] * 5])
        self.d_ff = -(-layers[0].gate.shape[0] // BLOCK) * BLOCK
        sizes = [[_count(part) for part in layer] for layer in parts]
        places = np.cumsum([0, *(size for layer in sizes for size in layer)])
        self._places = np.ascontiguousarray(places[:-1].reshape(len(parts), -1))
        self._memory = _take_memory(4 * (int(places[-1]) + SPARE))
        self._weights = np.frombuffer(self._memory, np.float32)
        weights = torch.from_numpy(self._weights)
        for layer, begins in zip(parts, self._places.tolist(), strict=True):
            for part, begin in zip(layer, begins, strict=True):
                _fill(weights[begin : begin + _count(part)], part)

    def read(
        self, embedding: Tensor, rows: NewRows, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> Tensor:
        """Read new tokens into the cache.

        Args:
            embedding: shape (vocab_size, d_model).
            rows: the tokens.
            keys: each layer's cache, (n_pages, n_kv_heads, page_tokens, head_dim), contiguous and finite.
            values: the same.

        Returns:
            For each text the logits of the token after its last, shape (n_texts, vocab_size).
        """
        shape, n_new = self.shape, len(rows.tokens)
        lanes = next((lanes for lanes in (4, 8) if n_new <= lanes), BLOCK)
        n_blocks = -(-n_new // lanes)
        x = functional.embedding(torch.tensor(rows.tokens), embedding)
        x = functional.pad(x, (0, 0, 0, n_blocks * lanes - n_new))
        x = x.view(n_blocks, lanes, -1).transpose(1, 2).contiguous()  # (n_blocks, d_model, lanes)
        n_pages, _, page_tokens, _ = keys[0].shape
        lengths = [len(reach) for reach in rows.reaches]
        ends = np.concatenate([np.arange(reach.start, reach.stop) for reach in rows.reaches]) + 1
        widest = max(shape.d_model, self.d_ff, shape.n_heads * shape.head_dim)
        logits = np.empty((len(lengths), shape.vocab_size), np.float32)
        sizes = (shape.d_model, self.d_ff, shape.n_heads, shape.n_kv_heads, shape.head_dim)
        n_all = shape.n_heads + 2 * shape.n_kv_heads
        table = _table(rows, page_tokens)
        self._run(
            np.array([*sizes, shape.vocab_size, page_tokens, n_pages]),
            self._weights,
            self._places,
            np.array([[layer.data_ptr() for layer in cached] for cached in (keys, values)]),
            table,
            np.stack([np.repeat(np.arange(len(lengths)), lengths), ends]),
            np.cumsum(lengths) - 1,
            np.array(rows.copies, np.int64).reshape(-1, 3),
            rows.turns.numpy(),
            shape.eps,
            x.numpy(),
            np.zeros((2, n_blocks, widest, lanes), np.float32),
            np.empty((n_new, n_all, shape.head_dim), np.float32),
            logits,
            n_own=max(2 * BLOCK * lanes, shape.head_dim + table.shape[1] * page_tokens),
        )
        return torch.from_numpy(logits)

    def _run(self, *arguments: Any, n_own: int) -> None:
        """Let threads, this one among them, go through the model; the last of the arguments is the logits."""
        from dsllm.kernels.panels_compiled import read_rows

        *others, logits = arguments
        n_threads = count_threads(self._weights.size * len(logits), MIN_THREAD_PRODUCTS)
        meeting = np.zeros(1, np.int64)
        own_rooms = np.empty((n_threads, n_own), np.float32)  # all before the first thread starts

        def go(number: int) -> None:
            read_rows(*(np.array([number, n_threads]), meeting, *others, own_rooms[number], logits))

        run_threads(go, n_threads)


Part = Tensor | Sequence[Tensor]  # a gain, or matrices whose outputs lie side by side


def _parts(layer: PanelLayer) -> list[Part]:
    """List a layer's weights in the order of the loops."""
    matrices = ([layer.gate], [layer.up], [layer.down])
    return [layer.input_gain.detach(), layer.qkv, [layer.output], layer.mlp_gain.detach(), *matrices]


def _count(part: Part) -> int:
    if isinstance(part, Tensor):
        return part.numel()
    n_outputs, n_inputs = sum(len(weight) for weight in part), part[0].shape[1]
    return -(-n_outputs // BLOCK) * BLOCK * (-(-n_inputs // BLOCK) * BLOCK)


def _fill(target: Tensor, part: Part) -> None:
    """Write a part where the loops read it; numbers of inputs and outputs are filled up with zeros."""
    if isinstance(part, Tensor):
        target.copy_(part)
        return
    n_inputs = -(-part[0].shape[1] // BLOCK) * BLOCK
    panels = target.view(-1, n_inputs, BLOCK).transpose(1, 2)  # (n_panels, outputs, inputs)
    matrix = torch.cat([weight.detach() for weight in part])
    missing = panels.shape[0] * BLOCK - len(matrix)
    panels.copy_(functional.pad(matrix, (0, n_inputs - matrix.shape[1], 0, missing)).view(panels.shape))


def _take_memory(n_bytes: int) -> mmap.mmap:
    """Take memory in large pages, where the system has them: all of it is read in every step."""
    memory = mmap.mmap(-1, n_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _table(rows: NewRows, page_tokens: int) -> NDArray[np.int64]:
    """Give each text's pages in order, shape (n_texts, most pages of a text); the rest is 0."""
    n_pages = [-(-reach.stop // page_tokens) for reach in rows.reaches]
    table = np.zeros((len(n_pages), max(n_pages)), np.int64)
    for row, (pages, n) in enumerate(zip(rows.pages_of, n_pages, strict=True)):
        table[row, :n] = pages[:n]
    return table
