"""Lines cut out of a text, as C4 did: what a line must be like to stay. Plain Python, the definition."""

import re
from dataclasses import dataclass

from dsllm.text import scan
from dsllm.text.scan import CJK, character_classes

CITATION = re.compile(r"\[(?:[0-9]*|edit|citation needed)\]")


@dataclass(frozen=True)
class LineCut:
    """What a line must be like to stay.

    Attributes:
        ends: it ends in one of these.
        not_ends: it does not end in one of these.
        min_words: it has as many words, between white space; each CJK character is one more.
        max_word_chars: none of its words, between white space, is longer; None for no bound.
        without: it has none of these phrases, ASCII letters in any case.
        strip_citations: "[1]", "[edit]" and "[citation needed]" are taken out first.
    """

    ends: tuple[str, ...] = ()
    not_ends: tuple[str, ...] = ()
    min_words: int = 0
    max_word_chars: int | None = None
    without: tuple[str, ...] = ()
    strip_citations: bool = False


def cut_lines(text: str, cut: LineCut) -> str:
    """Give the lines that stay, without white space around each, joined by line feeds."""
    kept = (_kept_line(line.strip(), cut) for line in scan.lines(text))
    return "\n".join(line for line in kept if line is not None).strip()


def _kept_line(line: str, cut: LineCut) -> str | None:
    words = line.split()
    if cut.max_word_chars is not None and any(len(word) > cut.max_word_chars for word in words):
        return None
    classes = character_classes()
    if len(words) + sum(classes[ord(each)] == CJK for each in line) < cut.min_words:
        return None
    if cut.strip_citations:
        line = CITATION.sub("", line)
    lower = re.sub("[A-Z]+", lambda found: found[0].lower(), line)
    is_kept = (not cut.ends or line.endswith(cut.ends)) and not (cut.not_ends and line.endswith(cut.not_ends))
    return line if is_kept and not any(phrase in lower for phrase in cut.without) else None
