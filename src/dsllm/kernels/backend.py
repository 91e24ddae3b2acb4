"""Who computes: the Triton kernel, compiled loops on a CPU, or the formula."""

import functools
import importlib.util
from collections.abc import Iterable, Set
from typing import Literal

import torch
from torch import Tensor, nn

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


FP32 = frozenset({torch.float32})


def takes_loops(backend: Backend, *tensors: Tensor, dtypes: Set[torch.dtype] = FP32) -> bool:
    """Say whether `backend` means the compiled loops for plain tensors like these.

    "auto" does in training, on a CPU that computes 16 numbers at a time, as the loops are laid out.
    """
    return backend == "auto" and torch.is_grad_enabled() and can_loop(tensors, dtypes)


def can_loop(tensors: Iterable[Tensor], dtypes: Set[torch.dtype]) -> bool:
    """Say whether loops can run on tensors: plain ones, here, of these dtypes, not while torch compiles."""
    are_plain = all(
        type(x) in {Tensor, nn.Parameter} and x.dtype in dtypes and x.device.type == "cpu" for x in tensors
    )
    return are_plain and not torch.compiler.is_compiling() and has_wide_vectors()


def has_wide_vectors() -> bool:
    """Say whether this processor has 512-bit vectors, as torch sees it."""
    return torch.backends.cpu.get_cpu_capability() == "AVX512"


@functools.cache
def has_pair_products() -> bool:
    """Say whether this processor multiplies pairs of bf16, and has no tiles (AMX) for torch to use."""
    has = torch.cpu.get_capabilities()
    return bool(has.get("avx512_bf16")) and not has.get("amx_bf16")


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def is_interpreting() -> bool:
    """Say whether kernels run in Triton's interpreter: TRITON_INTERPRET=1 when it was imported."""
    import triton

    return bool(triton.knobs.runtime.interpret)
