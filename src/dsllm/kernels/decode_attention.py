"""Attention of each text's newest token to all of that text, kept in pages: formula, torch path, kernel."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dsllm.kernels.backend import Backend, takes_kernel

NEVER = -1e30  # a score that no token has
DENSE_ENOUGH = 0.75  # of the first pages of a cache: then none of them is copied


@dataclass(frozen=True)
class SharedPages:
    """Full pages that several texts read: `pages` (n_pages,) and the texts' `rows` (n_rows,), both int64."""

    pages: Tensor
    rows: Tensor


@dataclass(frozen=True)
class PagePlan:
    """Which text reads which pages in one step: made once, used by every layer.

    Every page that a text reads is a pair: first the pages with one reader, then each group of shared pages,
    page by page. In the softmax a text's pages lie side by side: each has a place among `width`, of which the
    last is empty.

    Attributes:
        table: pages of each text in order, int32, shape (batch, most pages of a text); the rest is 0.
        lengths: tokens of each text, its newest included, int32, shape (batch,).
        pages: int64, those with one reader, in rising order; None: the cache's first ones, one after another,
            and where nobody reads one of them its pair has the first text's empty place.
        shared: pages with several readers; one group for each set of readers.
        rows: the reader of each pair, int64, shape (n_pairs,).
        n_alone: pairs of pages with one reader.
        pair_at: the pair of each place, int64, shape (batch * width,).
        place_of: the place of each pair, int64, shape (n_pairs,).
        mask: what is added to the scores at the places, 0 or `NEVER`, fp32, (batch, 1, width * page_tokens).
    """

    table: Tensor
    lengths: Tensor
    pages: Tensor | None
    shared: tuple[SharedPages, ...]
    rows: Tensor
    n_alone: int
    pair_at: Tensor
    place_of: Tensor
    mask: Tensor


