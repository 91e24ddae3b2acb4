"""What a worker does with a batch of documents: their tokens, and the facts that are counted."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dsllm.io.documents import Batch, parse_batch
from dsllm.stages.tokenize.config import TokenizeEncodeConfig
from dsllm.stages.tokenize.shards import Encoded, Int64s
from dsllm.stages.tokenize.statistics import source_name
from dsllm.stages.tokenize.uses_compiled import spell
from dsllm.text.bpe import Encoder, Ids, Merges
from dsllm.text.json_lines import parse_each, read_values
from dsllm.text.texts import Texts
from dsllm.text.tokenizer_facts import TokenizerFacts
from dsllm.text.tokenizer_files import LoadedTokenizer, load_tokenizer
from dsllm.text.tokenizer_tables import Tables, read_tables

CHECK_EVERY_LINES = 50  # one document in so many is decoded again and compared
FIELDS = ("source", "lang")  # by which tokens are counted


@dataclass(frozen=True)
class EncodeTask:
    """Encodes a batch; the threads of a process share its encoder."""

    config: TokenizeEncodeConfig

    def __reduce__(self) -> Any:
        return EncodeTask, (self.config,)  # a worker reads the tokenizer itself

    @property
    def releases_lock(self) -> bool:
        """Whether the compiled encoder can do what this tokenizer does."""
        return isinstance(self.merges, Merges)

    @property
    def merges(self) -> Merges | str:
        """The tables of the compiled encoder, or why it cannot be used."""
        return self._tables[0]

    @property
    def facts(self) -> TokenizerFacts | LoadedTokenizer:
        """The tokenizer's ids."""
        return self._tables[1] or self.library

    @cached_property
    def _tables(self) -> Tables:
        return read_tables(self.config.tokenizer)

    @cached_property
    def library(self) -> LoadedTokenizer:
        """The tokenizer as the library `tokenizers` has it."""
        return load_tokenizer(self.config.tokenizer)

    @cached_property
    def _compared(self) -> "EncodeTask | None":
        if self.config.compare is None:
            return None
        return EncodeTask(replace(self.config, tokenizer=self.config.compare, compare=None))

    @cached_property
    def _encoder(self) -> Encoder:
        assert isinstance(self.merges, Merges)
        return Encoder(self.merges, self.config.parse_special)

    def __call__(self, batch: Batch) -> Encoded:
        """Encode the documents of a batch, EOS after each."""
        values = None
        if self.config.text_field not in FIELDS:
            values = read_values(batch.lines, self.config.text_field, FIELDS)
        if values is None:
            return self._encode_parsed(batch)
        names, languages = (parse_each(values.raws(batch.lines, field)) for field in range(len(FIELDS)))
        return self._encode(batch, values.texts, batch.first_line + values.places, names, languages)

    def _encode_parsed(self, batch: Batch) -> Encoded:
        documents, bad = parse_batch(batch, text_field=self.config.text_field, on_error=self.config.on_error)
        texts = Texts.join([document.text.encode() for document in documents])
        line_numbers = np.array([document.line_number for document in documents], np.int64)
        names, languages = ([document.fields.get(field) for document in documents] for field in FIELDS)
        return replace(self._encode(batch, texts, line_numbers, names, languages), bad=bad)

    def _encode(
        self, batch: Batch, texts: Texts, line_numbers: Int64s, names: list[Any], languages: list[Any]
    ) -> Encoded:
        tokens, ends = self.encode(texts)
        groups, group_of = _groups(
            (source_name(name, batch.source), language if isinstance(language, str) else "")
            for name, language in zip(names, languages, strict=True)
        )
        compared = None if self._compared is None else np.diff(self._compared.encode(texts)[1], prepend=0)
        return Encoded(
            source_index=batch.source_index,
            n_read=batch.n_read,
            tokens=tokens,
            lengths=np.diff(ends, prepend=0),
            line_numbers=line_numbers,
            text_bytes=np.diff(texts.ends, prepend=0),
            compared=np.zeros(len(ends), np.int64) if compared is None else compared,
            is_lossy=self._check(line_numbers, texts, tokens, ends),
            groups=groups,
            group_of=group_of,
            bad=[],
        )

    def encode(self, texts: Texts) -> tuple[Ids, Int64s]:
        """Give the ids of all texts, EOS behind each, and where those of each end."""
        eos_id = self.facts.eos_id
        if self.releases_lock:
            return self._encoder.encode(texts, eos_id)
        strings = [texts.text(place) for place in range(len(texts.ends))]
        encoded = self.library.encode_batch(strings, parse_special=self.config.parse_special)
        ends = np.cumsum([len(token_ids) + 1 for token_ids in encoded], dtype=np.int64)
        tokens = np.full(int(ends[-1]) if len(ends) else 0, eos_id or 0, np.uint32)
        for end, token_ids in zip(ends.tolist(), encoded, strict=True):
            tokens[end - 1 - len(token_ids) : end - 1] = token_ids
        return tokens, ends

    def _check(self, line_numbers: Int64s, texts: Texts, tokens: Ids, ends: Int64s) -> npt.NDArray[np.bool_]:
        """Decode one document in some again: says which came back changed."""
        is_lossy = np.zeros(len(ends), np.bool_)
        for place in np.flatnonzero(line_numbers % CHECK_EVERY_LINES == 1).tolist():
            token_ids = tokens[ends[place - 1] if place else 0 : ends[place] - 1]
            if self._words is None:
                is_lossy[place] = self.decode(token_ids.tolist()) != texts.raw(place)
            else:
                is_lossy[place] = not spell(token_ids, self._words.data, self._words.ends, texts.part(place))
        return is_lossy

    @cached_property
    def _words(self) -> Texts | None:
        """The bytes of each id's word, where a text is those of its tokens."""
        if isinstance(self.facts, TokenizerFacts) and self.facts.is_byte_level:
            return Texts.join(self.facts.words)
        return None

    def decode(self, ids: list[int]) -> bytes:
        """Turn ids into text: by the words' bytes where that is all that the tokenizer does."""
        if isinstance(self.facts, TokenizerFacts) and self.facts.is_byte_level:
            return self.facts.decode(ids)
        return self.library.decode(ids).encode()

    def n_bytes_of(self, ids: list[int]) -> list[int]:
        """Count the bytes that each id stands for."""
        if isinstance(self.facts, TokenizerFacts) and self.facts.is_byte_level:
            return list(map(len, map(self.facts.words.__getitem__, ids)))
        return [len(self.decode([identity])) for identity in ids]


def _groups(keys: Iterable[tuple[str, str]]) -> tuple[list[tuple[str, str]], Int64s]:
    """Give the different keys in the order in which they are met, and which of them each one is."""
    numbers: dict[tuple[str, str], int] = {}
    group_of = [numbers.setdefault(key, len(numbers)) for key in keys]
    return [*numbers], np.array(group_of, np.int64)
