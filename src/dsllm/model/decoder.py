"""A model as generation reads it: plain products over rows of tokens from many texts at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dsllm.kernels.attention import attention, cached_attention
from dsllm.kernels.backend import Backend
from dsllm.kernels.decode_attention import PagePlan, decode_attention, plan_pages
from dsllm.kernels.panels import NewRows, PanelLayer, Panels, PanelShape, suits_panels
from dsllm.kernels.rms_norm import rms_norm
from dsllm.model.cache import PAGE_TOKENS, PagedCache
from dsllm.model.products import (
    MIN_PACKED_ROWS,
    GatedProduct,
    Layout,
    Product,
    choose_layout,
    make_gated,
    make_product,
)
from dsllm.model.rope import rope_tables
from dsllm.model.transformer import Block, Transformer

Pages = tuple[Tensor, Tensor]  # a layer's keys and values


@dataclass(frozen=True)
class Part:
    """What is new of one text: `tokens`, the first at position `n_cached`, its pages, and what to copy.

    Before anything is read, the keys and values of `n_copied` tokens from the beginning of page `copied_page`
    go to the page in which the new tokens begin.
    """

    tokens: Sequence[int]
    n_cached: int
    pages: Sequence[int]
    copied_page: int | None = None
    n_copied: int = 0


@dataclass(frozen=True)
class _Layer:
    """One block's weights."""

    input_gain: Tensor
    qkv: Product
    output: Product
    mlp_gain: Tensor
    gated: GatedProduct
    down: Product


@dataclass(frozen=True)
class _Segment:
    """Several new tokens of one text behind cached ones: rows `begin` to `end`, and the keys each sees."""

    begin: int
    end: int
    pages: Tensor
    is_visible: Tensor  # (1, end - begin, tokens of the text)


@dataclass(frozen=True)
class _Step:
    """Everything about one step that all layers share: `parts` as tensors.

    Rows are tokens: first those of the segments, then the single ones, then padding up to `n_rows`.
    """

    segments: tuple[_Segment, ...]
    document_ids: Tensor | None  # of the rows before `n_packed`, texts that begin here
    n_packed: int
    n_segmented: int
    n_tokens: int
    n_rows: int
    plan: PagePlan | None
    cos: Tensor  # (n_tokens, 1, head_dim), twice the half table
    sin: Tensor  # the same, its first half negative
    places: Tensor  # (n_tokens * n_kv_heads,) rows of the cache as (.., head_dim)
    copies: tuple[tuple[Tensor, Tensor], ...]  # such rows, from and to


