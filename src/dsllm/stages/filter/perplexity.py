"""A second opinion: how predictable a document is to a small model of words, in thirds of the whole corpus.

As CCNet has it (Wenzek et al. 2020, arXiv:1911.00359): of each group (see share.py) the third with the least
perplexity is the head, then come the middle and the tail. The model (`text/word_model.py`) has counted the
words of good text (`--train-words`); documents without a word are in the tail.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError, OutputError
from dsllm.io.atomic import file_sha256
from dsllm.io.documents import Batch
from dsllm.io.sources import Source, find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.stages.filter.config import BUCKETS, FilterConfig
from dsllm.stages.filter.share import Group, group_values, groups_of, read_groups
from dsllm.stages.filter.table import Floats, Table, read_documents
from dsllm.text.texts import Texts
from dsllm.text.word_model import WordModel
from dsllm.workers.passes import Columns, Pass

PERPLEXITY = "perplexity"
COLUMNS = (PERPLEXITY, "perplexity-groups")
Cuts = tuple[float, float]  # the greatest perplexity of the head, and of the middle


def read_model(path: str) -> WordModel:
    """Read a model.

    Raises:
        InputError: no such file, or no such model.
    """
    hint = "give --word-model a file that dsllm filter --train-words has made"
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file", hint=hint)
    try:
        return WordModel.read(Path(path))
    except (ValueError, EOFError):  # NumPy's own words are about pickles
        raise InputError(f"{path}: no model of words", hint=hint) from None


@dataclass(frozen=True)
class Buckets:
    """Documents must be in one of some buckets; without cuts their perplexity is only found out."""

    model: WordModel
    by: tuple[str, ...]
    wanted: tuple[str, ...]
    cuts: Mapping[Group, Cuts]

    def __call__(self, table: Table) -> None:
        """Look at the documents that are left."""
        places = np.flatnonzero(table.looked_at)
        values = np.full(len(table.documents), np.nan)
        values[places] = np.nan_to_num(self.model.perplexities(table.texts.take(places)), nan=np.inf)
        table.features[PERPLEXITY] = np.where(np.isfinite(values), values, np.nan)
        if not self.cuts:
            table.notes[PERPLEXITY] = values.tolist()
            return
        groups = groups_of(table, self.by)
        buckets: list[str | None] = [None] * len(values)
        for place in places.tolist():
            if groups[place] in self.cuts:
                is_above = int(np.searchsorted(self.cuts[groups[place]], values[place]))
                buckets[place] = BUCKETS[is_above if np.isfinite(values[place]) else -1]
        table.note("perplexity_bucket", buckets)
        is_other = np.array([bucket not in (None, *self.wanted) for bucket in buckets], bool)
        table.test(PERPLEXITY, table.looked_at & is_other, buckets, list(self.wanted))


@dataclass(frozen=True)
class MeasurePerplexity:
    """The task: the perplexities of the documents that the tests have left, group by group."""

    judge: Callable[[Batch], Table]
    by: tuple[str, ...]

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Judge the batch."""
        table = self.judge(batch)
        values: Floats = np.array(table.notes[PERPLEXITY], np.float64)
        return group_values(table, values, self.by, COLUMNS)


def find_cuts(task: MeasurePerplexity, sources: Sequence[Source], work: Pass) -> dict[Group, Cuts]:
    """Measure all documents and find where the thirds of each group end; equal ones are in the same."""
    work.write_columns(task, sources, COLUMNS, label="filter: perplexity", mark="perplexity-done")
    return {group: _cut(np.sort(values)) for group, values in read_groups(sources, work, COLUMNS).items()}


def _cut(values: Floats) -> Cuts:
    first, second = (float(values[math.ceil(len(values) * share / 3) - 1]) for share in (1, 2))
    return first, second


def train(
    config: FilterConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Count the words of good documents into a model's file.

    Raises:
        ConfigError: standard output is no place for it.
        InputError: no document has a word.
        OutputError: the file is there already.
    """
    path = Path(output)
    if output == "-" or path.is_dir():
        raise ConfigError(f"{output}: no place for a model's file", hint="give -o the name of a file")
    if path.exists() and not options.overwrite:
        raise OutputError(f"{output}: is there already", hint="give --overwrite, or another -o")
    model = WordModel.train(_texts(config, inputs))
    n_words, n_different, n_used = model.totals.tolist()
    if not n_words:
        raise InputError(f"{', '.join(inputs)}: no document with a word in it", hint="check what wrote it")
    model.save(path)
    reporter.say(f"dsllm: {output} has counted {n_words:,} words, {n_different:,} different ones")
    found = {"n_words": n_words, "n_different_words": n_different, "n_runs": n_used}
    return {**found, "n_bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _texts(config: FilterConfig, inputs: Sequence[str]) -> Iterator[Texts]:
    for source in find_sources(inputs):
        for batch in read_batches(source):
            yield read_documents(batch, config.text_field, (), on_error=config.on_error).texts
