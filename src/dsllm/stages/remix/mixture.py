"""What a remix takes of each source, and the table that says so."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.config import parse_weights
from dsllm.errors import InputError
from dsllm.progress import Reporter, format_amount
from dsllm.stages.remix.config import RemixConfig
from dsllm.stages.remix.measure import name_hash
from dsllm.stages.remix.mix import allot, times_taken, wanted_shares
from dsllm.stages.remix.mixing_law import Proposal, propose, read_runs

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
        unit = "tokens" if "n_tokens" in self.counts else "bytes"
        columns = ("source", "documents", unit, "before %", "wanted %", "reached %", "epochs", "dropped")
        rows = [
            [
                name,
                source["n_documents"],
                format_amount(source["n_tokens" if unit == "tokens" else "n_text_bytes"], unit),
                *(round(100 * source[share], 2) for share in ("before", "wanted", "reached")),
                source["epochs"],
                source["n_dropped"],
            ]
            for name, source in sources[:MAX_ROWS]
        ]
        more = f", the largest {MAX_ROWS} of {len(sources):,} sources" if len(sources) > MAX_ROWS else ""
        reporter.table(f"remix{more}", columns, rows)
        if losses := self.counts.get("losses"):
            reporter.table(
                "remix: what the law says of the losses at these shares",
                ("loss", "lowest of the runs", "predicted", "mean error about a run left out"),
                [[name, loss["lowest"], loss["predicted"], loss["error"]] for name, loss in losses.items()],
            )
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
    sizes = np.zeros(len(names), np.int64)
    np.add.at(sizes, index, rows["size"])
    if not rows["n_bytes"].any():
        raise InputError("no document has any text", hint="look at the inputs with: dsllm inspect")
    total = int(sizes.sum())
    budget = config.budget_size or total
    proposal = _propose(config, names, sizes.tolist(), budget) if config.from_losses else None
    shares = proposal.shares if proposal else wanted_shares(config, names, sizes.tolist())
    times = np.ones(len(rows), np.int64)
    if not _keeps_everything(config):
        wanted = allot(sizes.tolist(), shares, budget, config.max_epochs)
        by_source = np.argsort(index, kind="stable")
        members = np.split(by_source, np.searchsorted(index[by_source], np.arange(1, len(names))))
        for numbers, size in zip(members, wanted, strict=True):
            times[numbers] = times_taken(rows["size"][numbers], numbers, size, config.seed)
    if not times.any():
        raise InputError(
            f"a budget of {config.budget or total} and max_epochs of {config.max_epochs} hold no document",
            hint="give a larger --budget or --max-epochs",
        )
    n_line_bytes = int(((rows["n_line_bytes"] + 1) * times).sum())
    counts = _count(
        rows, times, index, dict(zip(names, shares, strict=True)), has_tokens=config.tokenizer is not None
    )
    if proposal:
        counts["losses"] = proposal.losses
    return Mixture(times, n_line_bytes, counts)


def _propose(config: RemixConfig, names: Sequence[str], sizes: Sequence[int], budget: int) -> Proposal:
    epochs = config.max_epochs or np.inf
    return propose(
        read_runs(config.from_losses),
        names,
        target=parse_weights(config.target, "target"),
        caps=[min(1.0, epochs * size / budget) if size else 0.0 for size in sizes],
    )


def _keeps_everything(config: RemixConfig) -> bool:
    is_natural = not (config.weights or config.even or config.from_losses) and config.temperature is None
    return is_natural and config.budget is None and (config.max_epochs is None or config.max_epochs >= 1)


def _source_index(hashes: NDArray[np.uint64], names: Sequence[str]) -> NDArray[np.int64]:
    known = np.array([name_hash(name) for name in names], np.uint64)
    order = np.argsort(known)
    return order[np.searchsorted(known[order], hashes)]


def _count(
    rows: NDArray[Any],
    times: NDArray[np.int64],
    index: NDArray[np.int64],
    shares: dict[str, float],
    *,
    has_tokens: bool,
) -> dict[str, Any]:
    def add(values: NDArray[Any]) -> NDArray[np.int64]:
        sums = np.zeros(len(shares), np.int64)
        np.add.at(sums, index, values)
        return sums

    sums = {
        "n_documents": add(np.ones_like(times)),
        "n_dropped": add(times == 0),
        "n_written": add(times),
        "n_text_bytes": add(rows["n_bytes"]),
        "n_text_bytes_written": add(rows["n_bytes"] * times),
    }
    size, written = add(rows["size"]), add(rows["size"] * times)
    if has_tokens:
        sums |= {"n_tokens": size, "n_tokens_written": written}
    sources = {
        name: {
            **{key: int(values[i]) for key, values in sums.items()},
            "before": round(float(size[i] / size.sum()), 6),
            "wanted": round(share, 6),
            "reached": round(float(written[i] / max(1, written.sum())), 6),
            "epochs": round(float(written[i] / max(1, size[i])), 4),
        }
        for i, (name, share) in enumerate(shares.items())
    }
    totals = {key: int(values.sum()) for key, values in sums.items()}
    return {
        **totals,
        "n_kept": int(np.count_nonzero(times)),
        "n_repeats": int(np.maximum(times - 1, 0).sum()),
        "sources": sources,
    }
