"""Keys and values of the tokens that a model has read, kept so that the next one need not read them again."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dsllm.model.config import ModelConfig


class KVCache:
    """Keys and values of a batch of sequences, aligned at their ends: shorter prompts are padded on the left.

    Args:
        config: the model's shape.
        n_padded: columns to ignore at the left of each row, int64, shape (batch,).
        n_columns: room, in tokens: padding, prompt and all that will be generated.
        dtype: of the keys and values.
    """

    def __init__(self, config: ModelConfig, n_padded: Tensor, n_columns: int, dtype: torch.dtype) -> None:
        shape = (config.n_layers, n_padded.shape[0], n_columns, config.n_kv_heads, config.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=n_padded.device)
        self.values = torch.zeros_like(self.keys)
        self.n_padded = n_padded
        self.n_filled = 0

    def positions(self, n_new: int) -> Tensor:
        """Give the positions (batch, n_new) of the next tokens in their documents; 0 on the padding."""
        return (self._next_columns(n_new) - self.n_padded[:, None]).clamp(min=0)

    def layer(self, index: int) -> "LayerCache":
        """Open one layer's part for the tokens that come next."""
        return LayerCache(self, index)

    def advance(self, n_new: int) -> None:
        """Count `n_new` tokens as read, once every layer has appended them."""
        self.n_filled += n_new

    def keep_rows(self, rows: Tensor) -> None:
        """Drop all sequences but `rows`, int64 indices."""
        self.keys, self.values = self.keys[:, rows], self.values[:, rows]
        self.n_padded = self.n_padded[rows]

    def visible(self, n_new: int) -> Tensor:
        """Say which columns the next tokens see: bool, (batch, n_new, n_filled + n_new).

        A token sees its sequence up to itself. Padding sees itself, so that no row of a softmax is empty.
        """
        column = torch.arange(self.n_filled + n_new, device=self.n_padded.device)
        query = self._next_columns(n_new)[0]
        is_past = column <= query[:, None]
        is_text = column >= self.n_padded[:, None, None]
        return (is_past & is_text) | (column == query[:, None])

    def _next_columns(self, n_new: int) -> Tensor:
        return torch.arange(self.n_filled, self.n_filled + n_new, device=self.n_padded.device)[None]


@dataclass(frozen=True)
class LayerCache:
    """One layer's part of a cache."""

    cache: KVCache
    index: int

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Write the new keys and values, shape (batch, n_new, n_kv_heads, head_dim), behind the others.

        Returns:
            All keys, all values, and which of them each new token sees.
        """
        begin, n_new = self.cache.n_filled, k.shape[1]
        end = begin + n_new
        keys, values = self.cache.keys[self.index], self.cache.values[self.index]
        keys[:, begin:end], values[:, begin:end] = k, v
        return keys[:, :end], values[:, :end], self.cache.visible(n_new)
