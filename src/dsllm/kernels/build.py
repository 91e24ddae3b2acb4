"""What to compile: a kernel with the types and constants of one launch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
    """

    name: str
    case: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any]
    options: Mapping[str, int]
    uses_tensor_cores: bool = False
