"""What to compile: a kernel with the types and constants of one launch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Work:
    """What one launch of a kernel computes and moves to and from memory.

    Attributes:
        case: the size of the launch, in words.
        flops: floating-point operations of its products, or of its arithmetic where it has none.
        n_bytes: of all tensors it reads and writes, each once.
        tile_flops: operations of one turn of its inner loop in one program; None where there is no loop.
        tile_bytes: what that turn loads from memory.
    """

    case: str
    flops: int
    n_bytes: int
    tile_flops: int | None = None
    tile_bytes: int | None = None


@dataclass(frozen=True)
class Build:
    """One kernel as one shape of model launches it.

    Attributes:
        name: of the kernel, in words.
        case: the shape, in words.
        kernel: the function under `triton.jit`.
        types: Triton's name of each run-time argument's type: "*bf16", "i32", "i32:16" (a multiple of 16).
            May hold more than the kernel takes.
        constants: values of the `constexpr` arguments, likewise.
        options: the compiler's: `num_warps`, and `num_stages`, the blocks that loads run ahead.
        uses_tensor_cores: whether its machine code must hold tensor-core instructions.
        work: of one launch, for the bound by arithmetic and memory.
    """

    name: str
    case: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    options: Mapping[str, int]
    uses_tensor_cores: bool = False
    work: Work | None = None
