"""The task that filters a batch: reads it as columns, makes the tests, writes what stays."""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.io.documents import Batch
from dsllm.io.edit import add_field
from dsllm.stages.filter.addresses import BadHosts, BlockList, BlockUrls
from dsllm.stages.filter.classifiers import LanguageModel, QualityModel
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.counts import count
from dsllm.stages.filter.decontaminate import Decontaminate, Decontaminator
from dsllm.stages.filter.explain import explain
from dsllm.stages.filter.overview import Overview
from dsllm.stages.filter.perplexity import Buckets, read_model
from dsllm.stages.filter.personal import MaskPersonal
from dsllm.stages.filter.recurring import CutRecurring
from dsllm.stages.filter.rules import Rule, read_line_cut, read_rules
from dsllm.stages.filter.scripts import BY_SCRIPT, Scripts
from dsllm.stages.filter.share import BestShare, fields_of
from dsllm.stages.filter.steps import (
    BadWords,
    CutLines,
    ExemptSources,
    Languages,
    Quality,
    Rules,
    Step,
    read_bad_words,
)
from dsllm.stages.filter.table import Documents, Mask, Table, read_documents
from dsllm.text.json_lines import join_lines
from dsllm.workers.documents import Part

FIELD = "dsllm_filter"
REJECTED = "rejected"  # the side stream


