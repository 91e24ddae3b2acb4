r"""How other byte-level tokenizers cut texts: recognised by what their tokenizer.json says.

A tokenizer names its cuts by regular expressions. The expressions of GPT-2, GPT-4, GPT-4o, Llama 3, Qwen and
DeepSeek-V3 are known here, each as a rule of `patterns_compiled.py`, which has the same cuts as a loop. Their
Unicode classes are those of the regex engine inside `tokenizers`: that library is asked once per machine what
each code point is, so the edition of Unicode is its own.
"""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.text.compiled import kept_array
from dsllm.text.patterns_compiled import (
    ANY_DIGITS,
    BY_CUTS,
    DEEPSEEK_V3,
    GPT2,
    GPT4,
    GPT4O,
    LETTER,
    LOWER,
    MARK,
    NUMBER,
    SEGMENT,
    SPACE,
    SYMBOL,
    UPPER,
)
from dsllm.text.pretokens import NUMBERS, code_point_ranges, huggingface_pre_tokenizer
from dsllm.text.pretokens_compiled import piece_classes

# Where code points may be assigned; the rest of the planes is unassigned or for private use.
_ASSIGNED = ((0, 0xD800), (0xE000, 0x40000), (0xE0000, 0xE1000))
_CLASSES = {
    LETTER: r"\p{L}",
    NUMBER: r"\p{N}",
    SPACE: r"\s",
    MARK: r"\p{M}",
    SYMBOL: r"[\p{P}\p{S}]",
    UPPER: r"[\p{Lu}\p{Lt}]",
    LOWER: r"\p{Ll}",
}
_DEEPSEEK_CJK = "4E00-9FA5 3040-30FF"

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_OTHERS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]*[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]+"
    rf"{_CONTRACTIONS}?|"
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}]+[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}]*"
    rf"{_CONTRACTIONS}?"
)
# Each pattern: the rule, and how many digits may stand together. `++` takes all that it can, which changes
# nothing where the next part begins with something else.
_PATTERNS = {
    _GPT2: (GPT2, ANY_DIGITS),
    **{
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{_OTHERS}": (GPT4, most)
        for digits, most in ((r"\p{N}{1,3}", 3), (r"\p{N}{1,2}", 2), (r"\p{N}", 1), (r"\p{N}+", ANY_DIGITS))
    },
    **{
        rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?+\p{{L}}+|{digits}|"
        r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+": (GPT4, most)
        for digits, most in ((r"\p{N}{1,3}", 3), (r"\p{N}{1,2}", 2))
    },
    **{
        rf"{_CASED}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": (GPT4O, most)
        for digits, most in ((r"\p{N}{1,3}", 3), (r"\p{N}", 1))
    },
}
_DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
    r""" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)


@dataclass(frozen=True)
class Cuts:
    """How texts are cut into pieces.

    Args:
        rule: one of `patterns_compiled.py`.
        n_digits: how many digits a piece may have.
        classes: of every code point, as the rule takes them.
    """

    rule: int
    n_digits: int
    classes: NDArray[np.uint8]


def cuts_of(pre_tokenizer: Mapping[str, Any] | None) -> Cuts | None:
    """Find the cuts that a tokenizer.json asks for; None for any that are not known here."""
    if pre_tokenizer is None:
        return None
    if pre_tokenizer == _deepseek_llm():
        return Cuts(BY_CUTS, 1, piece_classes())
    given = pre_tokenizer.get("pretokenizers") if pre_tokenizer["type"] == "Sequence" else [pre_tokenizer]
    if not isinstance(given, list) or not given or not all(isinstance(step, dict) for step in given):
        return None
    *steps, last = given
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    if last.get("use_regex", True):
        if steps == [{"type": "Digits", "individual_digits": True}]:
            return Cuts(GPT2, 1, _classes(NUMBERS))
        return Cuts(GPT2, ANY_DIGITS, _classes("")) if not steps else None
    patterns = tuple(_pattern(step) for step in steps)
    if patterns == _DEEPSEEK_V3:
        return Cuts(DEEPSEEK_V3, 3, _classes(_DEEPSEEK_CJK))
    if len(patterns) == 1 and patterns[0] in _PATTERNS:
        rule, n_digits = _PATTERNS[patterns[0]]
        return Cuts(rule, n_digits, _classes(""))
    return None


def _deepseek_llm() -> Any:
    import json

    return json.loads(huggingface_pre_tokenizer().__getstate__())


def _pattern(step: Mapping[str, Any]) -> str | None:
    r"""Give the pattern of a split that keeps matches and what lies between, with escapes for line ends.

    Patterns that match everything may as well be asked to leave out what lies between.
    """
    how = (step.get("behavior"), step.get("invert"))
    if step.get("type") != "Split" or how not in (("Isolated", False), ("Removed", True)):
        return None
    given = step.get("pattern")
    pattern = given.get("Regex") if isinstance(given, dict) else None
    if not isinstance(pattern, str):
        return None
    pattern = pattern.replace("\r", r"\r").replace("\n", r"\n")
    return pattern if how[0] == "Isolated" or pattern in _PATTERNS else None


@functools.cache
def _classes(segment: str) -> NDArray[np.uint8]:
    """Give the classes of every code point, shape (0x110000,); SEGMENT are those of a table."""
    name = f"pattern_classes-{version('tokenizers')}-{hashlib.sha256(segment.encode()).hexdigest()[:8]}"
    return kept_array(name, lambda: _make_classes(segment))


def _make_classes(segment: str) -> NDArray[np.uint8]:
    classes = np.zeros(0x110000, np.uint8)
    for bit, pattern in _CLASSES.items():
        classes[members(pattern)] |= bit
    for first, last in code_point_ranges(segment):
        classes[first : last + 1] |= SEGMENT
    return classes


def members(pattern: str) -> NDArray[np.int64]:
    """Ask the engine of `tokenizers` which code points a pattern for one of them matches, ascending."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import Split

    codes = np.concatenate([np.arange(first, end) for first, end in _ASSIGNED])
    text = codes.astype("<u4").tobytes().decode("utf-32-le")
    is_member = np.ones(len(codes), np.bool_)
    for _, (start, end) in Split(Regex(f"{pattern}+"), "removed").pre_tokenize_str(text):
        is_member[start:end] = False
    return codes[is_member]
