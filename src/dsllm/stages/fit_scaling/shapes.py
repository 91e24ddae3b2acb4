"""Model shapes for a ladder: depth and width that come close to a wanted model scale.

The paper does not list the shapes of its IsoFLOP models. The proportions here follow its table 3 and the
named sizes of `model.config`: width over depth is 16 in the smallest, 64 from a width of 512, 128 from 4096.
"""

import math
from collections.abc import Callable, Iterator
from functools import cache

from dsllm.model.config import ModelConfig, swiglu_width
from dsllm.model.flops import flops_per_token, paper_n1, paper_n2

Scale = Callable[[ModelConfig], float]

SCALES: dict[str, Scale] = {
    "6N1": lambda model: 6.0 * paper_n1(model),
    "6N2": lambda model: 6.0 * paper_n2(model),
    "M": lambda model: float(flops_per_token(model)),
}
"""How the paper says how large a model is, each in FLOPs per token (section 3.2)."""

_MAX_LAYERS = 128
_PROPORTION_WEIGHT = 0.05


def make_model(n_layers: int, d_model: int, vocab_size: int, seq_len: int) -> ModelConfig:
    """Make a dense model of this depth and width, its heads as the named sizes have them."""
    widest = 32 if d_model < 256 else 64 if d_model < 2048 else 128
    head_dim = next(
        (width for width in (128, 64, 32, 16) if width <= widest and d_model % width == 0), d_model
    )
    head_dim += head_dim % 2
    n_heads = max(1, d_model // head_dim)
    return ModelConfig(
        vocab_size=vocab_size,
        n_layers=n_layers,
        d_model=d_model,
        d_ff=swiglu_width(d_model, 64 if d_model < 1024 else 256),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        seq_len=seq_len,
    )


def find_shape(target: float, vocab_size: int, seq_len: int) -> ModelConfig:
    """Find the shape whose M comes closest to `target`, among such of good proportions.

    A factor of e in width over depth weighs as much as a deviation of 25 % in M.
    """

    def distance(shape: tuple[int, int]) -> float:
        n_layers, d_model = shape
        scale = 72 * n_layers * d_model**2 + 12 * n_layers * d_model * seq_len
        proportion = math.log(d_model / n_layers / _good_proportion(d_model))
        return math.log(scale / target) ** 2 + _PROPORTION_WEIGHT * proportion**2

    n_layers, d_model = min(_candidates(), key=distance)
    return make_model(n_layers, d_model, vocab_size, seq_len)


def _good_proportion(d_model: int) -> float:
    return (
        16
        if d_model <= 64
        else 64 * (d_model / 512) ** (2 / 3)
        if d_model < 512
        else 64
        if d_model < 4096
        else 128
    )


@cache
def _candidates() -> list[tuple[int, int]]:
    return [(n_layers, d_model) for d_model in _widths() for n_layers in range(1, _MAX_LAYERS + 1)]


def _widths() -> Iterator[int]:
    first = 8
    for step, end in ((8, 64), (16, 128), (32, 256), (64, 1024), (128, 16384)):
        yield from range(first, end, step)
        first = end