@dataclass(frozen=True)
class Filter:
    """The task: judges the documents of a batch. Models and rules are read where it runs."""

    config: FilterConfig
    overview: Overview = field(default_factory=Overview)

    releases_lock = True

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in the order in which they are tried."""
        return read_rules(self.config.rules)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The tests, in the order in which they are made; those that the settings leave out are not there."""
        config = self.config
        steps: list[Step] = []
        if config.block_urls:
            steps.append(BlockUrls(BlockList.read(config.block_urls), config.url_field))
        if config.exempt_sources:
            steps.append(ExemptSources(config.exempt_sources))
        steps.append(read_languages(config))
        if config.max_line_repeats is not None:
            recurring = self.overview.recurring
            steps.append(CutRecurring(recurring, config.min_line_words, config.max_recurring_frac))
        cut = read_line_cut(config.rules)
        if cut is not None:
            steps.append(CutLines(cut))
        if self.rules:
            steps.append(Rules(self.rules))
        if config.bad_words is not None:
            steps.append(BadWords(read_bad_words(config.bad_words)))
        steps += self._model_steps()
        if config.decontaminate:
            steps.append(Decontaminate(read_decontaminator(config), config.decontaminate_action == "cut"))
        if config.max_host_rejection is not None:
            steps.append(BadHosts(self.overview.hosts, config.url_field, config.max_host_rejection))
        if config.mask_personal:
            steps.append(MaskPersonal(config.personal_kinds, of_all=config.annotate))
        return tuple(steps)

    def _model_steps(self) -> list[Step]:
        """The tests by models of good text."""
        config, steps = self.config, list[Step]()
        if config.quality_model is not None:
            quality = QualityModel(config.quality_model)
            if config.keep_frac is None:
                steps.append(Quality(quality, config.min_quality))
            else:
                steps.append(BestShare(quality, config.keep_frac_by, self.overview.quality))
        if config.word_model is not None:
            words = read_model(config.word_model)
            cuts = self.overview.perplexity
            steps.append(Buckets(words, config.keep_frac_by, config.keep_thirds, cuts))
        return steps

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read of each document beside the text."""
        has_hosts = self.config.block_urls or self.config.max_host_rejection is not None
        has_groups = self.config.keep_frac is not None or self.config.word_model is not None
        grouped = fields_of(self.config.keep_frac_by) if has_groups else []
        return tuple(dict.fromkeys(["source", *grouped, *([self.config.url_field] if has_hosts else [])]))

    def __call__(self, batch: Batch) -> Part:
        """Judge each document: kept lines go on as they came, rejected ones aside with the reason."""
        config = self.config
        table = self.judge_batch(batch)
        documents = table.documents
        is_kept = np.full(len(documents), True) if config.annotate else table.first < 0
        side: dict[str, bytes] = {}
        if config.annotate:
            lines, sizes = self._written(table, np.arange(len(documents)), has_found=True)
        else:
            lines, sizes = self._write_kept(table, is_kept)
        if config.rejected is not None:
            side[REJECTED] = self._written(table, np.flatnonzero(~is_kept), has_found=True)[0]
        counts = count(table, is_kept, sizes)
        note = explain(table) if config.explain else None
        return Part(lines=lines, side=side, counts=counts, bad=documents.bad, note=note)

    def judge_batch(self, batch: Batch) -> Table:
        """Read a batch and make the tests."""
        config = self.config
        return self.judge(read_documents(batch, config.text_field, self.fields, on_error=config.on_error))

    def judge(self, documents: Documents) -> Table:
        """Make the tests, each of the documents that those before have left, or if asked of all."""
        table = Table(documents, is_thorough=self.config.annotate or self.config.explain)
        for step in self.steps:
            step(table)
        return table

    def _write_kept(self, table: Table, is_kept: Mask) -> tuple[bytes, NDArray[np.int64]]:
        """Copy the lines that stay, whole runs of them at once; returns them and the bytes of each."""
        documents = table.documents
        if (table.is_edited & is_kept).any():
            return self._written(table, np.flatnonzero(is_kept), has_found=False)
        lines = join_lines(documents.batch.lines, documents.starts[is_kept], documents.ends[is_kept])
        return lines, documents.sizes() * is_kept

    def _written(
        self, table: Table, places: NDArray[np.int64], *, has_found: bool
    ) -> tuple[bytes, NDArray[np.int64]]:
        """Write lines one by one, with what was found where that is asked for, which is not in the sizes."""
        documents = table.documents
        sizes = np.zeros(len(documents), np.int64)
        written = []
        for place in places.tolist():
            line = documents.line(place)
            if table.is_edited[place]:
                line = documents.line_with(place, table.texts.text(place), self.config.text_field)
            sizes[place] = len(line)
            if has_found:
                line = add_field(line, FIELD, describe(table, place, has_features=self.config.annotate))
            written.append(line)
        return b"".join(written), sizes


def describe(table: Table, place: int, *, has_features: bool) -> dict[str, Any]:
    """Say what was found of a document, as it is written into it."""
    found: dict[str, Any] = {}
    if table.first[place] >= 0:
        test = table.tests[table.first[place]]
        found |= {"rule": test.rule, "value": test.value(place), "bound": test.bound}
    found |= {name: values[place] for name, values in table.notes.items() if values[place] is not None}
    if table.is_exempt[place] or not table.languages[table.language[place]]:
        return found
    found["language"] = table.languages[table.language[place]]
    found["confidence"] = float(table.confidence[place])
    if has_features:
        found["features"] = {
            name: round(float(values[place]), 6)
            for name, values in table.features.items()
            if not np.isnan(values[place])
        }
    if not np.isnan(table.quality[place]):
        found["quality"] = round(float(table.quality[place]), 6)
    return found


def read_languages(config: FilterConfig) -> Languages:
    """Read the language model that the settings name."""
    model = Scripts() if config.lid_model == BY_SCRIPT else LanguageModel(config.lid_model)
    return Languages(model, config.languages, config.min_language_confidence)


@lru_cache(maxsize=1)
def read_decontaminator(config: FilterConfig) -> Decontaminator:
    """Read the evaluation sets that the settings name; once, whoever asks."""
    return Decontaminator.read(
        config.decontaminate,
        config.decontaminate_fields,
        n_words=config.decontaminate_words,
        min_words=config.decontaminate_min_words,
        min_share=config.decontaminate_min_share,
        quote_words=config.decontaminate_quote_words,
    )
