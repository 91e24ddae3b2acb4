"""Causal attention with grouped queries, within documents: the formula, SDPA, and the Triton kernel."""

import math
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from dsllm.kernels.attention_cpu import attention_cpu, suits_loops
from dsllm.kernels.attention_launch import MAX_HEAD_DIM
from dsllm.kernels.backend import FP32, Backend, has_pair_products, takes_kernel, takes_loops

# Below this length a CPU is slower in bf16 than in fp32 with all casts: 3.2 times at 64 tokens, 1.2 at 256.
SHORT_ON_CPU = 512
# Plain products of blocks beat a CPU's fused operator in bf16, forward and backward, unless rows are short:
# 1.6 times at 512 tokens of 64 channels, 1.3 at 256 of 32. They keep weights, so lengths have a bound.
BLOCKS_ON_CPU, MIN_BLOCK_CHANNELS = range(128, 2049), 32


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, document_ids: Tensor | None = None, backend: Backend = "auto"
) -> Tensor:
    """Let every token look at itself and at the tokens before it in its document.

    Args:
        q: queries, shape (batch, seq_len, n_heads, head_dim), fp32, fp16 or bf16.
        k: keys, shape (batch, seq_len, n_kv_heads, head_dim), each read by n_heads / n_kv_heads query heads
            in a row.
        v: values, the shape of `k`.
        document_ids: integers, shape (batch, seq_len). A document is a run of equal numbers, and tokens see
            only their own; an id that returns after another is a new document. None: a row is one document.
        backend: "auto" takes the kernel on a GPU, for fp16 and bf16 and heads of up to 256 channels, compiled
            loops in training on a CPU, in bf16 if it has instructions for that, and torch's elsewhere.

    Returns:
        The shape and dtype of `q`.

    Raises:
        ValueError: shapes that do not fit each other.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 1; Ainslie et al. 2023, arXiv:2305.13245.
    """
    _check_shapes(q, k, v, document_ids)
    if takes_kernel(q, backend) and (backend == "triton" or _suits_kernel(q)):
        from dsllm.kernels.attention_triton import attention_triton

        return attention_triton(q, k, v, document_ids)
    dtypes = FP32 | {torch.bfloat16} if has_pair_products() else FP32
    if takes_loops(backend, q, k, v, dtypes=dtypes & {q.dtype}) and suits_loops(q):
        return attention_cpu(q, k, v, None if document_ids is None else document_starts(document_ids))
    return attention_torch(q, k, v, document_ids)


def attention_formula(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """Compute attention as written in the paper, in fp32 or wider: what all else is tested against."""
    wide = torch.promote_types(q.dtype, torch.float32)
    n_repeats = q.shape[2] // k.shape[2]
    queries = q.to(wide).transpose(1, 2)  # (batch, n_heads, seq_len, head_dim)
    keys, values = (x.to(wide).repeat_interleave(n_repeats, dim=2).transpose(1, 2) for x in (k, v))
    scores = queries @ keys.mT / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~visible(q.shape[1], document_ids, q.device), -math.inf).softmax(dim=-1)
    return (weights @ values).transpose(1, 2).to(q.dtype)


def attention_torch(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None = None) -> Tensor:
    """Compute attention by torch's fused operator, once a document: no mask and no wasted product.

    On a CPU some shapes go block by block in bf16 instead.
    """
    if _suits_blocks(q, document_ids):
        from dsllm.kernels.attention_blocks import attention_blocks

        return attention_blocks(q, k, v, None if document_ids is None else document_starts(document_ids))
    if document_ids is None:
        return _causal_sdpa(q, k, v)
    lengths = document_lengths(document_ids)
    if len(set(lengths)) == 1:  # documents of one length are a batch
        return _causal_sdpa(*(x.reshape(-1, lengths[0], *x.shape[2:]) for x in (q, k, v))).reshape(q.shape)
    parts = (torch.split(x.reshape(1, -1, *x.shape[2:]), lengths, dim=1) for x in (q, k, v))
    outputs = [_causal_sdpa(*part) for part in zip(*parts, strict=True)]
    return torch.cat(outputs, dim=1).view_as(q)


