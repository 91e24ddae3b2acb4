"""The tests of one document, and the task that filters a batch of them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from dsllm.io.documents import Batch, Document, parse_batch
from dsllm.stages.filter.classifiers import LanguageModel, QualityModel
from dsllm.stages.filter.config import FilterConfig
from dsllm.stages.filter.rules import Reason, Rule, first_broken, read_rules
from dsllm.text.features import FEATURES, Page
from dsllm.workers.documents import Part

ANY_LANGUAGE = "any"
FIELD = "dsllm_filter"
REJECTED = "rejected"  # the side stream
MAX_SOURCES = 100  # in one batch; where there are more, `source` is no list of sources but of web sites
MANY_SOURCES = "(many)"


@dataclass(frozen=True)
class Verdict:
    """What the tests found; without a reason the document stays. `language` is None where none was made."""

    language: str | None = None
    confidence: float | None = None
    quality: float | None = None
    reason: Reason | None = None

    def to_dict(self) -> dict[str, Any]:
        """What is written into a document."""
        found = {"language": self.language, "confidence": self.confidence, "quality": self.quality}
        reason = vars(self.reason) if self.reason else {}
        return {**reason, **{name: value for name, value in found.items() if value is not None}}


@dataclass(frozen=True)
class Filter:
    """The task: judges the documents of a batch. Models and rules are read where it runs."""

    config: FilterConfig

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules, in the order in which they are tried."""
        return read_rules(self.config.rules)

    @cached_property
    def language_model(self) -> LanguageModel:
        """The language model that was given, or the shipped one."""
        return LanguageModel(self.config.lid_model)

    @cached_property
    def quality_model(self) -> QualityModel | None:
        """The quality model, where one was given."""
        return QualityModel(self.config.quality_model) if self.config.quality_model else None

    def __call__(self, batch: Batch) -> Part:
        """Judge each document: kept lines go on as they came, rejected ones aside with the reason."""
        config = self.config
        documents, bad = parse_batch(batch, text_field=config.text_field, on_error=config.on_error)
        kept: list[bytes] = []
        rejected: list[bytes] = []
        counts: Counter[str] = Counter(n_documents=0, n_kept=0, n_line_bytes=0, n_kept_bytes=0)
        name_source = _source_namer(documents)
        for document in documents:
            verdict = self.judge(document)
            _count(counts, document, verdict, name_source(document), is_kept=config.annotate)
            if config.annotate:
                kept.append(self._annotated(document, verdict))
            elif verdict.reason is None:
                kept.append(document.line)
            elif config.rejected is not None:
                rejected.append(_with_field(document, verdict.to_dict()))
        side = {REJECTED: b"".join(rejected)} if config.rejected is not None else {}
        return Part(lines=b"".join(kept), side=side, counts=dict(counts), bad=bad)

    def judge(self, document: Document) -> Verdict:
        """Try the language, then the rules, then the quality; stop at the first failure."""
        config = self.config
        if document.fields.get("source") in config.exempt_sources:
            return Verdict()
        language, confidence = self.language_model.guess(document.text)
        reason = self._wrong_language(language, confidence)
        reason = reason or first_broken(self.rules, Page(document.text, language))
        quality = None
        if reason is None and self.quality_model is not None:
            quality = self.quality_model.score(document.text)
            if quality < config.min_quality:
                reason = Reason("quality", quality, config.min_quality)
        return Verdict(language, confidence, quality, reason)

    def _wrong_language(self, language: str, confidence: float) -> Reason | None:
        wanted = self.config.languages
        if language not in wanted and ANY_LANGUAGE not in wanted:
            return Reason("language", language, list(wanted))
        if confidence < self.config.min_language_confidence:
            return Reason("language_confidence", confidence, self.config.min_language_confidence)
        return None

    def _annotated(self, document: Document, verdict: Verdict) -> bytes:
        """Write all that is known of a document into it, also what comes after the first failure."""
        found = verdict.to_dict()
        if verdict.language is not None:
            page = Page(document.text, verdict.language)
            names = [rule.feature for rule in self.rules if rule.is_for(page.language)]
            found["features"] = {name: round(FEATURES[name](page), 6) for name in names}
            if self.quality_model is not None:
                found["quality"] = self.quality_model.score(document.text)
        return _with_field(document, found)


def _with_field(document: Document, value: dict[str, Any]) -> bytes:
    return orjson.dumps({**document.fields, FIELD: value}) + b"\n"


def _source_namer(documents: list[Document]) -> Callable[[Document], str]:
    """Return a function that names a document's source for the counts."""

    def name(document: Document) -> str:
        source = document.fields.get("source")
        return source if isinstance(source, str) else "(none)"

    has_many = len({name(document) for document in documents}) > MAX_SOURCES
    return (lambda _: MANY_SOURCES) if has_many else name


def _count(counts: Counter[str], document: Document, verdict: Verdict, source: str, *, is_kept: bool) -> None:
    """Count a document under the rule that rejects it, its language and its source."""
    n_bytes = len(document.line)
    is_kept = is_kept or verdict.reason is None
    groups = [f"source.{source}."]
    if verdict.language is None:
        counts["n_exempt"] += 1
    else:
        groups.append(f"language.{verdict.language}.")
    counts["n_line_bytes"] += n_bytes  # a shard's own record has n_bytes
    for group in groups:
        counts[f"{group}n_bytes"] += n_bytes
    for group in ["", *groups]:
        counts[f"{group}n_documents"] += 1
        counts[f"{group}n_kept"] += is_kept
        counts[f"{group}n_kept_bytes"] += n_bytes * is_kept
    if verdict.reason:
        counts[f"rule.{verdict.reason.rule}.n_documents"] += 1
        counts[f"rule.{verdict.reason.rule}.n_bytes"] += n_bytes
