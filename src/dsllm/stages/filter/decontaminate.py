"""Decontamination: documents that hold items of evaluation sets.

Every text of an item is looked for in every document (`text/quotes.py`): `n_words` words in a row with at
most one of them changed, or all of a shorter text. A document is contaminated by a text when the quotes of it
cover `min_share` of its words, or one of them `quote_words` words. With a share of 0 any quote counts, which
is the rule of GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C); it meets many a phrase of all authors.

A quote of numbers and signs is none: half of the words that it must cover have to be distinct and have
letters. Hashes only lead to quotes: each is compared as words before it counts, and the one word that may be
another in the document is no part of the share.

What several items have in common is a passage that they ask about, a notice or a template; documents have
it from elsewhere. So of an item that has words of its own, in no `n_words` words in a row of another text,
`min_share` of these must be in the quotes too, and only they count as `quote_words`. A text of fewer than
`n_words` words that MANY_ITEMS ask ("which of the following is not true") is not looked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import InputError
from dsllm.stages.filter.benchmarks import ItemText, read_benchmarks
from dsllm.stages.filter.table import Table
from dsllm.text.edits import Edit, apply_edits
from dsllm.text.quotes import QuoteIndex, own_words, share_covered
from dsllm.text.quotes_compiled import END, FIRST, REFERENCE, REFERENCE_END, REFERENCE_FIRST, TEXT
from dsllm.text.scan import has_words, word_spans, words
from dsllm.text.texts import Texts

SHOWN_WORDS = 40  # of a quote
MANY_ITEMS = 3

Range = tuple[int, int]  # of words of an item, the end behind the last


@dataclass(frozen=True)
class Contamination:
    """What a document has of the text of an item.

    `share` of that text's words are quoted; `quote` is the longest quote as the document has it; `spans` are
    the bytes of all quotes in the document.
    """

    item: str
    share: float
    quote: str
    spans: list[tuple[int, int]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """What is said of it in a rejected document."""
        return {"item": self.item, "share": round(self.share, 4), "ngram": self.quote}


@dataclass(frozen=True, kw_only=True)
class Decontaminator:
    """Looks for the texts of items: see the module."""

    texts: Sequence[ItemText]
    index: QuoteIndex
    own: NDArray[np.bool_]  # of each word of all texts, whether it is its own
    is_common: NDArray[np.bool_]  # of each text, whether many items ask it
    min_share: float
    quote_words: int

    @classmethod
    def read(
        cls,
        paths: Sequence[str],
        fields: Sequence[str] = (),
        *,
        n_words: int = 13,
        min_words: int = 8,
        least_changed: int = 12,
        min_share: float = 0.8,
        quote_words: int = 50,
    ) -> "Decontaminator":
        """Read evaluation sets; of equal texts the first one stands for all.

        Raises:
            InputError: nothing there, or no text that can be looked for.
            DocumentError: a file that is not what its suffix says.
        """
        items: dict[str, list[ItemText]] = {}
        for item in read_benchmarks(paths, fields):
            items.setdefault(item.text, []).append(item)
        texts = [same[0] for same in items.values()]
        references = Texts.join([item.text.encode() for item in texts])
        index = QuoteIndex.build(
            references, n_words=n_words, min_words=min_words, least_changed=least_changed
        )
        if not len(index.seeds):
            raise InputError(
                f"{', '.join(paths)}: no text of {min_words} words or more in any item",
                hint="name the fields that hold them with --decontaminate-fields",
            )
        return cls(
            texts=texts,
            index=index,
            own=own_words(index.references, index.reference_ends, n_words),
            is_common=_find_common(index, list(items.values())),
            min_share=min_share,
            quote_words=quote_words,
        )

    def check(self, texts: Texts) -> dict[int, list[Contamination]]:
        """Find the contaminated ones among texts, by number, each with the worst item first."""
        by_text: dict[int, dict[int, list[list[int]]]] = {}
        for row in self.index.find(texts).tolist():
            by_text.setdefault(row[TEXT], {}).setdefault(row[REFERENCE], []).append(row)
        found = {}
        for number, by_item in by_text.items():
            likely = {item: rows for item, rows in by_item.items() if self._is_likely(item, rows)}
            if likely and (hits := self._judge(texts.text(number), likely)):
                found[number] = hits
        return found

    def _is_likely(self, reference: int, rows: list[list[int]]) -> bool:
        """Tell whether quotes of a reference may be enough, before they are compared as words."""
        if self.is_common[reference]:
            return False
        ranges = [(row[REFERENCE_FIRST], row[REFERENCE_END]) for row in rows]
        share = share_covered(ranges, self.index.size_of(reference))
        return share >= self.min_share or max(end - first for first, end in ranges) >= self.quote_words

    def _judge(self, text: str, by_reference: dict[int, list[list[int]]]) -> list[Contamination]:
        """Compare quotes that may be enough as words; the worst item comes first."""
        text_words, spans = words(text, fold=True), word_spans(text)
        hits = []
        for reference, rows in by_reference.items():
            item = self.texts[reference]
            item_words = words(item.text, fold=True)
            equal = [self._equal_words(text_words, item_words, row) for row in rows]
            quotes = [row for row, ranges in zip(rows, equal, strict=True) if ranges]
            share = share_covered([each for ranges in equal for each in ranges], len(item_words))
            if quotes and self._is_enough(reference, quotes, share):
                longest = max(
                    quotes, key=lambda row: (row[REFERENCE_END] - row[REFERENCE_FIRST], -row[FIRST])
                )
                shown = " ".join(text_words[longest[FIRST] : longest[END]][:SHOWN_WORDS])
                places = [(spans[row[FIRST]][0], spans[row[END] - 1][1]) for row in quotes]
                hits.append(Contamination(item.place, share, shown, _in_bytes(text, places)))
        return sorted(hits, key=lambda hit: (-hit.share, hit.item))

    def _is_enough(self, reference: int, quotes: list[list[int]], share: float) -> bool:
        """Tell whether quotes that have `share` of an item's words say that a document is contaminated."""
        end = self.index.reference_ends[reference]
        own = self.own[end - self.index.size_of(reference) : end]
        if not own.any():
            own = np.ones(len(own), bool)
        is_quoted = np.zeros(len(own), bool)
        n_most = 0
        for row in quotes:
            is_quoted[row[REFERENCE_FIRST] : row[REFERENCE_END]] = True
            n_most = max(n_most, own[row[REFERENCE_FIRST] : row[REFERENCE_END]].sum())
        own_share = is_quoted[own].sum() / own.sum()
        return bool(min(share, own_share) >= self.min_share or n_most >= self.quote_words)

    def _equal_words(self, text_words: list[str], item_words: list[str], row: list[int]) -> list[Range]:
        """Compare a quote word by word: which of the item's are the same, none where it says nothing."""
        quoted = text_words[row[FIRST] : row[END]]
        original = item_words[row[REFERENCE_FIRST] : row[REFERENCE_END]]
        n_needed = min(self.index.n_words, len(item_words))
        n_telling = len({word for word in original if any(map(str.isalpha, word))})
        if 2 * n_telling < n_needed:
            return []
        first = row[REFERENCE_FIRST]
        return [(first + start, first + end) for start, end in equal_but_for_one(quoted, original)]


