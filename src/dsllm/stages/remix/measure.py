"""First pass: the size of each document and the name of its source."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.io.documents import BadLine, Batch, parse_batch
from dsllm.stages.remix.config import RemixConfig
from dsllm.text.bpe import Encoder, Merges
from dsllm.text.json_lines import find_lines, read_texts
from dsllm.text.texts import Texts
from dsllm.text.tokenizer_files import LoadedTokenizer, load_tokenizer
from dsllm.text.tokenizer_tables import read_tables
from dsllm.workers.passes import Columns

# A row a document: bytes of its text, its size as shares count it (bytes or tokens), bytes of its line but
# for the line feed, and a hash of the source's name.
DOCUMENT = np.dtype(
    [("line", "<i8"), ("n_bytes", "<i8"), ("size", "<i8"), ("n_line_bytes", "<i8"), ("name", "<u8")]
)
COLUMNS = ("documents", "names")
NO_NAME = "(none)"

Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Measure:
    """The task: DOCUMENT rows, and the names of the sources met in the batch, one JSON string a line.

    A document whose source field is missing or no string belongs to the source "(none)".
    """

    config: RemixConfig
    input_names: tuple[str, ...]  # by source index; empty where the documents name their sources

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Measure the documents of a batch."""
        read = self._read(batch)
        found, bad = (read, []) if read else self._parse(batch)
        rows = np.zeros(len(found.line_numbers), DOCUMENT)
        rows["line"], rows["n_line_bytes"] = found.line_numbers, found.n_line_bytes
        rows["n_bytes"] = rows["size"] = np.diff(found.texts.ends, prepend=0)
        if self._counter:
            rows["size"] = self._counter.count(found.texts)
        hashes = {name: name_hash(name) for name in dict.fromkeys(found.names)}
        rows["name"] = [hashes[name] for name in found.names]
        names = b"".join(orjson.dumps(name) + b"\n" for name in hashes)
        return Columns({"documents": rows, "names": np.frombuffer(names, np.uint8)}, bad)

    def _read(self, batch: Batch) -> "_Found | None":
        """Read a batch without a Python object for each text; None where a line needs a second look."""
        if self.config.text_field == self.config.source_field:
            return None
        lines = read_texts(batch.lines, self.config.text_field, self.config.source_field)
        if lines is None:
            return None
        starts, ends = find_lines(batch.lines)
        sizes = (ends - starts)[lines.places] - 1
        if len(sizes) and not batch.lines.endswith(b"\n") and lines.places[-1] == len(ends) - 1:
            sizes[-1] += 1
        names = lines.parsed_ids() if not self.input_names else [None] * len(lines.places)
        return _Found(
            batch.first_line + lines.places, lines.texts, sizes, [self._name(batch, name) for name in names]
        )

    def _parse(self, batch: Batch) -> "tuple[_Found, list[BadLine]]":
        config = self.config
        documents, bad = parse_batch(batch, text_field=config.text_field, on_error=config.on_error)
        found = _Found(
            np.array([document.line_number for document in documents], np.int64),
            Texts.join([document.text.encode() for document in documents]),
            np.array([len(document.line) - 1 for document in documents], np.int64),
            [self._name(batch, document.fields.get(config.source_field)) for document in documents],
        )
        return found, bad

    def _name(self, batch: Batch, given: object) -> str:
        if self.input_names:
            return self.input_names[batch.source_index]
        return given if isinstance(given, str) else NO_NAME

    @cached_property
    def _counter(self) -> "TokenCounter | None":
        return TokenCounter(self.config.tokenizer) if self.config.tokenizer is not None else None


@dataclass(frozen=True)
class _Found:
    """The documents of a batch, one value or text each."""

    line_numbers: Int64s
    texts: Texts
    n_line_bytes: Int64s
    names: list[str]


@dataclass(frozen=True)
class TokenCounter:
    """Counts the tokens of texts, for any number of threads."""

    tokenizer: str  # its folder

    def count(self, texts: Texts) -> Int64s:
        """Give the tokens of each text, and one more for its end."""
        if self._encoder:
            return np.diff(self._encoder.encode(texts, 0)[1], prepend=0)
        encoded = self._library.encode_batch([texts.text(place) for place in range(len(texts.ends))])
        return np.array([len(token_ids) + 1 for token_ids in encoded], np.int64)

    @cached_property
    def _encoder(self) -> Encoder | None:
        merges, _ = read_tables(self.tokenizer)
        return Encoder(merges) if isinstance(merges, Merges) else None

    @cached_property
    def _library(self) -> LoadedTokenizer:
        return load_tokenizer(self.tokenizer)


def name_hash(name: str) -> int:
    """Give a name 64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
