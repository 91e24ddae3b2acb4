"""Every kernel against its formula in fp64, values and gradients: in Triton's interpreter, or on a GPU."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial

import torch

from dsllm.kernels.attention import attention, attention_formula
from dsllm.kernels.backend import Backend
from dsllm.kernels.checks.adamw import check_adamw
from dsllm.kernels.checks.blocks import check_norms, check_ropes, check_swiglus
from dsllm.kernels.checks.decode import check_decodes
from dsllm.kernels.checks.losses import check_linear_losses, check_losses_in_place
from dsllm.kernels.checks.measure import NAMES, UNITS, Check, random_tensors, worst_error
from dsllm.kernels.child import run_module

# Error allowed, relative to the largest number. fp32: a hundred roundings. bf16: two units, those of the
# softmax's weights before their product and of the result.
TOLERANCES = {torch.float32: 5e-6, torch.bfloat16: 2 * UNITS[torch.bfloat16]}
# batch, seq_len, n_heads, n_kv_heads, head_dim; then the lengths of each row's documents.
AttentionShape = tuple[int, int, int, int, int]
ATTENTION_SHAPES: tuple[tuple[AttentionShape, list[list[int]] | None], ...] = (
    ((2, 64, 2, 2, 64), None),
    ((1, 150, 4, 2, 64), None),
    ((1, 131, 3, 1, 48), None),
    ((1, 257, 1, 1, 128), None),
    ((1, 3, 1, 1, 8), None),
    ((2, 150, 2, 1, 32), [[70, 1, 79], [150]]),
)


def run(device: str = "cpu") -> list[Check]:
    """Check every kernel in a process of its own; "cpu" interprets, "cuda" compiles and runs on the GPU."""
    rows = run_module("dsllm.kernels.check", [device], interprets=device == "cpu")
    return [Check(**row) for row in rows]


def check_all(device: str) -> Iterator[Check]:
    """Check every kernel in this process, odd sizes and empty inputs included."""
    for dtype in UNITS:
        for cases in CASES:
            yield from cases(dtype, device)


def check_attentions(dtype: torch.dtype, device: str) -> Iterator[Check]:
    """Check attention, odd sizes, grouped heads and documents included."""
    for shape, document_lengths in ATTENTION_SHAPES:
        yield check_attention(shape, dtype, device, document_lengths=document_lengths)


def check_attention(
    shape: AttentionShape,
    dtype: torch.dtype,
    device: str,
    *,
    document_lengths: list[list[int]] | None = None,
    backend: Backend = "triton",
) -> Check:
    """Check attention: `shape` is batch, seq_len, n_heads, n_kv_heads, head_dim."""
    batch, seq_len, n_heads, n_kv_heads, head_dim = shape
    queries, keys = (batch, seq_len, n_heads, head_dim), (batch, seq_len, n_kv_heads, head_dim)
    q, k, v, dout = random_tensors([queries, keys, keys, queries], dtype, device)
    document_ids = None
    if document_lengths is not None:
        rows = [torch.repeat_interleave(torch.tensor(lengths)) for lengths in document_lengths]
        document_ids = torch.stack(rows).to(device)
    error = worst_error(
        partial(attention, document_ids=document_ids, backend=backend),
        partial(attention_formula, document_ids=document_ids),
        (q, k, v),
        dout,
    )
    case = f"{batch} x {seq_len}, {n_heads} heads on {n_kv_heads}, {head_dim} channels, {NAMES[dtype]}"
    if document_lengths is not None:
        case += ", documents"
    return Check("attention", case, error, TOLERANCES[dtype], UNITS[dtype])


# One function a kernel: the cases of a dtype on a device.
CASES = (
    check_norms,
    check_attentions,
    check_ropes,
    check_swiglus,
    check_losses_in_place,
    check_linear_losses,
    check_adamw,
    check_decodes,
)


def _main() -> None:
    json.dump([asdict(check) for check in check_all(sys.argv[1])], sys.stdout)


if __name__ == "__main__":
    _main()
