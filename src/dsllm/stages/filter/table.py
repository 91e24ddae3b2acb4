"""The documents of a batch as columns, and what the tests have found of each: what the steps work on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.io.documents import BadLine, Batch, parse_fields
from dsllm.io.edit import replace_text
from dsllm.text.json_lines import lines_of, parse_each, read_values
from dsllm.text.texts import Texts

Places = NDArray[np.int64]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
UNKNOWN = ""  # the language of a document of which none was looked for


@dataclass(frozen=True)
class Documents:
    """The documents of a batch, in order; all arrays are of that length.

    `starts` and `ends` say where each one's line is in `batch.lines`, its line feed included, which the last
    may lack. `fields` has the values of other fields as they are written, "null" where there is none.
    `places` says which line of the batch each one is, counted from 0.
    `text_spans`, shape (n, 2), says where in `batch.lines` the texts are as they are written, quotes and all;
    (0, 0) where that was not found out.
    """

    batch: Batch
    texts: Texts
    starts: Places
    ends: Places
    text_spans: NDArray[np.int64]
    places: Places
    fields: dict[str, list[bytes]]
    bad: list[BadLine]

    def __len__(self) -> int:
        return len(self.starts)

    def line_number(self, place: int) -> int:
        """Say which line of its file a document is, counted from 1."""
        return self.batch.first_line + int(self.places[place])

    def line(self, place: int) -> bytes:
        """Give a document's line, with its line feed."""
        line = self.batch.lines[self.starts[place] : self.ends[place]]
        return line if line.endswith(b"\n") else line + b"\n"

    def line_with(self, place: int, text: str, text_field: str) -> bytes:
        """Give a document's line with another text in it, all else byte for byte where that can be."""
        line = self.line(place)
        first, last = (self.text_spans[place] - self.starts[place]).tolist()
        if self.text_spans[place, 1]:
            return line[:first] + orjson.dumps(text) + line[last:]
        return replace_text(line, text_field, text)

    def sizes(self) -> NDArray[np.int64]:
        """Give the bytes of each line, line feed included."""
        sizes = self.ends - self.starts
        if len(sizes) and self.batch.lines[self.ends[-1] - 1 : self.ends[-1]] != b"\n":
            sizes[-1] += 1
        return sizes

    def values(self, name: str) -> list[Any]:
        """Parse the values of a field; None for "null"."""
        return parse_each(self.fields[name])


def read_documents(
    batch: Batch, text_field: str, fields: Sequence[str], *, on_error: Literal["stop", "skip"]
) -> Documents:
    """Read a batch without a Python object per text; what the compiled reader is not sure of, orjson reads.

    Raises:
        DocumentError: a line is no document and `on_error` is "stop".
    """
    starts, ends = lines_of(batch)
    lines = batch.lines
    found = None if text_field in fields else read_values(lines, text_field, fields, bounds=(starts, ends))
    if found is not None:
        raws = {name: found.raws(lines, at) for at, name in enumerate(fields)}
        places = found.places
        spans = found.spans[:, 0]
        return Documents(batch, found.texts, starts[places], ends[places], spans, places, raws, [])
    numbered, bad = parse_fields(batch, text_field=text_field, on_error=on_error)
    places = np.array([number - batch.first_line for number, _, _ in numbered], np.int64)
    texts = Texts.join([values[text_field].encode() for _, _, values in numbered])
    raws = {name: [orjson.dumps(values.get(name)) for _, _, values in numbered] for name in fields}
    no_spans = np.zeros((len(numbered), 2), np.int64)
    return Documents(batch, texts, starts[places], ends[places], no_spans, places, raws, bad)


@dataclass(frozen=True)
class Trial:
    """One test as it was made of a batch: which documents failed it, what was found of each, the bound.

    `values` are numbers, or what else JSON knows.
    """

    rule: str
    broken: Mask
    values: Sequence[Any] | Floats
    bound: Any

    def value(self, place: int) -> Any:
        """Give what was found of a document."""
        value = self.values[place]
        return round(float(value), 6) if isinstance(value, np.floating | float) else value


@dataclass
class Table:
    """The documents and what is known of them so far; a step reads it and writes into it.

    `texts` are the documents' own until a step edits them (`edit`). `languages[language[i]]` is the language
    of document i. NaN: not known. `looked_at` says which documents the next test must look at: those that no
    test has rejected, or with `is_thorough` all but the exempt.
    """

    documents: Documents
    is_thorough: bool = False
    texts: Texts = field(init=False)
    is_edited: Mask = field(init=False)
    looked_at: Mask = field(init=False)
    is_exempt: Mask = field(init=False)
    languages: list[str] = field(init=False)
    language: NDArray[np.int64] = field(init=False)
    confidence: Floats = field(init=False)
    quality: Floats = field(init=False)
    features: dict[str, Floats] = field(default_factory=dict)
    notes: dict[str, Sequence[Any]] = field(default_factory=dict)
    tests: list[Trial] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)  # what else the manifest has to say
    first: NDArray[np.int64] = field(init=False)  # the first test that each one failed, -1 for none

    def __post_init__(self) -> None:
        n = len(self.documents)
        self.texts = self.documents.texts
        self.is_edited, self.is_exempt = np.zeros(n, bool), np.zeros(n, bool)
        self.looked_at = np.ones(n, bool)
        self.languages, self.language = [UNKNOWN], np.zeros(n, np.int64)
        self.confidence, self.quality = np.full(n, np.nan), np.full(n, np.nan)
        self.first = np.full(n, -1)

    def exempt(self, mask: Mask) -> None:
        """Leave documents out of all tests that follow."""
        self.is_exempt |= mask
        self.looked_at &= ~mask

    @property
    def left(self) -> Mask:
        """Say which documents no test has rejected, the exempt among them; with `is_thorough`, all."""
        return np.ones(len(self.documents), bool) if self.is_thorough else self.first < 0

    def test(
        self,
        rule: str,
        broken: Mask,
        values: Sequence[Any] | Floats,
        bound: Any,
        *,
        spares_exempt: bool = True,
    ) -> None:
        """Record a test: of the documents looked at, those where `broken` is set have failed it.

        `values`, one a document, say what was found, `bound` what was allowed; both end up in the reason.
        """
        if spares_exempt:
            broken = broken & ~self.is_exempt
        self.first[broken & (self.first < 0)] = len(self.tests)
        self.tests.append(Trial(rule, broken, values, bound))
        if not self.is_thorough:
            self.looked_at &= ~broken

    def edit(self, texts: Texts, edited: Mask) -> None:
        """Put other texts in place, of which those where `edited` is set differ; such lines are rewritten."""
        self.texts = texts
        self.is_edited |= edited

    def note(self, name: str, values: Sequence[Any]) -> None:
        """Keep something else that was found of each document, for `describe`; None is left out."""
        self.notes[name] = values

    def is_language(self, languages: frozenset[str]) -> Mask:
        """Tell which documents are of one of these languages."""
        return np.array([language in languages for language in self.languages], bool)[self.language]
