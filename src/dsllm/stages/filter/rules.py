"""Rules as data: a feature, its bounds and the languages it is for, read from TOML.

    [[rules]]
    name = "too_short"          # optional, the feature's name if not given; what counts and reasons say
    feature = "n_words"         # one of dsllm.text.features.FEATURES
    min = 50                    # the smallest value that passes
    max = 100_000               # the greatest
    languages = ["en"]          # only for these; without, for every language
    except_languages = ["zh"]   # or: for all but these

    [lines]                     # optional: lines that stay; see dsllm.text.cut_lines.LineCut for the keys
    ends = [".", "?", "!"]
    min_words = 3

Lines are cut first, of documents in any natural language, and the rules look at what is left, which is then
the document's text. The order of the file is the order of the tests. Source code and text without letters are
no language: only rules that name `code` or `none` are for them.
"""

import dataclasses
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import ConfigError, InputError
from dsllm.text.cut_lines import LineCut
from dsllm.text.features import FEATURES
from dsllm.text.page import Page
from dsllm.text.phrases_compiled import MIN_PHRASE_BYTES

PRESET_FOLDER = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.toml")))
NO_RULES = "none"
NOT_PROSE = frozenset({"code", "none"})


@dataclass(frozen=True)
class Rule:
    """A test that a document passes when its feature lies within the bounds, both of them included."""

    name: str
    feature: str
    min: float | None
    max: float | None
    languages: frozenset[str] | None
    except_languages: frozenset[str]

    def is_for(self, language: str) -> bool:
        """Tell whether documents of this language are tested."""
        if self.languages is not None:
            return language in self.languages
        return language not in self.except_languages and language not in NOT_PROSE

    def applies_to(self, languages: Sequence[str]) -> NDArray[np.bool_]:
        """Tell for which of these languages documents are tested."""
        return np.array([self.is_for(language) for language in languages], bool)

    def beyond(self, values: NDArray[np.float64]) -> list[tuple[float, NDArray[np.bool_]]]:
        """List each bound with a mask of the values that are beyond it; NaN is within."""
        found = []
        if self.min is not None:
            found.append((self.min, values < self.min))
        if self.max is not None:
            found.append((self.max, values > self.max))
        return found


@dataclass(frozen=True)
class Reason:
    """Why a document is rejected: the test, what was found and what was allowed."""

    rule: str
    value: Any
    bound: Any


def first_broken(rules: Sequence[Rule], page: Page) -> Reason | None:
    """Apply the rules for the page's language in order; return the first that it breaks.

    This is the definition, for one document; `steps.Rules` does the same to a batch.
    """
    for rule in rules:
        if rule.is_for(page.language):
            value = FEATURES[rule.feature](page)
            for bound, is_beyond in rule.beyond(np.array(value)):
                if is_beyond:
                    return Reason(rule.name, round(value, 6), bound)
    return None


def rules_path(preset_or_file: str) -> Path | None:
    """Find the file of a preset, or take the file that is named; None for no rules.

    Raises:
        InputError: it is neither.
    """
    if preset_or_file == NO_RULES:
        return None
    if preset_or_file in PRESETS:
        return PRESET_FOLDER / f"{preset_or_file}.toml"
    path = Path(preset_or_file)
    if not path.is_file():
        raise InputError(
            f"{preset_or_file}: neither a file nor one of the presets {', '.join(PRESETS)}",
            hint="give --rules a preset, a TOML file, or none",
        )
    return path


def read_rules(preset_or_file: str) -> tuple[Rule, ...]:
    """Read the rules of a preset or of a file.

    Raises:
        InputError: no such preset or file.
        ConfigError: the file is no TOML, or a rule in it cannot be.
    """
    return _read_file(rules_path(preset_or_file))[0]


def read_line_cut(preset_or_file: str) -> LineCut | None:
    """Read which lines a preset or a file cuts; None for none.

    Raises:
        InputError: as `read_rules`.
        ConfigError: as `read_rules`.
    """
    return _read_file(rules_path(preset_or_file))[1]


def _read_file(path: Path | None) -> tuple[tuple[Rule, ...], LineCut | None]:
    if path is None:
        return (), None
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:  # not TOML, or not UTF-8
        raise ConfigError(f"{path}: not TOML: {error}", hint="mend the file at that place") from None
    rules = table.pop("rules", None)
    lines = _read_lines(table.pop("lines", None), f"{path}, [lines]")
    if table or not isinstance(rules, list):
        raise ConfigError(
            f"{path}: {', '.join(table) or 'no rules'} at the top level",
            hint="write each rule under [[rules]]",
        )
    return tuple(_read_rule(rule, f"{path}, rule {at}") for at, rule in enumerate(rules, start=1)), lines


def _read_lines(values: Any, place: str) -> LineCut | None:
    """Read what `[lines]` says."""
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: {values!r} is no table", hint="write its keys under [lines]")
    known = {field.name: field for field in dataclasses.fields(LineCut)}
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{place}: unknown key {key!r}", hint=f"known keys: {', '.join(known)}")
        default = known[key].default
        kind = list if isinstance(default, tuple) else bool if isinstance(default, bool) else int
        items = value if isinstance(value, list) else ["item"]
        if type(value) is not kind or not all(isinstance(item, str) and item for item in items):
            raise ConfigError(f"{place}: {key} is {value!r}", hint=f"give a {kind.__name__}")
        found[key] = tuple(value) if isinstance(value, list) else value
    if any(len(phrase.encode()) < MIN_PHRASE_BYTES for phrase in found.get("without", ())):
        raise ConfigError(f"{place}: a phrase in without is too short", hint="give three letters or more")
    return LineCut(**{**found, "without": tuple(map(_lower_ascii, found.get("without", ())))})


def _lower_ascii(phrase: str) -> str:
    return phrase.encode().lower().decode()


def _is_a(kind: type, value: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    if kind is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, kind)


def _read_rule(values: Any, place: str) -> Rule:
    known = {
        "name": str,
        "feature": str,
        "min": float,
        "max": float,
        "languages": list,
        "except_languages": list,
    }
    if not isinstance(values, dict):
        raise ConfigError(f"{place}: {values!r} is no table", hint="write each rule under [[rules]]")
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{place}: unknown key {key!r}", hint=f"known keys: {', '.join(known)}")
        if not _is_a(known[key], value):
            kind = {str: "a string", float: "a number", list: "a list of languages"}[known[key]]
            raise ConfigError(f"{place}: {key} is {value!r}", hint=f"give {kind}")
    feature = str(values.get("feature"))
    if feature not in FEATURES:
        raise ConfigError(f"{place}: feature is {feature}", hint=f"known features: {', '.join(FEATURES)}")
    lower, upper = values.get("min"), values.get("max")
    if lower is None and upper is None:
        raise ConfigError(f"{place}: {feature} has neither min nor max", hint="give one of them, or both")
    if lower is not None and upper is not None and lower > upper:
        raise ConfigError(f"{place}: min is {lower}, max is {upper}", hint="no value lies between them")
    if "languages" in values and "except_languages" in values:
        raise ConfigError(f"{place}: both languages and except_languages", hint="give one of them")
    languages = values.get("languages")
    return Rule(
        name=str(values.get("name", feature)),
        feature=feature,
        min=lower,
        max=upper,
        languages=None if languages is None else frozenset(languages),
        except_languages=frozenset(values.get("except_languages", ())),
    )
