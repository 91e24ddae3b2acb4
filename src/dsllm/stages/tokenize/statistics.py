"""How well a tokenizer fits: documents, tokens and bytes of each source, and of each language."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from dsllm.io.sources import Source
from dsllm.progress import Reporter

MAX_SOURCES = 200  # a crawl's documents may name millions of domains as their source
OTHERS = "(others)"
MAX_ROWS = 12
TEXT_PER_STORED_BYTE = 3  # English and Chinese JSON lines in zstd or gzip: about


@dataclass
class SourceCounts:
    """[documents, tokens, bytes of text, tokens of another tokenizer] by source, as they were met."""

    by_name: dict[str, list[int]] = field(default_factory=dict)

    def add(self, name: str, n_documents: int, n_tokens: int, n_bytes: int, n_compared: int = 0) -> None:
        """Count documents; those of sources beyond the first MAX_SOURCES go together."""
        if name not in self.by_name and len(self.by_name) >= MAX_SOURCES:
            name = OTHERS
        counts = self.by_name.setdefault(name, [0, 0, 0, 0])
        for index, number in enumerate((n_documents, n_tokens, n_bytes, n_compared)):
            counts[index] += number

    @classmethod
    def from_json(cls, by_name: dict[str, list[int]]) -> Self:
        """Take up what `by_name` was."""
        return cls({name: list(counts) for name, counts in by_name.items()})

    def totals(self) -> dict[str, Any]:
        """Add up all sources."""
        sums = [sum(counts[index] for counts in self.by_name.values()) for index in range(4)]
        return _named(sums)

    def sources(self) -> dict[str, dict[str, Any]]:
        """Give each source's numbers with their names, as the manifest has them."""
        return {name: _named(counts) for name, counts in self.by_name.items()}

    def show(self, title: str, reporter: Reporter, kind: str = "source") -> None:
        """Print a row for each of the largest sources and, for more than one source, a row for all."""
        largest = sorted(self.sources().items(), key=lambda row: -row[1]["n_bytes"])[:MAX_ROWS]
        rows = dict(largest) | ({"all": self.totals()} if len(self.by_name) > 1 else {})
        columns: tuple[str, ...] = ("n_documents", "n_tokens", "n_bytes", "bytes_per_token")
        headings: tuple[str, ...] = (kind, "documents", "tokens", "bytes", "bytes/token")
        if any("n_tokens_compared" in row for row in rows.values()):
            columns, headings = (*columns, "tokens_frac"), (*headings, "of the other's tokens")
        if len(largest) < len(self.by_name):
            title += f"; the {len(largest)} largest of {len(self.by_name)} {kind}s"
        reporter.table(title, headings, [[name, *map(row.get, columns)] for name, row in rows.items()])


def source_name(name: Any, path: str) -> str:
    """Name a document's source: the value of its field `source`, else the file it came in."""
    return name if isinstance(name, str) and name else Path(path).name


def estimate_text_bytes(sources: Iterable[Source]) -> int | None:
    """Guess the bytes of text behind the sizes on disk; None where a size is unknown."""
    n_bytes = 0
    for source in sources:
        if source.path == "-":
            return None
        is_packed = source.path.endswith((".gz", ".zst", ".zstd", ".parquet"))
        n_bytes += source.n_bytes * (TEXT_PER_STORED_BYTE if is_packed else 1)
    return n_bytes


def _named(counts: list[int]) -> dict[str, Any]:
    n_documents, n_tokens, n_bytes, n_compared = counts
    named: dict[str, Any] = {
        "n_documents": n_documents,
        "n_tokens": n_tokens,
        "n_bytes": n_bytes,
        "bytes_per_token": round(n_bytes / n_tokens, 4) if n_tokens else 0.0,
    }
    if n_compared:  # end tokens included, so there is one at least
        named |= {"n_tokens_compared": n_compared, "tokens_frac": round(n_tokens / n_compared, 4)}
    return named
