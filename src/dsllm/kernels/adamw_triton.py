# ruff: noqa: PLR0917 - a kernel takes its tensors one by one
# mypy: allow-incomplete-defs
"""AdamW as a Triton kernel: all tensors in one launch, each number read and written once.

A table holds the addresses of each item's tensors, another one its rates. The tensors are cut into chunks of
one length, and program n looks up in a list which chunk of which tensor is its own.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from dsllm.kernels.adamw import AdamWItem, Rates
from dsllm.kernels.build import Build
from dsllm.kernels.launch import warps_for
from dsllm.kernels.rounding_triton import round_as

CHUNK_NUMBERS = 2**16
BLOCK_NUMBERS = 1024
N_PER_THREAD = 8  # five tensors in, four out: enough under way
_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _update_block(
    weight_ptr, master_ptr, exp_avg_ptr, exp_avg_sq_ptr, grad_ptr, begin, n_numbers,
    factor, shrink, step_size, root_scale,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, HAS_MASTER: tl.constexpr,
    BLOCK: tl.constexpr, IS_WHOLE: tl.constexpr,
):  # fmt: skip
    place = begin + tl.arange(0, BLOCK)
    inside = None if IS_WHOLE else place < n_numbers  # without a mask, 16 bytes are loaded at a time
    grad = tl.load(grad_ptr + place, mask=inside).to(tl.float32) * factor
    exp_avg = tl.load(exp_avg_ptr + place, mask=inside)
    exp_avg_sq = tl.load(exp_avg_sq_ptr + place, mask=inside)
    exp_avg += (grad - exp_avg) * (1 - BETA1)
    exp_avg_sq = exp_avg_sq * BETA2 + grad * grad * (1 - BETA2)
    tl.store(exp_avg_ptr + place, exp_avg, mask=inside)
    tl.store(exp_avg_sq_ptr + place, exp_avg_sq, mask=inside)

    step = step_size * exp_avg / (tl.sqrt_rn(exp_avg_sq) * root_scale + EPS)
    if HAS_MASTER:
        master = tl.load(master_ptr + place, mask=inside) * shrink - step
        tl.store(master_ptr + place, master, mask=inside)
    else:
        master = tl.load(weight_ptr + place, mask=inside) * shrink - step
    tl.store(weight_ptr + place, round_as(master, weight_ptr), mask=inside)


@triton.jit
def _kernel(
    chunks_ptr, addresses_ptr, rates_ptr, factor_ptr,
    WEIGHT: tl.constexpr, GRAD: tl.constexpr, HAS_MASTER: tl.constexpr, BETA1: tl.constexpr,
    BETA2: tl.constexpr, EPS: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # chunks: (n_chunks, 2), item and first number. addresses: (n_items, 6), those of weight, master, exp_avg,
    # exp_avg_sq and grad, each a multiple of 16, and the number of numbers. rates: (n_items, 3), see `Rates`.
    # factor: one number, or None.
    item = tl.load(chunks_ptr + tl.program_id(0) * 2)
    chunk_begin = tl.multiple_of(tl.load(chunks_ptr + tl.program_id(0) * 2 + 1), 16)
    row = addresses_ptr + item * 6
    weight_ptr = tl.multiple_of(tl.load(row).to(tl.pointer_type(WEIGHT)), 16)
    master_ptr = tl.multiple_of(tl.load(row + 1).to(tl.pointer_type(tl.float32)), 16)
    exp_avg_ptr = tl.multiple_of(tl.load(row + 2).to(tl.pointer_type(tl.float32)), 16)
    exp_avg_sq_ptr = tl.multiple_of(tl.load(row + 3).to(tl.pointer_type(tl.float32)), 16)
    grad_ptr = tl.multiple_of(tl.load(row + 4).to(tl.pointer_type(GRAD)), 16)
    n_numbers = tl.load(row + 5)
    shrink = tl.load(rates_ptr + item * 3)
    step_size = tl.load(rates_ptr + item * 3 + 1)
    root_scale = tl.load(rates_ptr + item * 3 + 2)
    factor = 1.0
    if factor_ptr is not None:
        factor = tl.load(factor_ptr)

    chunk_end = tl.minimum(chunk_begin + CHUNK, n_numbers)
    whole_end = chunk_end - (chunk_end - chunk_begin) % BLOCK
    for begin in range(chunk_begin, whole_end, BLOCK):
        _update_block(
            weight_ptr, master_ptr, exp_avg_ptr, exp_avg_sq_ptr, grad_ptr, begin, n_numbers,
            factor, shrink, step_size, root_scale, BETA1, BETA2, EPS, HAS_MASTER, BLOCK, True,
        )  # fmt: skip
    if whole_end < chunk_end:
        _update_block(
            weight_ptr, master_ptr, exp_avg_ptr, exp_avg_sq_ptr, grad_ptr, whole_end, n_numbers,
            factor, shrink, step_size, root_scale, BETA1, BETA2, EPS, HAS_MASTER, BLOCK, False,
        )  # fmt: skip


def adamw_triton_(
    items: Sequence[AdamWItem], betas: tuple[float, float], eps: float, grad_factor: Tensor | None
) -> None:
    """Launch the kernel once for each combination of dtypes; the same contract as `adamw.adamw_`."""
    for (weight, grad, has_master), members in groupby(sorted(items, key=_sort_key), key=_kind):
        _launch(list(members), weight, grad, has_master, betas, eps, grad_factor)


def _launch(
    items: list[AdamWItem],
    weight: torch.dtype,
    grad: torch.dtype,
    has_master: bool,
    betas: tuple[float, float],
    eps: float,
    grad_factor: Tensor | None,
) -> None:
    device = items[0].weight.device
    addresses, rates = [], []
    for item in items:
        tensors = item.weight, item.target, item.exp_avg, item.exp_avg_sq, item.grad
        addresses.append([*(_address(x) for x in tensors), item.weight.numel()])
        numbers = Rates.of(item, betas)
        rates.append([numbers.shrink, numbers.step_size, numbers.root_scale])
    chunks = _chunks(tuple(item.weight.numel() for item in items), device)
    if not len(chunks):
        return
    _kernel[(len(chunks),)](
        chunks, torch.tensor(addresses, device=device),
        torch.tensor(rates, dtype=torch.float32, device=device), grad_factor,
        **_constants(weight, grad, has_master, betas, eps), **_options(),
    )  # fmt: skip
    for item in items:
        written = (item.weight, item.target, item.exp_avg, item.exp_avg_sq)
        torch.autograd.graph.increment_version(written)


@lru_cache(maxsize=8)
def _chunks(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """List the chunks of tensors of these lengths, (n_chunks, 2); kept, as every step has the same."""
    chunks = [
        (index, begin) for index, length in enumerate(lengths) for begin in range(0, length, CHUNK_NUMBERS)
    ]
    return torch.tensor(chunks, dtype=torch.int64, device=device)


def _kind(item: AdamWItem) -> tuple[torch.dtype, torch.dtype, bool]:
    return item.weight.dtype, item.grad.dtype, item.master is not None


def _sort_key(item: AdamWItem) -> str:
    return str(_kind(item))


def _address(x: Tensor) -> int:
    """Say where `x` lies."""
    address = x.data_ptr()
    if address % 16:
        raise ValueError(f"a tensor of shape {tuple(x.shape)} does not begin at a multiple of 16 bytes")
    return address


def _constants(
    weight: torch.dtype, grad: torch.dtype, has_master: bool, betas: tuple[float, float], eps: float
) -> dict[str, Any]:
    return {
        "WEIGHT": _TYPES[weight],
        "GRAD": _TYPES[grad],
        "HAS_MASTER": has_master,
        "BETA1": betas[0],
        "BETA2": betas[1],
        "EPS": eps,
        "CHUNK": CHUNK_NUMBERS,
        "BLOCK": BLOCK_NUMBERS,
    }


def _options(arch: str | None = None) -> dict[str, int]:
    return {"num_warps": warps_for(BLOCK_NUMBERS, N_PER_THREAD, arch)}


def builds(arch: str = "sm_90") -> list[Build]:
    """List what a model launches in bf16, and in fp32, for `dsllm.kernels.report`."""
    types = {"chunks_ptr": "*i64", "addresses_ptr": "*i64", "rates_ptr": "*fp32", "factor_ptr": "*fp32"}
    cases = {"bf16, fp32 master copies": torch.bfloat16, "fp32": torch.float32}
    return [
        Build(
            "adamw",
            case,
            _kernel,
            types,
            _constants(dtype, dtype, dtype != torch.float32, (0.9, 0.95), 1e-8),
            _options(arch),
        )
        for case, dtype in cases.items()
    ]
