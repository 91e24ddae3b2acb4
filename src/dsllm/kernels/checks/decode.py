"""Attention over a paged cache against its formula; it has no gradients."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from dsllm.kernels.backend import Backend
from dsllm.kernels.checks.measure import NAMES, UNITS, Check, random_tensors
from dsllm.kernels.decode_attention import decode_attention, decode_attention_formula, plan_pages

# As for attention: a hundred roundings in fp32; in bf16 those of the softmax's weights and at the store.
TOLERANCES = {torch.float32: 5e-6, torch.bfloat16: 2 * UNITS[torch.bfloat16]}


@dataclass(frozen=True)
class DecodeCase:
    """Heads, key heads, channels, tokens of a page; then each text's pages and tokens."""

    name: str
    shape: tuple[int, int, int, int]
    pages_of: list[list[int]]
    lengths: list[int]


DECODE_CASES = (
    DecodeCase("one text", (6, 2, 64, 32), [[0, 1, 2]], [70]),
    DecodeCase("several", (4, 4, 48, 16), [[2, 5], [0], [7, 1, 4]], [17, 1, 48]),
    DecodeCase("far apart", (9, 3, 64, 32), [[8, 2], [5]], [33, 32]),
    DecodeCase("shared by programs", (6, 2, 64, 32), [[*range(30, 0, -1)], [0]], [943, 5]),
    DecodeCase("shared", (4, 2, 16, 16), [[1, 3, 0], [1, 3, 2], [1, 4], [1, 3]], [40, 33, 20, 32]),
)


def check_decodes(dtype: torch.dtype, device: str) -> Iterator[Check]:
    """Check pages in and out of order, shared ones included."""
    for case in DECODE_CASES:
        yield check_decode_attention(case, dtype, device)


def check_decode_attention(
    case: DecodeCase, dtype: torch.dtype, device: str, *, backend: Backend = "triton"
) -> Check:
    """Check one cache."""
    n_heads, n_kv_heads, head_dim, page_tokens = case.shape
    cached = (1 + max(map(max, case.pages_of)), n_kv_heads, page_tokens, head_dim)
    q, keys, values = random_tensors([(len(case.lengths), n_heads, head_dim), cached, cached], dtype, device)
    plan = plan_pages(case.pages_of, case.lengths, page_tokens, q.device)
    actual = decode_attention(q, keys, values, plan, backend=backend).double()
    expected = decode_attention_formula(q.double(), keys.double(), values.double(), plan)
    error = float((actual - expected).abs().max() / expected.abs().max().clamp(min=1.0))
    shape = f"{n_heads} heads on {n_kv_heads}, {head_dim} channels, {NAMES[dtype]}, {case.name}"
    return Check("decode attention", shape, error, TOLERANCES[dtype], UNITS[dtype])
