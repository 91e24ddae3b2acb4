"""What must be known of the whole corpus before a document is judged: a pass for each such thing.

1. Lines that recur across documents (recurring.py).
2. The quality that the best share of each group has (share.py).
3. Where the thirds of each group by perplexity end (perplexity.py).
4. Hosts most of whose documents are rejected, by all tests that the settings ask for (addresses.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dsllm.errors import InputError
from dsllm.io.documents import Batch
from dsllm.io.sources import Source
from dsllm.stages.filter.addresses import HostRates, addresses_of, hash_hosts, rate_hosts
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.perplexity import Cuts, MeasurePerplexity, find_cuts
from dsllm.stages.filter.recurring import find_recurring
from dsllm.stages.filter.share import Bound, Group, ScoreDocuments, find_bounds
from dsllm.stages.filter.table import Table
from dsllm.text.shingles import Hashes
from dsllm.workers.passes import Columns, Pass, read_column

HOST_COLUMNS = {"host": "<u8", "host-documents": "<i8", "host-rejected": "<i8"}
Judge = Callable[[Batch], Table]


def _no_lines() -> Hashes:
    return np.zeros(0, np.uint64)


@dataclass(frozen=True)
class Overview:
    """What is known: hashes of recurring lines, bounds of quality and perplexity, rejected hosts."""

    recurring: Hashes = field(default_factory=_no_lines)
    quality: Mapping[Group, Bound] = field(default_factory=dict)
    perplexity: Mapping[Group, Cuts] = field(default_factory=dict)
    hosts: HostRates = field(default_factory=lambda: HostRates(_no_lines(), np.zeros(0)))


def is_needed(config: FilterConfig) -> bool:
    """Tell whether there is anything to find out before."""
    return n_passes(config) > 1


def n_passes(config: FilterConfig) -> int:
    """Say how often the corpus is read."""
    settings = (config.max_line_repeats, config.keep_frac, config.word_model, config.max_host_rejection)
    return 1 + sum(setting is not None for setting in settings)


def look_over(
    config: FilterConfig,
    sources: Sequence[Source],
    work: Pass,
    make_judge: Callable[[FilterConfig, Overview], Judge],
) -> Overview:
    """Make the passes that the settings ask for; `make_judge` gives the tests with what is known so far.

    Raises:
        InputError: hosts are to be judged, but no document has an address.
    """
    found = Overview()
    if config.max_line_repeats is not None:
        found = Overview(find_recurring(config, list(sources), work))
        sources = work.spooled(sources)
    config = replace(config, annotate=False, explain=False, mask_personal=False)
    before = replace(config, decontaminate=(), max_host_rejection=None)  # the tests that come first
    if config.keep_frac is not None:
        judge = make_judge(replace(before, word_model=None), found)
        task = ScoreDocuments(judge, config.keep_frac_by)
        found = replace(found, quality=find_bounds(task, config.keep_frac, sources, work))
        sources = work.spooled(sources)
    if config.word_model is not None:
        measuring = MeasurePerplexity(make_judge(before, found), config.keep_frac_by)
        found = replace(found, perplexity=find_cuts(measuring, sources, work))
        sources = work.spooled(sources)
    if config.max_host_rejection is not None:
        found = replace(found, hosts=_find_hosts(config, sources, work, make_judge(config, found)))
    return found


def _find_hosts(config: FilterConfig, sources: Sequence[Source], work: Pass, judge: Judge) -> HostRates:
    assert config.max_host_rejection is not None
    task = CountHosts(judge, config.url_field)
    work.write_columns(task, sources, list(HOST_COLUMNS), label="filter: hosts", mark="hosts-done")
    hosts, documents, rejected = (
        np.concatenate([read_column(work.scratch, source.index, name, dtype) for source in sources])
        for name, dtype in HOST_COLUMNS.items()
    )
    if not hosts.any():
        raise InputError(
            f"no document has an address in the field {config.url_field!r}",
            hint="name the field with --url-field, or leave out --max-host-rejection",
        )
    return rate_hosts(
        hosts, documents, rejected, max_rate=config.max_host_rejection, least=config.min_host_documents
    )


@dataclass(frozen=True)
class CountHosts:
    """The task: the hosts of a batch, their documents, and how many of these were rejected."""

    judge: Judge
    url_field: str

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Judge the batch and count."""
        table = self.judge(batch)
        hosts, index = np.unique(hash_hosts(addresses_of(table, self.url_field)), return_inverse=True)
        n_documents = np.bincount(index, minlength=len(hosts))
        n_rejected = np.bincount(index, table.first >= 0, len(hosts))
        columns = (hosts, n_documents.astype(np.int64), n_rejected.astype(np.int64))
        return Columns(dict(zip(HOST_COLUMNS, columns, strict=True)), table.documents.bad)