def plan_pages(
    pages_of: Sequence[Sequence[int]], lengths: Sequence[int], page_tokens: int, device: torch.device
) -> PagePlan:
    """Plan one step.

    Args:
        pages_of: each text's pages in order, enough for its tokens. Pages of several texts are full.
        lengths: each text's tokens, one or more.
        page_tokens: tokens of a page.
        device: of the cache.
    """
    used = [list(pages[: -(-n // page_tokens)]) for pages, n in zip(pages_of, lengths, strict=True)]
    width = max(map(len, used)) + 1
    readers_of: dict[int, dict[int, int]] = {}  # by page: its readers' places
    for row, pages in enumerate(used):
        for place, page in enumerate(pages):
            readers_of.setdefault(page, {})[row] = row * width + place
    groups: dict[tuple[int, ...], list[int]] = {}
    for page, readers in readers_of.items():
        groups.setdefault(tuple(readers), []).append(page)
    several = [(pages, rows) for rows, pages in groups.items() if len(rows) > 1]
    alone = sorted(page for rows, pages in groups.items() if len(rows) == 1 for page in pages)
    is_dense = bool(alone) and len(alone) >= DENSE_ENOUGH * (alone[-1] + 1)
    if is_dense:
        alone = list(range(alone[-1] + 1))
    nobody = {0: width - 1}
    pairs: list[tuple[int, int]] = []  # reader and place
    for page in alone:
        readers = readers_of.get(page, nobody)
        pairs += readers.items() if len(readers) == 1 else nobody.items()
    pairs += [(row, readers_of[page][row]) for pages, rows in several for page in pages for row in rows]
    pair_at = [0] * (len(used) * width)
    for pair, (_, place) in enumerate(pairs):
        pair_at[place] = pair
    column = torch.arange(width * page_tokens)
    is_inside = column < torch.tensor(lengths)[:, None, None]
    table = torch.tensor([pages + [0] * (width - 1 - len(pages)) for pages in used], dtype=torch.int32)
    return PagePlan(
        table=table.to(device),
        lengths=torch.tensor(lengths, dtype=torch.int32).to(device),
        pages=None if is_dense else _ids(alone, device),
        shared=tuple(SharedPages(_ids(pages, device), _ids(rows, device)) for pages, rows in several),
        rows=_ids([row for row, _ in pairs], device),
        n_alone=len(alone),
        pair_at=_ids(pair_at, device),
        place_of=_ids([place for _, place in pairs], device),
        mask=torch.where(is_inside, 0.0, NEVER).to(device),
    )


def decode_attention(
    q: Tensor, keys: Tensor, values: Tensor, plan: PagePlan, *, backend: Backend = "auto"
) -> Tensor:
    """Let the newest token of each text look at itself and at all tokens before it.

    Args:
        q: queries, shape (batch, n_heads, head_dim), fp32, fp16 or bf16.
        keys: a layer's cache, shape (n_pages, n_kv_heads, page_tokens, head_dim), contiguous and finite
            everywhere; each key head is read by n_heads / n_kv_heads query heads in a row.
        values: the shape of `keys`.
        plan: which pages are whose.
        backend: "auto" takes the kernel on a GPU and `decode_attention_torch` elsewhere.

    Returns:
        The shape and dtype of `q`.

    Raises:
        ValueError: shapes that do not fit each other.

    Source: Kwon et al. 2023, arXiv:2309.06180, section 4.1, equation 4.
    """
    if keys.shape != values.shape or q.shape[2] != keys.shape[3] or q.shape[1] % keys.shape[1]:
        raise ValueError(f"q is {tuple(q.shape)}, keys {tuple(keys.shape)} and values {tuple(values.shape)}")
    if q.shape[0] != plan.table.shape[0]:
        raise ValueError(f"{q.shape[0]} queries, but a plan for {plan.table.shape[0]}")
    if takes_kernel(q, backend):
        from dsllm.kernels.decode_attention_triton import decode_attention_triton

        return decode_attention_triton(q, keys, values, plan.table, plan.lengths)
    return decode_attention_torch(q, keys, values, plan)


def decode_attention_formula(q: Tensor, keys: Tensor, values: Tensor, plan: PagePlan) -> Tensor:
    """Compute it text by text from the page table, in fp32 or wider: what all else is tested against."""
    wide = torch.promote_types(q.dtype, torch.float32)
    n_repeats = q.shape[1] // keys.shape[1]
    rows = []
    for query, pages, n_tokens in zip(q.to(wide), plan.table, plan.lengths.tolist(), strict=True):
        own_keys, own_values = (
            x[pages].to(wide).transpose(1, 2).flatten(0, 1)[:n_tokens].repeat_interleave(n_repeats, dim=1)
            for x in (keys, values)
        )  # (n_tokens, n_heads, head_dim)
        scores = torch.einsum("hd,thd->ht", query, own_keys) / math.sqrt(q.shape[-1])
        rows.append(torch.einsum("ht,thd->hd", scores.softmax(dim=-1), own_values))
    return torch.stack(rows).to(q.dtype)


def decode_attention_torch(q: Tensor, keys: Tensor, values: Tensor, plan: PagePlan) -> Tensor:
    """Compute it page by page where the pages lie, then add up each text's.

    Queries are brought to the pages, which are larger by their number of tokens: no key and no value is
    copied while most of the first pages are in use. What several texts share is read once.
    """
    batch, n_heads, head_dim = q.shape
    n_kv_heads, page_tokens = keys.shape[1:3]
    queries = (q.float() * head_dim**-0.5).view(batch, n_kv_heads, -1, head_dim)
    read = _pages_to_read(keys, values, plan)
    asked = [queries.index_select(0, plan.rows[: plan.n_alone])] if plan.n_alone else []
    asked += [_together(queries.index_select(0, group.rows)) for group in plan.shared]
    scores = [x @ own_keys.mT for x, (own_keys, _) in zip(asked, read, strict=True)]
    width = plan.mask.shape[2] // page_tokens
    at_places = _by_pair(scores, n_heads, plan).index_select(0, plan.pair_at).view(batch, width, n_heads, -1)
    weights = (at_places.transpose(1, 2).reshape(batch, n_heads, -1) + plan.mask).softmax(dim=-1)
    back = weights.view(batch, n_heads, width, page_tokens).transpose(1, 2).reshape(-1, n_heads, page_tokens)
    parts = _by_page(back.index_select(0, plan.place_of), n_kv_heads, plan)
    mixed = [x @ own_values for x, (_, own_values) in zip(parts, read, strict=True)]
    sums = torch.zeros(batch, n_heads, head_dim, device=q.device)
    sums.index_add_(0, plan.rows, _by_pair(mixed, n_heads, plan))
    return sums.to(q.dtype)


def _pages_to_read(keys: Tensor, values: Tensor, plan: PagePlan) -> list[tuple[Tensor, Tensor]]:
    """Collect keys and values, fp32: of the pages with one reader, then of each group."""
    read = []
    if plan.n_alone and plan.pages is None:
        read.append((keys[: plan.n_alone].float(), values[: plan.n_alone].float()))
    elif plan.pages is not None and plan.n_alone:
        read.append((keys.index_select(0, plan.pages).float(), values.index_select(0, plan.pages).float()))
    for group in plan.shared:
        read.append((keys.index_select(0, group.pages).float(), values.index_select(0, group.pages).float()))
    return read


def _together(queries: Tensor) -> Tensor:
    """Join the queries of a group, (n_rows, n_kv_heads, n, head_dim), that read the same pages."""
    return queries.transpose(0, 1).flatten(1, 2)[None]


def _by_pair(parts: Sequence[Tensor], n_heads: int, plan: PagePlan) -> Tensor:
    """Bring what each page gives, (n_pages, n_kv_heads, readers * n, m), to (n_pairs, n_heads, m)."""
    rows = []
    for place, x in enumerate(parts, start=0 if plan.n_alone else 1):
        if place:
            n_pages, n_kv_heads, _, n_wide = x.shape
            n_readers = plan.shared[place - 1].rows.numel()
            x = x.view(n_pages, n_kv_heads, n_readers, -1, n_wide).transpose(1, 2)  # noqa: PLW2901
        rows.append(x.reshape(-1, n_heads, x.shape[-1]))
    return rows[0] if len(rows) == 1 else torch.cat(rows)


def _by_page(pairs: Tensor, n_kv_heads: int, plan: PagePlan) -> list[Tensor]:
    """Undo `_by_pair`."""
    sizes = [group.pages.numel() * group.rows.numel() for group in plan.shared]
    by_head = pairs.view(pairs.shape[0], n_kv_heads, -1, pairs.shape[2])
    alone, *shared = torch.split(by_head, [plan.n_alone, *sizes])
    parts = [alone] if plan.n_alone else []
    for x, group in zip(shared, plan.shared, strict=True):
        by_page = x.view(group.pages.numel(), group.rows.numel(), *x.shape[1:])
        parts.append(by_page.transpose(1, 2).flatten(2, 3))
    return parts


def _ids(numbers: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(numbers, dtype=torch.int64).to(device)
