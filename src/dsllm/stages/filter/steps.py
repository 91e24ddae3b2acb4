"""The tests of `dsllm filter`, each over all documents of a batch, in the order in which they are made.

A step is a function of the table: it looks at the documents that `table.looked_at` names and records what it
finds (`Table.test`, `Table.edit`, `Table.note`). `judge.Filter.steps` lists them: a new one is a line there.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dsllm.errors import ConfigError, InputError
from dsllm.stages.filter.classifiers import LanguageModel, QualityModel
from dsllm.stages.filter.rules import NOT_PROSE, Rule
from dsllm.stages.filter.scripts import Scripts
from dsllm.stages.filter.table import UNKNOWN, Table
from dsllm.text.cut_lines import LineCut
from dsllm.text.cut_lines_compiled import cut_texts
from dsllm.text.features_compiled import is_quick, measure
from dsllm.text.phrases_compiled import MIN_PHRASE_BYTES, count_phrases

ANY_LANGUAGE = "any"

Step = Callable[[Table], None]


@dataclass(frozen=True)
class ExemptSources:
    """Documents from some sources are left out of every test."""

    sources: tuple[str, ...]

    def __call__(self, table: Table) -> None:
        """Look at the field `source`."""
        found = table.documents.values("source")
        table.exempt(np.array([value in self.sources for value in found], bool))


@dataclass(frozen=True)
class Languages:
    """Documents must be of a wanted language, with some confidence."""

    model: LanguageModel | Scripts
    wanted: tuple[str, ...]
    min_confidence: float

    def check(self) -> None:
        """Ask whether documents can be of the wanted languages.

        Raises:
            ConfigError: one of them is none that the model knows.
        """
        for language in self.wanted:
            if language not in (ANY_LANGUAGE, *self.model.labels):
                raise ConfigError(
                    f"languages: {language!r} is none that the language model names",
                    hint=f"it names {', '.join(self.model.labels)}; `{ANY_LANGUAGE}` keeps all",
                )

    def __call__(self, table: Table) -> None:
        """Guess the language of all documents but the exempt."""
        places = np.flatnonzero(table.looked_at)
        labels, index, confidence = self.model.guess_all(table.texts.take(places))
        table.languages = [*labels, UNKNOWN]
        table.language[:] = len(labels)
        table.language[places], table.confidence[places] = index, confidence
        if ANY_LANGUAGE not in self.wanted:
            names = [table.languages[index] for index in table.language.tolist()]
            is_other = table.looked_at & ~table.is_language(frozenset(self.wanted))
            table.test("language", is_other, names, list(self.wanted))
        is_unsure = table.looked_at & (table.confidence < self.min_confidence)
        table.test("language_confidence", is_unsure, table.confidence, self.min_confidence)


@dataclass(frozen=True)
class CutLines:
    """Lines are cut out of the documents that are text in a natural language."""

    cut: LineCut

    def __call__(self, table: Table) -> None:
        """Edit the texts; the tests that follow look at what is left."""
        wanted = table.looked_at & ~table.is_language(NOT_PROSE)
        table.edit(*cut_texts(table.texts, self.cut, wanted))


@dataclass(frozen=True)
class Rules:
    """Features must lie within the bounds of the rules."""

    rules: Sequence[Rule]

    def __call__(self, table: Table) -> None:
        """Compute the features that the rules for each document's language name, then try the rules.

        Rules at the beginning that ask for no word are tried first: what they reject is not cut into words.
        """
        n_quick = next((at for at, rule in enumerate(self.rules) if not is_quick(rule.feature)), 0)
        for rules in (self.rules[:n_quick], self.rules[n_quick:]):
            self._try(table, rules)

    def _try(self, table: Table, rules: Sequence[Rule]) -> None:
        self._measure(table, rules)
        for rule in rules:
            values = table.features[rule.feature]
            is_meant = table.looked_at & rule.applies_to(table.languages)[table.language]
            for bound, is_beyond in rule.beyond(values):
                table.test(rule.name, is_meant & is_beyond, values, bound)

    def _measure(self, table: Table, rules: Sequence[Rule]) -> None:
        """Compute features language by language, those together that ask for the same; others stay NaN."""
        languages = [table.languages[index] for index in table.language.tolist()]
        by_names: dict[tuple[str, ...], list[str]] = {}
        for language in table.languages:
            names = dict.fromkeys(rule.feature for rule in rules if rule.is_for(language))
            by_names.setdefault(tuple(names), []).append(language)
        n = len(table.documents)
        most, least = ({}, {}) if table.is_thorough else (_most(rules), _least(rules))
        for rule in rules:
            table.features.setdefault(rule.feature, np.full(n, np.nan))
        for asked, group in by_names.items():
            wanted = table.looked_at & table.is_language(frozenset(group))
            if asked and wanted.any():
                found = measure(table.texts, languages, asked, wanted, most, least)
                for at, name in enumerate(asked):
                    np.copyto(table.features[name], found[:, at], where=wanted)


def _most(rules: Sequence[Rule]) -> dict[str, float]:
    """Give for each feature what passes all its rules, where these have nothing against small values."""
    most: dict[str, float] = {}
    for rule in rules:
        allowed = -math.inf if rule.max is None or rule.min is not None else rule.max
        most[rule.feature] = min(most.get(rule.feature, math.inf), allowed)
    return {feature: allowed for feature, allowed in most.items() if allowed >= 0}


def _least(rules: Sequence[Rule]) -> dict[str, float]:
    """Give for each feature what passes all its rules, where these have nothing against great values."""
    least: dict[str, float] = {}
    for rule in rules:
        asked = math.inf if rule.min is None or rule.max is not None else rule.min
        least[rule.feature] = max(least.get(rule.feature, -math.inf), asked)
    return {feature: asked for feature, asked in least.items() if asked < math.inf}


@dataclass(frozen=True)
class BadWords:
    """No word or phrase of a list must be in a document."""

    phrases: tuple[str, ...]

    def __call__(self, table: Table) -> None:
        """Count them in the documents that are looked at."""
        n_found = count_phrases(table.texts, self.phrases, table.looked_at)
        table.test("bad_words", table.looked_at & (n_found > 0), n_found.astype(np.float64), 0)


def read_bad_words(path: str) -> tuple[str, ...]:
    """Read a list of words and phrases, one a line.

    Raises:
        InputError: no such file, or it is not UTF-8.
        ConfigError: a word is too short to be looked for, or there is none.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", hint="give --bad-words a text file, a word a line") from None
    words = dict.fromkeys(line.strip().encode().lower().decode() for line in lines if line.strip())
    short = [word for word in words if len(word.encode()) < MIN_PHRASE_BYTES]
    if short or not words:
        raise ConfigError(
            f"{path}: {short[0]!r} is too short to be looked for" if short else f"{path}: no word in it",
            hint=f"words of {MIN_PHRASE_BYTES} letters or more, one a line",
        )
    return tuple(words)


@dataclass(frozen=True)
class Quality:
    """The quality model must find a document good."""

    model: QualityModel
    least: float

    def __call__(self, table: Table) -> None:
        """Score the documents that are looked at."""
        places = np.flatnonzero(table.looked_at)
        table.quality[places] = self.model.score_all(table.texts.take(places))
        table.test("quality", table.looked_at & (table.quality < self.least), table.quality, self.least)