class Decoder:
    """A model's weights, prepared for reading tokens into a cache.

    It keeps the weights as they are now: make another after training.

    Args:
        model: on its device.
    """

    def __init__(self, model: Transformer) -> None:
        self.config = model.config
        self.backend: Backend = model.backend
        layout = choose_layout(list(model.parameters()), self.config.d_model * self.config.d_ff)
        is_suited = self.backend == "auto" and suits_panels(model.output_weight, self.config.head_dim)
        self._panels = _make_panels(model) if layout != "apart" and is_suited else None
        if self._panels is not None:
            layout = "apart"
        self.embedding = model.model.embed_tokens.weight.detach()
        with torch.no_grad():
            self.layers = [_prepare(block, layout) for block in model.layers]
            self.output = make_product([model.output_weight], layout)
        self.gain = model.model.norm.weight.detach()
        self.min_rows = MIN_PACKED_ROWS if layout == "packed" else 1
        positions = torch.arange(self.config.seq_len, device=self.device)[None]
        cos, sin = rope_tables(positions, self.config.head_dim, self.config.rope_theta)
        self._cos, self._sin = torch.cat((cos, cos), -1)[0], torch.cat((-sin, sin), -1)[0]

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and so of the cache."""
        return self.embedding.dtype

    def make_cache(self, max_pages: int) -> PagedCache:
        """Make an empty cache."""
        return PagedCache(self.config, self.dtype, self.device, max_pages=max_pages)

    @torch.inference_mode()
    def read(self, parts: Sequence[Part], cache: PagedCache) -> Tensor:
        """Read each part's new tokens into the cache, in one pass and without padding to the longest.

        A text may begin with pages that another part of the same call fills.

        Returns:
            For each part the logits of the token after its last, fp32, shape (n_parts, vocab_size).
        """
        if self._panels is not None:
            return self._read_panels(self._panels, parts, cache)
        order = sorted(range(len(parts)), key=lambda index: _rank(parts[index]))
        ordered = [parts[index] for index in order]
        step = self._make_step(ordered, tuple(map(self._make_copy, _copying(parts))))
        tokens = [token for part in ordered for token in part.tokens]
        tokens += [0] * (step.n_rows - step.n_tokens)
        x = functional.embedding(torch.tensor(tokens, device=self.device), self.embedding)
        ends = torch.tensor([len(part.tokens) for part in ordered]).cumsum(0) - 1
        rows = torch.zeros(max(len(order), self.min_rows), dtype=torch.int64)
        rows[torch.tensor(order)] = ends
        rows = rows.to(self.device)
        cached = list(zip(cache.keys, cache.values, strict=True))
        for layer, pages in zip(self.layers[:-1], cached, strict=False):
            x = self._carry(x, layer, pages, step)
        x = self._carry(x, self.layers[-1], cached[-1], step, rows)
        hidden = rms_norm(x, self.gain, self.config.rms_norm_eps, backend=self.backend)
        return self.output(hidden)[: len(parts)].float()

    def _read_panels(self, panels: Panels, parts: Sequence[Part], cache: PagedCache) -> Tensor:
        """Do what `read` does by compiled loops."""
        reaches = [range(part.n_cached, part.n_cached + len(part.tokens)) for part in parts]
        position = torch.tensor([at for reach in reaches for at in reach])
        half = self.config.head_dim // 2
        rows = NewRows(
            tokens=[token for part in parts for token in part.tokens],
            reaches=reaches,
            pages_of=[part.pages for part in parts],
            turns=torch.cat((self._cos[position][..., half:], self._sin[position][..., half:]), dim=1),
            copies=[
                (part.copied_page, part.pages[part.n_cached // PAGE_TOKENS], part.n_copied)
                for part in parts
                if part.copied_page is not None
            ],
        )
        return panels.read(self.embedding, rows, cache.keys, cache.values)

    def _carry(
        self, x: Tensor, layer: _Layer, cached: Pages, step: _Step, rows: Tensor | None = None
    ) -> Tensor:
        """Carry the rows one layer on; of the last one only `rows` are wanted."""
        config, eps = self.config, self.config.rms_norm_eps
        n_turned = config.n_heads + config.n_kv_heads
        normed = rms_norm(x, layer.input_gain, eps, backend=self.backend)
        heads = layer.qkv(normed)[: step.n_tokens].view(step.n_tokens, -1, config.head_dim)
        turned = heads[:, :n_turned].float()
        turned = torch.addcmul(turned * step.cos, turned.roll(config.head_dim // 2, -1), step.sin)
        turned = turned.to(x.dtype)
        q, k, v = turned[:, : config.n_heads], turned[:, config.n_heads :], heads[:, n_turned:]
        for pages, new in zip(cached, (k, v), strict=True):
            flat = pages.view(-1, config.head_dim)
            flat.index_copy_(0, step.places, new.reshape(-1, config.head_dim))
            for source, target in step.copies:
                flat.index_copy_(0, target, flat.index_select(0, source))
        mixed = self._attend((q, k, v), cached, step).flatten(1)
        if rows is not None:
            mixed, x = mixed.index_select(0, rows), x.index_select(0, rows)
        elif step.n_rows > step.n_tokens:
            mixed = functional.pad(mixed, (0, 0, 0, step.n_rows - step.n_tokens))
        x = layer.output.plus(mixed, x)
        normed = rms_norm(x, layer.mlp_gain, eps, backend=self.backend)
        return layer.down.plus(layer.gated(normed, self.backend), x)

    def _attend(
        self, new: tuple[Tensor, Tensor, Tensor], cached: tuple[Tensor, Tensor], step: _Step
    ) -> Tensor:
        """Let each row look at its own text: (n_tokens, n_heads, head_dim)."""
        (q, k, v), (keys, values) = new, cached
        mixed = []
        if step.n_packed:
            new_q, new_k, new_v = (x[None, : step.n_packed] for x in (q, k, v))
            ids = step.document_ids
            mixed.append(attention(new_q, new_k, new_v, document_ids=ids, backend=self.backend)[0])
        for segment in step.segments:
            n_seen = segment.is_visible.shape[-1]
            own_keys, own_values = (
                x.index_select(0, segment.pages).transpose(1, 2).flatten(0, 1)[None, :n_seen]
                for x in (keys, values)
            )
            queries = q[None, segment.begin : segment.end]
            mixed.append(cached_attention(queries, own_keys, own_values, segment.is_visible)[0])
        if step.plan is not None:
            mixed.append(
                decode_attention(q[step.n_segmented :], keys, values, step.plan, backend=self.backend)
            )
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

    def _make_step(self, parts: Sequence[Part], copies: tuple[tuple[Tensor, Tensor], ...]) -> _Step:
        """Lay out the step of `parts`, ordered by `_rank`; one copy may be of what the one before copied."""
        lengths = [len(part.tokens) for part in parts]
        positions = [part.n_cached + place for part in parts for place in range(len(part.tokens))]
        position = torch.tensor(positions, device=self.device)
        slots = [
            part.pages[at // PAGE_TOKENS] * PAGE_TOKENS * self.config.n_kv_heads + at % PAGE_TOKENS
            for part in parts
            for at in range(part.n_cached, part.n_cached + len(part.tokens))
        ]
        n_packed = sum(n for part, n in zip(parts, lengths, strict=True) if _rank(part) == 0)
        begin, segments = n_packed, []
        for part in parts:
            if _rank(part) == 1:
                segments.append(self._make_segment(part, begin))
                begin += len(part.tokens)
        fresh = [n for part, n in zip(parts, lengths, strict=True) if _rank(part) == 0]
        single = [part for part in parts if _rank(part) == 2]
        ids = None
        if len(fresh) > 1:
            ids = torch.repeat_interleave(torch.tensor(fresh)).to(self.device)[None]
        plan = None
        if single:
            lengths_read = [part.n_cached + 1 for part in single]
            plan = plan_pages([part.pages for part in single], lengths_read, PAGE_TOKENS, self.device)
        return _Step(
            segments=tuple(segments),
            document_ids=ids,
            n_packed=n_packed,
            n_segmented=begin,
            n_tokens=len(positions),
            n_rows=max(len(positions), self.min_rows),
            plan=plan,
            cos=self._cos.index_select(0, position),
            sin=self._sin.index_select(0, position),
            places=self._places(slots),
            copies=copies,
        )

    def _make_segment(self, part: Part, begin: int) -> _Segment:
        n_seen = part.n_cached + len(part.tokens)
        query = torch.arange(part.n_cached, n_seen, device=self.device)
        is_visible = torch.arange(n_seen, device=self.device) <= query[:, None]
        pages = torch.tensor(part.pages[: -(-n_seen // PAGE_TOKENS)], device=self.device)
        return _Segment(begin, begin + len(part.tokens), pages, is_visible[None])

    def _make_copy(self, part: Part) -> tuple[Tensor, Tensor]:
        stride = PAGE_TOKENS * self.config.n_kv_heads
        assert part.copied_page is not None
        target = part.pages[part.n_cached // PAGE_TOKENS]
        first = part.n_cached // PAGE_TOKENS * PAGE_TOKENS
        assert part.n_cached - first >= part.n_copied, "what is copied ends where the new tokens begin"
        return (
            self._places([part.copied_page * stride + offset for offset in range(part.n_copied)]),
            self._places([target * stride + offset for offset in range(part.n_copied)]),
        )

    def _places(self, slots: Sequence[int]) -> Tensor:
        """Spread slots, rows of a layer's cache for its first head, over all heads."""
        heads = torch.arange(self.config.n_kv_heads) * PAGE_TOKENS
        return (torch.tensor(slots)[:, None] + heads).flatten().to(self.device)