def _find_common(index: QuoteIndex, items: Sequence[Sequence[ItemText]]) -> NDArray[np.bool_]:
    """Say which short texts many items have, by their words; `items` are those of each text."""
    ends = index.reference_ends
    starts = ends - np.diff(ends, prepend=0)
    asked: dict[bytes, set[tuple[str, int]]] = {}
    short = np.flatnonzero(ends - starts < index.n_words).tolist()
    keys = {number: index.references[starts[number] : ends[number]].tobytes() for number in short}
    for number, key in keys.items():
        asked.setdefault(key, set()).update((item.file, item.number) for item in items[number])
    found = np.zeros(len(items), bool)
    found[[number for number, key in keys.items() if len(asked[key]) >= MANY_ITEMS]] = True
    return found


def equal_but_for_one(quoted: list[str], original: list[str]) -> list[Range]:
    """Give the ranges of `original` that `quoted` has, if one word at most is changed, missing or added.

    Otherwise none.
    """
    n_equal = 0
    for one, other in zip(quoted, original, strict=False):
        if one != other:
            break
        n_equal += 1
    rest, rest_of_original = quoted[n_equal:], original[n_equal:]
    if rest == rest_of_original or rest[1:] == rest_of_original:
        return [(0, len(original))]
    if rest_of_original[1:] in (rest, rest[1:]):
        ranges = [(0, n_equal), (n_equal + 1, len(original))]
        return [(first, end) for first, end in ranges if first < end]
    return []


def _in_bytes(text: str, places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Turn places in characters into places in bytes of UTF-8, joined where they touch or overlap."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(places):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return [(len(text[:start].encode()), len(text[:end].encode())) for start, end in joined]


@dataclass(frozen=True)
class Decontaminate:
    """Contaminated documents go, or what they quote is cut out of them; exempt ones are no exception."""

    decontaminator: Decontaminator
    is_cut: bool

    def __call__(self, table: Table) -> None:
        """Look at all documents that are left."""
        places = np.flatnonzero(table.left)
        found = self.decontaminator.check(table.texts.take(places))
        hits: list[Any] = [None] * len(table.documents)
        for number, contaminations in found.items():
            place = int(places[number])
            hits[place] = {**contaminations[0].to_dict(), "n_items": len(contaminations)}
            for file in {hit.item.rpartition(":")[0] for hit in contaminations if table.first[place] < 0}:
                table.counts[f"benchmark.{file}.n_documents"] += 1
        mask = np.array([hit is not None for hit in hits], bool)
        if self.is_cut and mask.any():
            edits = {
                Edit(int(places[number]), *span)
                for number, contaminations in found.items()
                for hit in contaminations
                for span in hit.spans
            }
            table.edit(apply_edits(table.texts, list(edits)), mask)
            table.note("decontaminated", hits)
            mask &= np.array(
                [bool(mask[place]) and not has_words(table.texts.text(place)) for place in range(len(mask))]
            )
        table.test("decontaminate", mask, hits, self.decontaminator.min_share, spares_exempt=False)
