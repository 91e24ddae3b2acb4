"""SwiGLU: the gate of the MLP."""

from torch import Tensor
from torch.nn import functional


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Let `up` through by `gate`: silu(gate) * up.

    Args:
        gate: x times the gate's weights, shape (..., d_ff).
        up: x times the up-projection's weights, the same shape and dtype.

    Source: Shazeer 2020, arXiv:2002.05202, equation 6.
    """
    return functional.silu(gate) * up
