"""The best share of the whole corpus by quality: a pass that scores it, then a bound for each group.

A group is a language, a source, both, or what else a document's fields say; of each, the documents that all
tests before have left are counted, and the share is taken of them. The bound is the quality of the last one
that stays, found exactly, in memory (8 bytes a document): those that are equally good stay too.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.io.documents import Batch
from dsllm.io.sources import Source
from dsllm.progress import Reporter
from dsllm.stages.filter.classifiers import QualityModel
from dsllm.stages.filter.table import Floats, Table
from dsllm.workers.passes import Columns, Pass, read_column

LANGUAGE, CORPUS = "language", "corpus"
N_ROWS = 15
COLUMNS = ("quality", "quality-groups")
Group = tuple[str, ...]  # a JSON value for each name


@dataclass(frozen=True)
class Bound:
    """The least quality of a group that stays, out of how many documents."""

    least: float
    n_documents: int
    n_kept: int


def fields_of(by: Sequence[str]) -> list[str]:
    """List the fields of documents that make up the groups."""
    return [name for name in by if name not in (LANGUAGE, CORPUS)]


def groups_of(table: Table, by: Sequence[str]) -> list[Group]:
    """Name the group of each document."""
    columns = []
    for name in by:
        if name == LANGUAGE:
            languages = [orjson.dumps(language).decode() for language in table.languages]
            columns.append([languages[index] for index in table.language.tolist()])
        elif name != CORPUS:
            columns.append([orjson.dumps(value).decode() for value in table.documents.values(name)])
    return list(zip(*columns, strict=True)) if columns else [()] * len(table.documents)


@dataclass(frozen=True)
class BestShare:
    """A document must be among the best of its group; without bounds documents are only scored."""

    model: QualityModel
    by: tuple[str, ...]
    bounds: Mapping[Group, Bound]

    def __call__(self, table: Table) -> None:
        """Score the documents that are looked at, then try each group's bound."""
        places = np.flatnonzero(table.looked_at)
        table.quality[places] = self.model.score_all(table.texts.take(places))
        if not self.bounds:
            return
        groups = groups_of(table, self.by)
        places_of: dict[Group, list[int]] = defaultdict(list)
        for place in places.tolist():
            places_of[groups[place]].append(place)
        for group in sorted(places_of.keys() & self.bounds.keys()):
            least = self.bounds[group].least
            is_meant = np.zeros(len(groups), bool)
            is_meant[places_of[group]] = True
            table.test("quality", is_meant & (table.quality < least), table.quality, round(least, 6))


@dataclass(frozen=True)
class ScoreDocuments:
    """The task: the quality of the documents that the tests have left, group by group."""

    judge: Callable[[Batch], Table]
    by: tuple[str, ...]

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Judge the batch."""
        table = self.judge(batch)
        return group_values(table, table.quality, self.by, COLUMNS)


def group_values(table: Table, values: Floats, by: Sequence[str], names: tuple[str, str]) -> Columns:
    """Give the values of the documents that no test has rejected, group by group.

    The first column has the values, the second a line of JSON for each group: its names, how many values.
    """
    groups = groups_of(table, by)
    places: dict[Group, list[int]] = defaultdict(list)
    for place in np.flatnonzero(~np.isnan(values) & (table.first < 0)).tolist():
        places[groups[place]].append(place)
    order = [place for group in places.values() for place in group]
    lines = b"".join(orjson.dumps([group, len(found)]) + b"\n" for group, found in places.items())
    columns: tuple[NDArray[Any], ...] = values[order], np.frombuffer(lines, np.uint8)
    return Columns(dict(zip(names, columns, strict=True)), table.documents.bad)


def read_groups(sources: Sequence[Source], work: Pass, names: tuple[str, str]) -> dict[Group, Floats]:
    """Read what `group_values` gave for all batches: the values of each group, groups in order."""
    parts: dict[Group, list[Floats]] = defaultdict(list)
    for source in sources:
        values = read_column(work.scratch, source.index, names[0], "<f8")
        start = 0
        for line in read_column(work.scratch, source.index, names[1], "u1").tobytes().splitlines():
            group, n = orjson.loads(line)
            parts[tuple(group)].append(values[start : start + n])
            start += n
    return {group: np.concatenate(found) for group, found in sorted(parts.items())}


def find_bounds(
    task: ScoreDocuments, frac: float, sources: Sequence[Source], work: Pass
) -> dict[Group, Bound]:
    """Score all documents and find the bound of each group: of n documents at least n * frac stay."""
    work.write_columns(task, sources, COLUMNS, label="filter: quality", mark="quality-done")
    return {group: _bound(found, frac) for group, found in read_groups(sources, work, COLUMNS).items()}


def _bound(quality: NDArray[np.float64], frac: float) -> Bound:
    n_kept = math.ceil(Fraction(str(frac)) * len(quality))  # as it was written: 0.7 of 10 is 7
    least = float(np.partition(quality, len(quality) - n_kept)[len(quality) - n_kept])
    return Bound(least, len(quality), int((quality >= least).sum()))


def describe_bounds(bounds: Mapping[Group, Bound], by: Sequence[str]) -> list[dict[str, Any]]:
    """Say what the bounds are, for the manifest."""
    return describe_groups(
        by,
        {
            group: {"n_documents": bound.n_documents, "n_kept": bound.n_kept, "min_quality": bound.least}
            for group, bound in bounds.items()
        },
    )


def describe_groups(by: Sequence[str], values: Mapping[Group, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Write each group's names beside its values."""
    names = [name for name in by if name != CORPUS]
    return [
        {**{name: orjson.loads(value) for name, value in zip(names, group, strict=True)}, **found}
        for group, found in values.items()
    ]


def show_bounds(bounds: Mapping[Group, Bound], reporter: Reporter) -> None:
    """Print the bounds of the largest groups."""
    largest = sorted(bounds.items(), key=lambda item: (-item[1].n_documents, item[0]))[:N_ROWS]
    rows = [
        (
            " ".join(map(str, map(orjson.loads, group))) or CORPUS,
            bound.n_documents,
            bound.n_kept,
            f"{bound.least:.6f}",
        )
        for group, bound in largest
    ]
    reporter.table("filter: the best by quality", ("group", "documents", "kept", "least quality"), rows)
