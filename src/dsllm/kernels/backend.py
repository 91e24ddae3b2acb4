"""Who computes: the Triton kernel or the formula."""

import functools
import importlib.util
from typing import Literal

from torch import Tensor

from dsllm.errors import ConfigError

Backend = Literal["auto", "torch", "triton"]


def takes_kernel(x: Tensor, backend: Backend) -> bool:
    """Say whether `backend` means the Triton kernel for a tensor like `x`.

    "auto" takes the kernel on CUDA and ROCm devices and the formula elsewhere.

    Raises:
        ConfigError: "triton" is asked for on a device that it cannot compile for.
    """
    if backend == "torch":
        return False
    if backend == "auto":
        return x.is_cuda and _has_triton()
    if not x.is_cuda and not is_interpreting():
        raise ConfigError(
            f"the backend is triton, but the tensors are on {x.device}",
            hint="leave the backend at auto, or start with TRITON_INTERPRET=1 to interpret the kernels",
        )
    return True


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def is_interpreting() -> bool:
    """Say whether kernels run in Triton's interpreter: TRITON_INTERPRET=1 when it was imported."""
    import triton

    return bool(triton.knobs.runtime.interpret)
