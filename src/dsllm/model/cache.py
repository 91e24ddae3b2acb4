"""Keys and values of the tokens that a model has read, kept so that the next one need not read them again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dsllm.kernels.attention import attention, cached_attention
from dsllm.kernels.backend import Backend
from dsllm.model.config import ModelConfig

MIN_COLUMNS = 128  # room at first; it doubles when it is full


class KVCache:
    """Keys and values of a batch of sequences, aligned at their ends: shorter prompts are padded on the left.

    Args:
        config: the model's shape.
        n_padded: columns to ignore at the left of each row, int64, shape (batch,).
        dtype: of the keys and values.
    """

    def __init__(self, config: ModelConfig, n_padded: Tensor, dtype: torch.dtype) -> None:
        shape = (config.n_layers, n_padded.shape[0], 0, config.n_kv_heads, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=n_padded.device)
        self.values = torch.empty_like(self.keys)
        self.n_padded = n_padded
        self.n_filled = 0
        self.is_visible = torch.empty(0)

    def begin(self, n_new: int) -> Tensor:
        """Make room for the next `n_new` tokens; return their positions in their texts, 0 on padding."""
        n_needed, n_columns = self.n_filled + n_new, self.keys.shape[2]
        if n_needed > n_columns:
            self.keys, self.values = (
                torch.nn.functional.pad(
                    x, (0, 0, 0, 0, 0, max(n_needed, 2 * n_columns, MIN_COLUMNS) - n_columns)
                )
                for x in (self.keys, self.values)
            )
        column = torch.arange(n_needed, device=self.n_padded.device)
        new = column[self.n_filled :]
        is_text = column >= self.n_padded[:, None, None]
        self.is_visible = (column <= new[:, None]) & is_text  # (batch, n_new, n_needed)
        return (new - self.n_padded[:, None]).clamp(min=0)

    def layer(self, index: int) -> "LayerCache":
        """Open one layer's part for the tokens announced by `begin`."""
        return LayerCache(self, index)

    def end(self, n_new: int) -> None:
        """Count the new tokens as read, once every layer has appended them."""
        self.n_filled += n_new

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all sequences but `rows`, int64 indices."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.n_padded = self.n_padded[rows]


@dataclass(frozen=True)
class LayerCache:
    """One layer's part of a cache."""

    cache: KVCache
    index: int

    def attend(self, q: Tensor, k: Tensor, v: Tensor, backend: Backend) -> Tensor:
        """Append the new keys and values; let the new tokens look at all of their text so far.

        Args:
            q: queries of the new tokens, shape (batch, n_new, n_heads, head_dim).
            k: their keys, shape (batch, n_new, n_kv_heads, head_dim).
            v: their values, the shape of `k`.
            backend: as in `dsllm.kernels.attention`.

        Returns:
            The shape and dtype of `q`.
        """
        begin, n_new = self.cache.n_filled, k.shape[1]
        keys = self.cache.keys[self.index, :, : begin + n_new]
        values = self.cache.values[self.index, :, : begin + n_new]
        keys[:, begin:], values[:, begin:] = k, v
        if begin:
            return cached_attention(q, keys, values, self.cache.is_visible)
        column = torch.arange(n_new, device=k.device)
        return attention(q, k, v, document_ids=column >= self.cache.n_padded[:, None], backend=backend)