def cached_attention(q: Tensor, k: Tensor, v: Tensor, is_visible: Tensor) -> Tensor:
    """Let new tokens look at cached ones, as generation does.

    Args:
        q: queries of the new tokens, shape (batch, n_new, n_heads, head_dim).
        k: keys of all tokens so far, shape (batch, n_keys, n_kv_heads, head_dim).
        v: values, the shape of `k`.
        is_visible: which keys each query sees, bool, shape (batch, n_new, n_keys); at least one per query.

    Returns:
        The shape and dtype of `q`.
    """
    queries, keys, values = (x.transpose(1, 2) for x in (q, k, v))
    output = functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=is_visible[:, None], enable_gqa=q.shape[2] != k.shape[2]
    )
    return output.transpose(1, 2)


def visible(seq_len: int, document_ids: Tensor | None, device: torch.device) -> Tensor:
    """Say which keys (last dim) each query sees: bool, (seq_len, seq_len) or (batch, 1, seq_len, seq_len)."""
    column = torch.arange(seq_len, device=device)
    is_past = column[:, None] >= column
    if document_ids is None:
        return is_past
    return is_past & (column >= document_starts(document_ids)[:, None, :, None])


def document_starts(document_ids: Tensor) -> Tensor:
    """Find where each token's document begins: positions in the row, int64, (batch, seq_len)."""
    column = torch.arange(document_ids.shape[1], device=document_ids.device).expand(document_ids.shape)
    return torch.where(_is_start(document_ids), column, 0).cummax(dim=1).values


def document_ends(document_ids: Tensor) -> Tensor:
    """Find where each token's document ends, one past its last position: int64, (batch, seq_len)."""
    seq_len = document_ids.shape[1]
    return seq_len - document_starts(document_ids.flip(1)).flip(1)


def document_lengths(document_ids: Tensor) -> list[int]:
    """Measure the documents in tokens, row after row; their sum is batch * seq_len."""
    starts = _is_start(document_ids).flatten().nonzero().flatten()
    ends = torch.cat((starts[1:], starts.new_tensor([document_ids.numel()])))
    return [int(length) for length in (ends - starts).tolist()]


def _is_start(document_ids: Tensor) -> Tensor:
    is_start = torch.ones_like(document_ids, dtype=torch.bool)
    is_start[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return is_start


def _causal_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    queries, keys, values = (x.transpose(1, 2) for x in (q, k, v))
    is_slow = q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.shape[1] < SHORT_ON_CPU
    if is_slow:
        queries, keys, values = queries.float(), keys.float(), values.float()
    # Autocast would round the fp32 factors again.
    with torch.autocast(q.device.type, enabled=False) if is_slow else nullcontext():
        output = functional.scaled_dot_product_attention(
            queries, keys, values, is_causal=True, enable_gqa=q.shape[2] != k.shape[2]
        )
    return output.transpose(1, 2).to(q.dtype)


def _suits_kernel(q: Tensor) -> bool:
    return q.dtype in {torch.float16, torch.bfloat16} and q.shape[3] <= MAX_HEAD_DIM


def _suits_blocks(q: Tensor, document_ids: Tensor | None) -> bool:
    batch, seq_len, _, head_dim = q.shape
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return False
    if seq_len not in BLOCKS_ON_CPU or head_dim < MIN_BLOCK_CHANNELS:
        return False
    n_documents = batch if document_ids is None else int(_is_start(document_ids).sum())
    return batch * seq_len >= BLOCKS_ON_CPU.start * n_documents


def _check_shapes(q: Tensor, k: Tensor, v: Tensor, document_ids: Tensor | None) -> None:
    batch, seq_len, n_heads, head_dim = q.shape
    if k.shape != v.shape or k.shape[:2] != (batch, seq_len) or k.shape[3] != head_dim:
        raise ValueError(f"q is {tuple(q.shape)}, k is {tuple(k.shape)} and v is {tuple(v.shape)}")
    if n_heads % k.shape[2]:
        raise ValueError(f"{n_heads} query heads cannot share {k.shape[2]} key heads evenly")
    if document_ids is not None and document_ids.shape != (batch, seq_len):
        raise ValueError(f"document_ids is {tuple(document_ids.shape)}, not {(batch, seq_len)}")
