"""The transformer of the DeepSeek LLM paper: pre-norm blocks of grouped-query attention and SwiGLU.

Written for one device; it is cut over many from outside. Parameter names are Llama's own, so the weights load
elsewhere as they are.
"""

import hashlib
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsllm.kernels.attention import attention
from dsllm.kernels.backend import Backend
from dsllm.kernels.cross_entropy import cross_entropy
from dsllm.kernels.product import product, products
from dsllm.kernels.rms_norm import add_rms_norm, rms_norm
from dsllm.kernels.rope import rotate
from dsllm.kernels.swiglu import swiglu
from dsllm.model.config import ModelConfig
from dsllm.model.rope import rope_tables

Rope = tuple[Tensor, Tensor]


class Transformer(nn.Module):
    """A decoder-only language model.

    Its weights are NaN until `init_weights` or a checkpoint fills them, so that a forgotten one shows.

    Args:
        config: the shape.
        backend: who computes norms, rotation, attention, gates and losses, see `dsllm.kernels.backend`.

    Source: arXiv:2401.02954, section 2.2; Touvron et al. 2023, arXiv:2302.13971, section 2.2.
    """

    def __init__(self, config: ModelConfig, *, backend: Backend = "auto") -> None:
        super().__init__()
        self.config, self.backend = config, backend
        self.model = _Decoder(config, backend)
        if not config.tie_embeddings:
            self.lm_head = _Linear(config.d_model, config.vocab_size)

    @property
    def layers(self) -> Iterator["Block"]:
        """The blocks, first to last."""
        return cast(Iterator[Block], iter(self.model.layers.values()))

    @property
    def output_weight(self) -> Tensor:
        """The output projection, (vocab_size, d_model): the embedding itself where they are tied."""
        return self.model.embed_tokens.weight if self.config.tie_embeddings else self.lm_head.weight

    def forward(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> Tensor:
        """Compute logits (batch, seq_len, vocab_size) of the token after each one: arguments as `hidden`."""
        return self.project(self.hidden(tokens, positions=positions, document_ids=document_ids))

    def hidden(
        self,
        tokens: Tensor,
        *,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> Tensor:
        """Compute the activations after the final norm.

        Args:
            tokens: int64, shape (batch, seq_len).
            positions: of each token within its document, int64, shape (batch, seq_len) or (1, seq_len). None:
                each row counts from 0, whatever `document_ids` says; to RoPE only distances matter.
            document_ids: runs of equal numbers, shape (batch, seq_len), that attention stays within.

        Returns:
            Shape (batch, seq_len, d_model).
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)[None]
        rope = rope_tables(positions, self.config.head_dim, self.config.rope_theta)
        x = self.model.embed_tokens(tokens)
        for block in self.layers:
            x = block(x, rope, document_ids)
        return cast(Tensor, self.model.norm(x))

    def project(self, hidden: Tensor) -> Tensor:
        """Turn `hidden`'s result into logits, shape (..., vocab_size)."""
        return functional.linear(hidden, self.output_weight)

    def loss(
        self,
        tokens: Tensor,
        targets: Tensor,
        *,
        positions: Tensor | None = None,
        document_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Sum the cross-entropy of `targets` (batch, seq_len; -100 is ignored), never holding all the logits.

        Returns:
            The sum in nats, fp32, and the number of targets that counted.
        """
        hidden = self.hidden(tokens, positions=positions, document_ids=document_ids)
        return cross_entropy(hidden, self.output_weight, targets, backend=self.backend)

    def init_weights(self, seed: int) -> None:
        """Fill every parameter as training starts from: see `initial_weight`."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(initial_weight(name, parameter.shape, self.config.init_std, seed))


class Block(nn.Module):
    """One layer: attention, then MLP, each added to the stream that it reads through a norm."""

    def __init__(self, config: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config, backend)
        self.self_attn = Attention(config, backend)
        self.post_attention_layernorm = RMSNorm(config, backend)
        self.mlp = MLP(config, backend)

    def forward(self, x: Tensor, rope: Rope, document_ids: Tensor | None = None) -> Tensor:
        """Carry `x`, shape (batch, seq_len, d_model), one layer on."""
        mixed = self.self_attn(self.input_layernorm(x), rope, document_ids)
        normed, x = self.post_attention_layernorm(mixed, residual=x)
        return cast(Tensor, x + self.mlp(normed))


class Attention(nn.Module):
    """Causal self-attention whose query heads share fewer key and value heads."""

    def __init__(self, config: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self.head_dim, self.backend = config.head_dim, backend
        self.q_proj = _Linear(config.d_model, config.n_heads * config.head_dim)
        self.k_proj = _Linear(config.d_model, config.n_kv_heads * config.head_dim)
        self.v_proj = _Linear(config.d_model, config.n_kv_heads * config.head_dim)
        self.o_proj = _Linear(config.n_heads * config.head_dim, config.d_model)

    def forward(self, x: Tensor, rope: Rope, document_ids: Tensor | None = None) -> Tensor:
        """Mix the tokens of `x`, shape (batch, seq_len, d_model).

        The number of heads is read off the projections, which tensor parallelism may have cut.
        """
        projections = products(x, [self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        q, k, v = (  # (batch, seq_len, heads, head_dim)
            each.view(*x.shape[:-1], -1, self.head_dim) for each in projections
        )
        q, k = rotate(q, k, *rope, backend=self.backend)
        mixed = attention(q, k, v, document_ids=document_ids, backend=self.backend)
        return cast(Tensor, self.o_proj(mixed.flatten(2)))


class MLP(nn.Module):
    """SwiGLU between two projections."""

    def __init__(self, config: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self.backend = backend
        self.gate_proj = _Linear(config.d_model, config.d_ff)
        self.up_proj = _Linear(config.d_model, config.d_ff)
        self.down_proj = _Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of `x`, shape (batch, seq_len, d_model), by itself."""
        gate, up = products(x, [self.gate_proj.weight, self.up_proj.weight])
        return cast(Tensor, self.down_proj(swiglu(gate, up, backend=self.backend)))


class RMSNorm(nn.Module):
    """A learned gain over unit root-mean-square."""

    def __init__(self, config: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self.eps, self.backend = config.rms_norm_eps, backend
        self.weight = nn.Parameter(torch.ones(config.d_model))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Scale each row of `x`, shape (..., d_model); with a residual, of their sum, and return that too."""
        if residual is None:
            return rms_norm(x, self.weight, self.eps, backend=self.backend)
        return add_rms_norm(x, residual, self.weight, self.eps, backend=self.backend)


class _Decoder(nn.Module):
    """What Llama's parameter names call `model`. A dict of layers keeps the names if some are dropped."""

    def __init__(self, config: ModelConfig, backend: Backend) -> None:
        super().__init__()
        self.embed_tokens = _Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleDict({str(index): Block(config, backend) for index in range(config.n_layers)})
        self.norm = RMSNorm(config, backend)


class _Linear(nn.Linear):
    """A product without bias; NaN until filled."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs, bias=False)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, torch.nan)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply rows of `x`, shape (..., n_inputs)."""
        return product(x, self.weight)


class _Embedding(nn.Embedding):
    """A table of vectors; NaN until filled."""

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, torch.nan)


def initial_weight(name: str, shape: torch.Size, std: float, seed: int) -> Tensor:
    """Draw one parameter: gains of norms are 1, all else is normal with mean 0 and deviation `std`.

    The numbers depend on `seed` and on the parameter's name alone, so any rank can draw any part of a model.

    Source: arXiv:2401.02954, section 2.3 (0.006).
    """
    if name.endswith("norm.weight"):
        return torch.ones(shape)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
    return torch.empty(shape).normal_(std=std, generator=generator)
