"""Attention of training and of generation, for `gpu_kernels.py`."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from gpu_case import Case, Contender, Function, differentiable, draw, expected_of, is_installed
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from dsllm.kernels.attention import attention, attention_formula, document_lengths
from dsllm.kernels.decode_attention import decode_attention, decode_attention_formula, plan_pages

# batch, seq_len, n_heads, n_kv_heads, head_dim, mean length of documents (0: one a row)
SHAPES = [
    (4, 4096, 32, 32, 128, 0),
    (1, 16384, 32, 32, 128, 0),
    (4, 4096, 64, 8, 128, 0),
    (4, 4096, 32, 32, 128, 512),
    (4, 4096, 32, 32, 64, 0),
    (1, 16384, 32, 32, 64, 0),
]
DRY_SHAPES = [(1, 40, 2, 1, 16, 0), (1, 40, 2, 2, 16, 10)]
# batch, most tokens of a text, n_heads, n_kv_heads, head_dim
DECODE_SHAPES = [(64, 4096, 32, 32, 128), (64, 4096, 64, 8, 128), (4, 16384, 64, 8, 128)]
DRY_DECODE_SHAPES = [(3, 70, 4, 2, 16)]
PAGE_TOKENS = 32


def list_attention(device: str, *, is_dry: bool) -> Iterator[Case]:
    for batch, seq_len, n_heads, n_kv_heads, head_dim, mean in DRY_SHAPES if is_dry else SHAPES:
        heads = (n_heads, n_kv_heads, n_kv_heads, n_heads)
        *inputs, grad = (draw(index, (batch, seq_len, n, head_dim), device) for index, n in enumerate(heads))
        ids = None
        if mean:
            generator = torch.Generator().manual_seed(9)
            ids = (torch.rand(batch, seq_len, generator=generator) < 1 / mean).cumsum(dim=1).to(device)
        lengths = [seq_len] * batch if ids is None else document_lengths(ids)
        flops = 2 * n_heads * head_dim * sum(length * (length + 1) for length in lengths)
        cut = partial(cut_heads, n_shared=n_heads // n_kv_heads, n_heads=n_heads)
        formula = partial(attention_formula, document_ids=None if ids is None else ids[:1])
        functions = attention_functions(ids, lengths, is_dry=is_dry)
        n_query_bytes, n_key_bytes = 2 * inputs[0].numel(), 2 * inputs[1].numel()
        yield Case(
            "attention",
            f"{batch} x {seq_len}, {n_heads} on {n_kv_heads} x {head_dim}" + (", documents" if mean else ""),
            expected_of(formula, [cut(x) for x in inputs], [cut(grad)]),
            {name: differentiable(function, inputs, [grad], cut) for name, function in functions.items()},
            flops=(flops, 2.5 * flops),  # the backward pass needs 5 products, the forward pass 2
            n_bytes=(2 * n_query_bytes + 2 * n_key_bytes, 4 * n_query_bytes + 4 * n_key_bytes),
        )


def attention_functions(ids: Tensor | None, lengths: list[int], *, is_dry: bool) -> dict[str, Function]:
    functions: dict[str, Function] = {
        "dsllm": partial(attention, document_ids=ids, backend="torch" if is_dry else "triton")
    }
    if is_dry:
        return functions if ids is not None else functions | {"SDPA": partial(sdpa, backend=SDPBackend.MATH)}
    if ids is None:
        functions["SDPA, flash"] = partial(sdpa, backend=SDPBackend.FLASH_ATTENTION)
        functions["SDPA, cuDNN"] = partial(sdpa, backend=SDPBackend.CUDNN_ATTENTION)
    else:
        functions["FlexAttention"] = flex(ids)
    if is_installed("flash_attn"):
        from flash_attn import flash_attn_func, flash_attn_varlen_func

        ends = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()

        def packed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            flat = (x.flatten(0, 1) for x in (q, k, v))
            longest = max(lengths)
            return flash_attn_varlen_func(*flat, ends, ends, longest, longest, causal=True).view_as(q)

        functions["flash-attn"] = partial(flash_attn_func, causal=True) if ids is None else packed
    return functions


def sdpa(q: Tensor, k: Tensor, v: Tensor, *, backend: SDPBackend) -> Tensor:
    with sdpa_kernel(backend):
        return functional.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=q.shape[2] != k.shape[2]
        ).transpose(1, 2)


def flex(ids: Tensor) -> Function:
    """Attend within documents as torch's own compiled kernel does it."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def sees(batch: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (ids[batch, query] == ids[batch, key])

    mask = create_block_mask(sees, ids.shape[0], None, ids.shape[1], ids.shape[1], device=str(ids.device))
    compiled = torch.compile(flex_attention)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        return compiled(*heads_first, block_mask=mask).transpose(1, 2)

    return run


def cut_heads(x: Tensor, *, n_shared: int, n_heads: int) -> Tensor:
    """Keep the last key head of the first row, and the query heads that read it: heads do not mix."""
    return x[:1, :, -(n_shared if x.shape[2] == n_heads else 1) :]


def list_decode(device: str, *, is_dry: bool) -> Iterator[Case]:
    for batch, most_tokens, n_heads, n_kv_heads, head_dim in DRY_DECODE_SHAPES if is_dry else DECODE_SHAPES:
        lengths = [most_tokens - most_tokens // 4 * (row % 4) // 3 for row in range(batch)]
        n_pages = -(-most_tokens // PAGE_TOKENS)
        order = torch.randperm(batch * n_pages, generator=torch.Generator().manual_seed(3))
        pages_of = order.view(batch, n_pages).tolist()
        q = draw(0, (batch, n_heads, head_dim), device)
        shape = (batch * n_pages, n_kv_heads, PAGE_TOKENS, head_dim)
        keys, values = draw(1, shape, device), draw(2, shape, device)
        plan = plan_pages(pages_of, lengths, PAGE_TOKENS, torch.device(device))
        kernel = partial(decode_attention, q, keys, values, plan, backend="torch" if is_dry else "triton")
        contenders = {
            "dsllm": forward_only(kernel),
            "SDPA, not paged": forward_only(unpaged(q, keys, values, plan.table, lengths)),
        }
        yield Case(
            "decode attention",
            f"{batch} texts of up to {most_tokens}, {n_heads} on {n_kv_heads} x {head_dim}",
            lambda q=q, k=keys, v=values, plan=plan: [
                decode_attention_formula(q.double(), k.double(), v.double(), plan)
            ],
            contenders,
            n_bytes=(4.0 * sum(lengths) * n_kv_heads * head_dim + 4 * q.numel(), 0.0),
        )


def unpaged(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, lengths: list[int]
) -> Callable[[], Tensor]:
    """Attend by SDPA to keys that lie in a row, padded to the longest text, with a mask."""
    whole = [
        x[table.flatten()].unflatten(0, table.shape).transpose(1, 2).flatten(2, 3) for x in (keys, values)
    ]
    column = torch.arange(whole[0].shape[2], device=q.device)
    mask = column < torch.tensor(lengths, device=q.device)[:, None, None, None]
    is_grouped = q.shape[1] != keys.shape[1]
    return lambda: functional.scaled_dot_product_attention(
        q[:, :, None], *whole, attn_mask=mask, enable_gqa=is_grouped
    )[:, :, 0]


def forward_only(function: Callable[[], Tensor]) -> Contender:
    return Contender(lambda: [function()], lambda: function)
