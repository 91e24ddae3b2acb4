"""The closing table: what was read, what stays, what goes, by source."""

import os
from collections.abc import Sequence

from dsllm.io.sources import Source
from dsllm.progress import Reporter

MAX_ROWS = 40  # of sources; more are told together
_COUNTS = "n_documents", "n_kept", "n_removed_exact", "n_removed_near"


def show_removed(sources: Sequence[Source], by_source: Sequence[dict[str, int]], reporter: Reporter) -> None:
    """Print the counts of each source and of all."""
    paths = [source.path for source in sources]
    n_common = os.path.commonprefix(paths).rfind("/") + 1  # noqa: RUF071  # characters are meant
    rows = [_row(path[n_common:], counts) for path, counts in zip(paths, by_source, strict=True)]
    if len(rows) > 1:
        rows.append(_row("all", {name: sum(counts[name] for counts in by_source) for name in _COUNTS}))
    columns = ("source", "documents", "kept", "exact", "near", "removed %")
    reporter.table("dedup", columns, rows if len(rows) <= MAX_ROWS else rows[-1:])


def _row(name: str, counts: dict[str, int]) -> list[object]:
    removed = 100.0 * (1.0 - counts["n_kept"] / max(1, counts["n_documents"]))
    return [name, *(counts[name] for name in _COUNTS), removed]
