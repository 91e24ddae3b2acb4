"""Keys and values of the tokens that a model has read, in pages that texts take, share and give back."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dsllm.model.config import ModelConfig

PAGE_TOKENS = 32  # on a CPU 16 to 64 are equally fast; half a page a text is empty
MIN_PAGES = 16  # room at first; it grows by half when it is full
MOST_COMPARED = 64  # pages that may continue a prefix, compared token by token


@dataclass(frozen=True)
class _Known:
    """A page of prompt tokens that other prompts may begin with; `node` stands for all up to its end."""

    page: int
    node: int
    parent: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Prefix:
    """What is cached of a prompt already: whole pages, and the first `n_copied` tokens of another page."""

    pages: tuple[int, ...]
    node: int
    copied_page: int | None = None
    n_copied: int = 0


class PagedCache:
    """The cache of one run: memory grows with the pages in use, up to `max_pages`.

    A page holds the same `PAGE_TOKENS` tokens in every layer. Those of a prompt are kept when nobody uses
    them any more, until another text needs the room, so that a later prompt may begin with them.

    Args:
        config: the model's shape.
        dtype: of the keys and values.
        device: where they lie.
        max_pages: most pages at once.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype, device: torch.device, *, max_pages: int
    ) -> None:
        self.max_pages = max_pages
        shape = (0, config.n_kv_heads, PAGE_TOKENS, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layers)]
        self.values = [torch.zeros_like(x) for x in self.keys]
        self._free: list[int] = []  # a heap: low pages first, so that those in use lie close together
        self._n_users: list[int] = []
        self._known: dict[int, _Known] = {}  # by page
        self._children: dict[int, dict[tuple[int, ...], _Known]] = {}  # by the node before
        self._idle: dict[int, None] = {}  # known pages without users, the longest unused first
        self._n_nodes = 0

    @property
    def n_used(self) -> int:
        """Pages that some text uses."""
        return len(self._n_users) - len(self._free) - len(self._idle)

    @property
    def n_pages(self) -> int:
        """Pages that memory is held for."""
        return len(self._n_users)

    def take(self, n_pages: int) -> list[int] | None:
        """Take pages, none of them twice; None, and nothing is taken, if there are not so many."""
        n_growth = n_pages - len(self._free) - len(self._idle)
        if n_growth > self.max_pages - self.n_pages:
            return None
        while len(self._free) < n_pages and self._idle:
            page = next(iter(self._idle))
            del self._idle[page]
            self._forget(page)
            heapq.heappush(self._free, page)
        if n_growth > 0:
            self._grow(n_growth)
        pages = [heapq.heappop(self._free) for _ in range(n_pages)]
        for page in pages:
            self._n_users[page] = 1
        return pages

    def share(self, pages: Sequence[int]) -> None:
        """Count one more user of each page."""
        for page in pages:
            self._n_users[page] += 1
            self._idle.pop(page, None)

    def give_back(self, pages: Sequence[int]) -> None:
        """Count one user less of each page of a text; the last ones are the first to be used again."""
        for page in reversed(pages):
            self._n_users[page] -= 1
            if self._n_users[page]:
                continue
            if page in self._known:
                self._idle[page] = None
            else:
                heapq.heappush(self._free, page)

    def find(self, tokens: Sequence[int]) -> Prefix:
        """Find the longest known beginning of a prompt, but for its last token: something must be read."""
        node, pages = 0, list[int]()
        most = len(tokens) - 1
        while (len(pages) + 1) * PAGE_TOKENS <= most:
            begin = len(pages) * PAGE_TOKENS
            known = self._children.get(node, {}).get(tuple(tokens[begin : begin + PAGE_TOKENS]))
            if known is None:
                break
            pages.append(known.page)
            node = known.node
        rest = tuple(tokens[len(pages) * PAGE_TOKENS : most])
        best, n_best = None, 0
        for known in list(self._children.get(node, {}).values())[:MOST_COMPARED]:
            n_equal = _count_equal(known.tokens, rest)
            if n_equal > n_best:
                best, n_best = known.page, n_equal
        return Prefix(tuple(pages), node, best, n_best)

    def remember(self, tokens: Sequence[int], pages: Sequence[int], prefix: Prefix) -> None:
        """Make the pages of a prompt known, those behind its `prefix`; the last may be partly filled."""
        node = prefix.node
        for place in range(len(prefix.pages), -(-len(tokens) // PAGE_TOKENS)):
            part = tuple(tokens[place * PAGE_TOKENS : (place + 1) * PAGE_TOKENS])
            children = self._children.setdefault(node, {})
            if part not in children:
                self._n_nodes += 1
                children[part] = _Known(pages[place], self._n_nodes, node, part)
                self._known[pages[place]] = children[part]
            node = children[part].node

    def _forget(self, page: int) -> None:
        known = self._known.pop(page)
        siblings = self._children[known.parent]
        del siblings[known.tokens]
        if not siblings:
            del self._children[known.parent]

    def _grow(self, n_needed: int) -> None:
        n_new = min(max(n_needed, self.n_pages // 2, MIN_PAGES), self.max_pages - self.n_pages)
        for tensors in (self.keys, self.values):
            for layer, x in enumerate(tensors):  # zeros: what is not written is read, with no weight
                tensors[layer] = torch.cat((x, x.new_zeros(n_new, *x.shape[1:])))
        for page in range(self.n_pages, self.n_pages + n_new):
            heapq.heappush(self._free, page)
        self._n_users += [0] * n_new


def _count_equal(one: Sequence[int], two: Sequence[int]) -> int:
    """Count the tokens that both begin with."""
    for place, (a, b) in enumerate(zip(one, two, strict=False)):
        if a != b:
            return place
    return min(len(one), len(two))
