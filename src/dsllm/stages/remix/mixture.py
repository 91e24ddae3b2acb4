"""What a remix takes of each source, and the table that says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import InputError
from dsllm.progress import Reporter, format_amount
from dsllm.stages.remix.config import RemixConfig
from dsllm.stages.remix.measure import name_hash
from dsllm.stages.remix.mix import allot, times_taken, wanted_shares

MAX_ROWS = 40


@dataclass(frozen=True)
class Mixture:
    """How often each document is taken, and what comes of it.

    `times` has shape (n_documents,); `n_line_bytes` is the size of the output before compression, but for the
    longer ids of copies; `counts` go into the manifest.
    """

    times: NDArray[np.int64]
    n_line_bytes: int
    counts: dict[str, Any]

    def tell(self, reporter: Reporter) -> None:
        """Print before, wanted and reached, the largest sources first where there are many."""
        sources = sorted(self.counts["sources"].items(), key=lambda item: -item[1]["n_text_bytes"])
        if len(sources) <= MAX_ROWS:
            sources = list(self.counts["sources"].items())
        columns = ("source", "documents", "bytes", "before %", "wanted %", "reached %", "epochs", "dropped")
        rows = [
            [
                name,
                source["n_documents"],
                format_amount(source["n_text_bytes"], "bytes"),
                *(round(100 * source[share], 2) for share in ("before", "wanted", "reached")),
                source["epochs"],
                source["n_dropped"],
            ]
            for name, source in sources[:MAX_ROWS]
        ]
        more = f", the largest {MAX_ROWS} of {len(sources):,} sources" if len(sources) > MAX_ROWS else ""
        reporter.table(f"remix{more}", columns, rows)
        counts = self.counts
        reporter.say(
            f"dsllm: {counts['n_documents']:,} documents in, {counts['n_dropped']:,} dropped, "
            f"{counts['n_repeats']:,} repeats, {counts['n_written']:,} out "
            f"({format_amount(counts['n_text_bytes_written'], 'bytes')} of text)"
        )


def mix(config: RemixConfig, rows: NDArray[Any], names: Sequence[str]) -> Mixture:
    """Choose how often each document is taken.

    Args:
        config: shares, budget, cap and seed.
        rows: measure.DOCUMENT rows of all documents.
        names: the sources, in the order of the table.

    Raises:
        ConfigError, InputError: shares that do not fit the sources.
    """
    index = _source_index(rows["name"], names)
    n_bytes = np.zeros(len(names), np.int64)
    np.add.at(n_bytes, index, rows["n_bytes"])
    if not n_bytes.any():
        raise InputError("no document has any text", hint="look at the inputs with: dsllm inspect")
    shares = wanted_shares(config, names, n_bytes.tolist())
    times = np.ones(len(rows), np.int64)
    if not _keeps_everything(config):
        total = int(n_bytes.sum())
        wanted = allot(n_bytes.tolist(), shares, config.budget or total, config.max_epochs)
        by_source = np.argsort(index, kind="stable")
        members = np.split(by_source, np.searchsorted(index[by_source], np.arange(1, len(names))))
        for numbers, size in zip(members, wanted, strict=True):
            times[numbers] = times_taken(rows["n_bytes"][numbers], numbers, size, config.seed)
    if not times.any():
        raise InputError(
            f"a budget of {config.budget} bytes holds no document", hint="give a larger --budget"
        )
    n_line_bytes = int(((rows["n_line_bytes"] + 1) * times).sum())
    return Mixture(
        times, n_line_bytes, _count(rows["n_bytes"], times, index, dict(zip(names, shares, strict=True)))
    )


def _keeps_everything(config: RemixConfig) -> bool:
    is_natural = not config.weights and config.temperature is None
    return is_natural and config.budget is None and (config.max_epochs is None or config.max_epochs >= 1)


def _source_index(hashes: NDArray[np.uint64], names: Sequence[str]) -> NDArray[np.int64]:
    known = np.array([name_hash(name) for name in names], np.uint64)
    order = np.argsort(known)
    return order[np.searchsorted(known[order], hashes)]


def _count(
    n_bytes: NDArray[np.int64], times: NDArray[np.int64], index: NDArray[np.int64], shares: dict[str, float]
) -> dict[str, Any]:
    def add(values: NDArray[Any]) -> NDArray[np.int64]:
        sums = np.zeros(len(shares), np.int64)
        np.add.at(sums, index, values)
        return sums

    n_documents, n_text, n_written = add(np.ones_like(times)), add(n_bytes), add(n_bytes * times)
    n_dropped, n_copies = add(times == 0), add(times)
    sources = {
        name: {
            "n_documents": int(n_documents[i]),
            "n_dropped": int(n_dropped[i]),
            "n_written": int(n_copies[i]),
            "n_text_bytes": int(n_text[i]),
            "n_text_bytes_written": int(n_written[i]),
            "before": round(float(n_text[i] / n_text.sum()), 6),
            "wanted": round(share, 6),
            "reached": round(float(n_written[i] / max(1, n_written.sum())), 6),
            "epochs": round(float(n_written[i] / max(1, n_text[i])), 4),
        }
        for i, (name, share) in enumerate(shares.items())
    }
    return {
        "n_documents": len(times),
        "n_kept": int(np.count_nonzero(times)),
        "n_dropped": int(np.count_nonzero(times == 0)),
        "n_repeats": int(np.maximum(times - 1, 0).sum()),
        "n_written": int(times.sum()),
        "n_text_bytes": int(n_bytes.sum()),
        "n_text_bytes_written": int((n_bytes * times).sum()),
        "sources": sources,
    }
