"""Counts of a batch for the manifest: documents and bytes by test, language and source."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.stages.filter.table import Mask, Table

MAX_SOURCES = 100  # in one batch; where there are more, `source` is no list of sources but of web sites
MANY_SOURCES = "(many)"
NO_SOURCE = "(none)"


def source_names(table: Table) -> list[str]:
    """Name each document's source for the counts."""
    values = table.documents.values("source")
    names = [value if isinstance(value, str) else NO_SOURCE for value in values]
    return [MANY_SOURCES] * len(names) if len(set(names)) > MAX_SOURCES else names


def count(table: Table, is_kept: Mask, kept_sizes: NDArray[np.int64]) -> dict[str, int]:
    """Count the documents of a batch.

    Of a group "" (all), "source.NAME." or "language.NAME.": documents and bytes read, documents and bytes
    kept; of "rule.NAME.": documents and bytes that it was the first to reject.
    """
    sizes = table.documents.sizes()
    columns = {
        "n_documents": np.ones(len(sizes)),
        "n_bytes": sizes,
        "n_kept": is_kept,
        "n_kept_bytes": kept_sizes,
    }
    counts: Counter[str] = Counter({name: int(column.sum()) for name, column in columns.items()})
    counts["n_line_bytes"] = counts.pop("n_bytes")  # a shard's own record has n_bytes
    counts.update(_by_group([f"source.{name}." for name in source_names(table)], columns))
    is_known = np.array([bool(language) for language in table.languages], bool)[table.language]
    tested = np.flatnonzero(is_known & ~table.is_exempt)
    languages = [f"language.{table.languages[index]}." for index in table.language[tested].tolist()]
    counts.update(_by_group(languages, {name: column[tested] for name, column in columns.items()}))
    if table.is_exempt.any():
        counts["n_exempt"] = int(table.is_exempt.sum())
    for at, test in enumerate(table.tests):
        is_first = table.first == at
        if is_first.any():
            counts[f"rule.{test.rule}.n_documents"] += int(is_first.sum())
            counts[f"rule.{test.rule}.n_bytes"] += int(sizes[is_first].sum())
    counts.update(table.counts)
    return dict(counts)


def _by_group(groups: Sequence[str], columns: Mapping[str, NDArray[Any]]) -> dict[str, int]:
    """Add columns up by group."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    index = np.array([numbers[name] for name in groups], np.int64)
    counts = {}
    for measure, column in columns.items():
        sums = np.bincount(index, column, len(numbers)).tolist()
        counts.update({f"{name}{measure}": int(total) for name, total in zip(numbers, sums, strict=True)})
    return counts