def _rank(part: Part) -> int:
    """Order rows: texts that begin, then several tokens behind cached ones, then single tokens."""
    if len(part.tokens) == 1:
        return 2
    return 1 if part.n_cached else 0


def _copying(parts: Sequence[Part]) -> Iterator[Part]:
    return (part for part in parts if part.copied_page is not None)


def _prepare(block: Block, layout: Layout) -> _Layer:
    mixer, mlp = block.self_attn, block.mlp
    projections = (mixer.q_proj.weight, mixer.k_proj.weight, mixer.v_proj.weight)
    return _Layer(
        input_gain=block.input_layernorm.weight.detach(),
        qkv=make_product(projections, layout),
        output=make_product([mixer.o_proj.weight], layout),
        mlp_gain=block.post_attention_layernorm.weight.detach(),
        gated=make_gated(mlp.gate_proj.weight, mlp.up_proj.weight, layout),
        down=make_product([mlp.down_proj.weight], layout),
    )


def _make_panels(model: Transformer) -> Panels:
    config = model.config
    shape = PanelShape(
        d_model=config.d_model,
        n_heads=config.n_heads,
        n_kv_heads=config.n_kv_heads,
        head_dim=config.head_dim,
        vocab_size=config.vocab_size,
        eps=config.rms_norm_eps,
    )
    layers = [
        PanelLayer(
            input_gain=block.input_layernorm.weight,
            qkv=[getattr(block.self_attn, f"{name}_proj").weight for name in "qkv"],
            output=block.self_attn.o_proj.weight,
            mlp_gain=block.post_attention_layernorm.weight,
            gate=block.mlp.gate_proj.weight,
            up=block.mlp.up_proj.weight,
            down=block.mlp.down_proj.weight,
        )
        for block in model.layers
    ]
    return Panels(shape, layers, model.model.norm.weight, model.output_weight)
