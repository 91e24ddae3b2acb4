"""The shape of a model, and the sizes that have a name."""

import math
from dataclasses import dataclass

from dsllm.config import Settings, setting
from dsllm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """The shape of a transformer, checked when it is made.

    The rules: `n_kv_heads` divides `n_heads`; `head_dim` is even, since RoPE turns pairs of channels;
    `bos_id` and `eos_id` are rows of the vocabulary. `n_heads * head_dim` need not be `d_model`.
    """

    vocab_size: int = setting(help="Rows of the embedding.", min=1)
    n_layers: int = setting(help="Transformer blocks.", min=1)
    d_model: int = setting(help="Width of the residual stream.", min=1)
    d_ff: int = setting(help="Width inside the MLP.", min=1)
    n_heads: int = setting(help="Query heads.", min=1)
    n_kv_heads: int = setting(help="Key and value heads.", min=1)
    head_dim: int = setting(help="Width of one head.", min=2)
    seq_len: int = setting(4096, "Longest sequence.", unit="tokens", min=1)
    rope_theta: float = setting(10000.0, "Base of RoPE's wave lengths.", above=0)
    rms_norm_eps: float = setting(1e-6, "Added to the mean square in RMSNorm.", above=0)
    tie_embeddings: bool = setting(False, "Use the embedding as output projection too.")
    init_std: float = setting(0.006, "Standard deviation of the initial weights.", min=0)
    bos_id: int | None = setting(None, "Token that begins a document.", min=0)
    eos_id: int | None = setting(None, "Token that ends a document.", min=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"n_heads is {self.n_heads}, not a multiple of n_kv_heads, {self.n_kv_heads}",
                hint=f"try n_kv_heads {math.gcd(self.n_heads, self.n_kv_heads)}",
            )
        if self.head_dim % 2:
            raise ConfigError(
                f"head_dim is {self.head_dim}, but RoPE turns pairs of channels",
                hint=f"try head_dim {self.head_dim + 1}",
            )
        for name, token in (("bos_id", self.bos_id), ("eos_id", self.eos_id)):
            if token is not None and token >= self.vocab_size:
                raise ConfigError(
                    f"{name} is {token}, outside the vocabulary of {self.vocab_size}",
                    hint=f"give a vocab_size above {token}, or another {name}",
                )


def swiglu_width(d_model: int, multiple: int) -> int:
    """Round 8/3 of `d_model` up to a multiple: three matrices then cost what two of width 4 d_model do."""
    return math.ceil(8 * d_model / (3 * multiple)) * multiple


def _size(
    n_layers: int, d_model: int, head_dim: int, *, multiple: int, n_kv_heads: int | None = None
) -> ModelConfig:
    """Make a named size: `n_heads * head_dim` is `d_model`, and the vocabulary the released one."""
    n_heads = d_model // head_dim
    return ModelConfig(
        vocab_size=102400,
        n_layers=n_layers,
        d_model=d_model,
        d_ff=swiglu_width(d_model, multiple),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads or n_heads,
        head_dim=head_dim,
        bos_id=100000,
        eos_id=100001,
    )


# Named by the parameters of the blocks, about 12 * n_layers * d_model ** 2. "7b" and "67b" are as released;
# depth and width from "25m" to "64b" are those of the paper's table 3; the smaller ones are for CPUs.
MODEL_SIZES: dict[str, ModelConfig] = {
    "0.1m": _size(2, 64, 32, multiple=64),
    "0.3m": _size(3, 96, 32, multiple=64),
    "0.8m": _size(4, 128, 32, multiple=64),
    "2m": _size(5, 192, 32, multiple=64),
    "5m": _size(6, 256, 64, multiple=64),
    "14m": _size(8, 384, 64, multiple=64),
    "25m": _size(8, 512, 64, multiple=64),
    "85m": _size(12, 768, 64, multiple=64),
    "300m": _size(24, 1024, 64, multiple=256),
    "1.2b": _size(24, 2048, 128, multiple=256),
    "6.4b": _size(32, 4096, 128, multiple=256),
    "12.6b": _size(40, 5120, 128, multiple=256),
    "64b": _size(80, 8192, 128, multiple=256),
    "7b": _size(30, 4096, 128, multiple=256),
    "67b": _size(95, 8192, 128, multiple=256, n_kv_heads=8),
}


def named_size(name: str) -> ModelConfig:
    """Look up a size by its name: the shape with the released vocabulary, for `dataclasses.replace` to fit.

    Raises:
        ConfigError: no size of that name.
    """
    if name not in MODEL_SIZES:
        raise ConfigError(f"no model size is called {name!r}", hint=f"known sizes: {', '.join(MODEL_SIZES)}")
    return MODEL_SIZES[name]
