"""Products with a model's weights, laid out once so that every later product is fast."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from dsllm.kernels.backend import Backend
from dsllm.kernels.swiglu import swiglu

# A CPU that multiplies one or two rows by a packed matrix takes longer than for four.
MIN_PACKED_ROWS = 4
MIN_PACKED_NUMBERS = 1 << 18  # in smaller matrices oneDNN spends more on each call than it gains
MAX_COPIED_BYTES = 8 << 30  # models up to this size have their weights in memory twice
PACKED_FOR_ROWS = 16  # the layout that is chosen for so many rows is the best or near it for all others


@dataclass(frozen=True)
class Product:
    """x times some matrices at once: their results lie side by side.

    Args:
        weights: as stored, each (n_outputs, n_inputs); or one in oneDNN's own layout.
        is_packed: the latter.
    """

    weights: tuple[Tensor, ...]
    is_packed: bool

    def __call__(self, x: Tensor) -> Tensor:
        """Multiply `x`, shape (n_rows, n_inputs): (n_rows, all outputs)."""
        if self.is_packed:
            return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, self.weights[0], None, "none", [], ""))
        if len(self.weights) == 1:
            return functional.linear(x, self.weights[0])
        return torch.cat([functional.linear(x, weight) for weight in self.weights], dim=-1)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Multiply, and add `other`, (n_rows, all outputs)."""
        if self.is_packed:
            return cast(
                Tensor,
                torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weights[0], None, "add"),
            )
        return self(x) + other


@dataclass(frozen=True)
class GatedProduct:
    """The first half of SwiGLU: silu(x gate) * (x up). `up` is None where `gate` holds both."""

    gate: Product
    up: Product | None

    def __call__(self, x: Tensor, backend: Backend) -> Tensor:
        """Compute it for `x`, shape (n_rows, d_model)."""
        if self.up is None:
            gate, up = self.gate(x).chunk(2, dim=-1)
            return swiglu(gate, up, backend=backend)
        packed = torch.ops.mkldnn._linear_pointwise
        opened = packed(x, self.gate.weights[0], None, "swish", [], "")
        return cast(Tensor, packed.binary(x, opened, self.up.weights[0], None, "mul"))


Layout = Literal["packed", "joined", "apart"]


def make_product(weights: Sequence[Tensor], layout: Layout) -> Product:
    """Prepare weights, each (n_outputs, n_inputs); all layouts but "apart" copy them."""
    kept = tuple(weight.detach() for weight in weights)
    if layout == "apart" or (layout == "joined" and len(kept) == 1):
        return Product(kept, is_packed=False)
    joined = kept[0] if len(kept) == 1 else torch.cat(kept)
    if layout == "joined":
        return Product((joined,), is_packed=False)
    packed = torch.ops.mkldnn._reorder_linear_weight(joined, PACKED_FOR_ROWS)
    return Product((packed,), is_packed=True)


def make_gated(gate: Tensor, up: Tensor, layout: Layout) -> GatedProduct:
    """Prepare the two matrices of a gated product, each (d_ff, d_model)."""
    if layout == "packed":
        return GatedProduct(make_product([gate], layout), make_product([up], layout))
    return GatedProduct(make_product([gate, up], layout), None)


def choose_layout(weights: Sequence[Tensor], n_common: int) -> Layout:
    """Choose how a model's weights are best laid out.

    Args:
        weights: all of them.
        n_common: numbers in one of its usual matrices.
    """
    n_bytes = sum(weight.numel() * weight.element_size() for weight in weights)
    if n_bytes > MAX_COPIED_BYTES:
        return "apart"
    return "packed" if n_common >= MIN_PACKED_NUMBERS and all(map(_can_pack, weights)) else "joined"


def _can_pack(weight: Tensor) -> bool:
    """Say whether oneDNN can lay out a matrix like this one."""
    is_known = weight.dtype in {torch.float32, torch.bfloat16}
    has_library = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
    return weight.device.type == "cpu" and is_known and has_library
