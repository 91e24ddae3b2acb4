"""Answers in generated text: cut at the stop texts, found by pattern, compared exactly.

The semantics are those of lm-evaluation-harness: its `regex` filter with `take_first`, then `exact_match`.
"""

import re
from collections.abc import Sequence

from dsllm.stages.eval.task import Extraction, TaskSettings

INVALID = "[invalid]"


def cut_at(text: str, stop: Sequence[str]) -> str:
    """Return what stands before the first of the stop texts."""
    for end in stop:
        text = text.split(end, 1)[0] if end else text
    return text


def extract(text: str, extraction: Extraction) -> str:
    """Find the answer in a generation; `[invalid]` when there is none."""
    matches = re.findall(extraction.pattern, text)
    if not matches:
        return INVALID
    match = matches[0 if extraction.pick == "first" else -1]
    if isinstance(match, tuple):  # the pattern has several groups
        match = next((group for group in match if group), INVALID)
    return str(match).strip()


def is_match(answer: str, accepted: Sequence[str], settings: TaskSettings) -> bool:
    """Tell whether an answer equals one of those accepted, after removing what the task ignores."""
    return any(_plain(answer, settings) == _plain(text, settings) for text in accepted)


def _plain(text: str, settings: TaskSettings) -> str:
    for pattern in settings.ignore:
        text = re.sub(pattern, "", text)
    return text.lower() if settings.ignore_case else text
