"""Samples: records of fine-tuning data as token ids in memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from dsllm.config import RunOptions
from dsllm.errors import DocumentError, InputError
from dsllm.io.documents import BadLine, Batch
from dsllm.io.records import parse_record, record_error
from dsllm.io.sources import Source, find_sources, read_batches
from dsllm.progress import Reporter
from dsllm.text.chat import ChatTokens
from dsllm.text.tokenizer_files import LoadedTokenizer, load_tokenizer
from dsllm.train.batches import IGNORED, Int64s, TokenBatch
from dsllm.workers.pool import map_ordered

Encode = Callable[[Mapping[str, Any], LoadedTokenizer], list[ChatTokens]]


@dataclass(frozen=True, kw_only=True)
class ReadSettings:
    """How records become samples.

    Args:
        tokenizer: folder of the tokenizer.
        encode: turns a record's fields into its sequences: one, or the two of a pair.
        seq_len: longest sequence; of longer ones the beginning is kept.
        on_error: at a record that is none: stop, or set it aside.
        on_long: at a sequence that is too long: cut it, drop its record, or stop.
        on_empty: at one that the cut leaves nothing to learn: stop, or drop its record.
    """

    tokenizer: str
    encode: Encode
    seq_len: int
    on_error: Literal["stop", "skip"] = "stop"
    on_long: Literal["cut", "drop", "stop"] = "cut"
    on_empty: Literal["stop", "drop"] = "stop"


@dataclass
class Samples:
    """Sequences one behind the other in three arrays; a record has `n_parts` of them in a row.

    `is_learnt` marks the tokens that are targets; a first token never is. `counts` says what was read, cut
    and dropped.
    """

    n_parts: int
    tokens: npt.NDArray[np.int32]
    is_learnt: npt.NDArray[np.bool_]
    starts: Int64s  # (n_sequences + 1,)
    counts: dict[str, int] = field(default_factory=dict)
    bad_lines: list[BadLine] = field(default_factory=list)

    def __len__(self) -> int:
        """How many records."""
        return (len(self.starts) - 1) // self.n_parts

    @cached_property
    def lengths(self) -> Int64s:
        """Tokens of each sequence, shape (n_records, n_parts)."""
        return np.diff(self.starts).reshape(-1, self.n_parts)

    @cached_property
    def costs(self) -> Int64s:
        """Tokens of each record when its parts are padded to the longest, shape (n_records,)."""
        return np.asarray(self.lengths.max(axis=1) * self.n_parts)

    @cached_property
    def n_learnt(self) -> Int64s:
        """Targets of each record, shape (n_records,)."""
        totals = np.concatenate([[0], np.cumsum(self.is_learnt)])
        per_sequence = totals[self.starts[1:]] - totals[self.starts[:-1]]
        return np.asarray(per_sequence.reshape(-1, self.n_parts).sum(axis=1))

    def batch(self, records: Sequence[int] | Int64s) -> TokenBatch:
        """Pad records into one micro-batch: first parts in rows 0..n-1, second parts in n..2n-1."""
        sequences = [
            record * self.n_parts + part for part in range(self.n_parts) for record in map(int, records)
        ]
        longest = int(self.lengths[records].max()) - 1
        tokens = torch.zeros((len(sequences), longest), dtype=torch.int64)
        labels = torch.full((len(sequences), longest), IGNORED, dtype=torch.int64)
        for row, sequence in enumerate(sequences):
            part = slice(self.starts[sequence], self.starts[sequence + 1])
            ids = torch.from_numpy(self.tokens[part].astype(np.int64))
            learnt = torch.from_numpy(self.is_learnt[part])
            tokens[row, : len(ids) - 1] = ids[:-1]
            labels[row, : len(ids) - 1] = ids[1:].masked_fill(~learnt[1:], IGNORED)
        return TokenBatch(tokens=tokens, labels=labels)

    def select(self, records: Int64s) -> "Samples":
        """Take some of the records, in the order given."""
        sequences = (records[:, None] * self.n_parts + np.arange(self.n_parts)).ravel()
        parts = [slice(self.starts[i], self.starts[i + 1]) for i in sequences]
        return Samples(
            self.n_parts,
            np.concatenate([self.tokens[part] for part in parts]),
            np.concatenate([self.is_learnt[part] for part in parts]),
            np.concatenate([[0], np.cumsum(np.diff(self.starts)[sequences])]),
        )


def read_samples(
    inputs: Sequence[str], settings: ReadSettings, *, options: RunOptions, reporter: Reporter
) -> Samples:
    """Read, encode and check all records, on as many workers as there are.

    Raises:
        DocumentError: a record that is none; it names file and line.
        InputError: standard input, nothing to train on, or a sequence that must not be as long as it is.
    """
    if "-" in inputs:
        raise InputError(
            "training data comes from files: a run that goes on reads them again",
            hint="write it to a file first: cat > data.jsonl",
        )
    sources = find_sources(inputs)
    batches = _batches(sources)
    parts = []
    with reporter.bar("encode", total=sum(source.n_bytes for source in sources) or None, unit="bytes") as bar:
        task = _EncodeBatch(settings)
        for part, n_read in map_ordered(task, batches, options=options, describe=Batch.describe):
            parts.append(part)
            bar.advance(n_read)
    samples = _join(parts)
    if not len(samples):
        raise InputError(
            f"{', '.join(inputs)}: no sample to train on ({_say_counts(samples.counts)})",
            hint="check the files with: dsllm inspect, and a longer --seq-len",
        )
    return samples


def _batches(sources: Sequence[Source]) -> Iterator[Batch]:
    return chain.from_iterable(map(read_batches, sources))


@dataclass(frozen=True)
class _EncodeBatch:
    """Encode the records of some lines; also say how many bytes they took from the file."""

    settings: ReadSettings

    @cached_property
    def _tokenizer(self) -> LoadedTokenizer:
        return load_tokenizer(self.settings.tokenizer)

    def __call__(self, batch: Batch) -> tuple[Samples, int]:
        builder = _Builder(self.settings)
        for line_number, line in enumerate(batch.lines.split(b"\n"), start=batch.first_line):
            if not line or line.isspace():
                continue
            record = parse_record(batch.source, line_number, line)
            if isinstance(record, BadLine):
                builder.set_aside(
                    record, hint="mend the line, or give --on-error skip to set such lines aside"
                )
                continue
            try:
                sequences = self.settings.encode(record.fields, self._tokenizer)
            except InputError as error:
                builder.set_aside(record.bad(error.message), hint=error.hint)
                continue
            builder.add(sequences, record.place)
        return builder.samples(), batch.n_read


class _Builder:
    """Collects sequences, and the account of those that are cut or left out."""

    def __init__(self, settings: ReadSettings) -> None:
        self.settings = settings
        self.sequences: list[ChatTokens] = []
        self.bad_lines: list[BadLine] = []
        self.counts = dict.fromkeys(("n_cut", "n_dropped_long", "n_dropped_empty"), 0)
        self.n_parts = 1

    def set_aside(self, bad: BadLine, *, hint: str) -> None:
        if self.settings.on_error == "stop":
            raise record_error(bad, hint=hint)
        self.bad_lines.append(bad)

    def add(self, sequences: list[ChatTokens], place: str) -> None:
        limit = self.settings.seq_len
        longest = max(len(one.token_ids) for one in sequences)
        if longest > limit:
            if self.settings.on_long == "stop":
                raise DocumentError(
                    f"{place}: {longest:,} tokens, but seq_len is {limit:,}",
                    hint=f"give --seq-len {longest}, or --on-long cut or drop",
                )
            if self.settings.on_long == "drop":
                self.counts["n_dropped_long"] += 1
                return
            sequences = [ChatTokens(one.token_ids[:limit], one.loss_mask[:limit]) for one in sequences]
            if not all(any(one.loss_mask[1:]) for one in sequences):
                self._add_empty(place, longest)
                return
            self.counts["n_cut"] += 1
        self.n_parts = len(sequences)
        self.sequences += sequences

    def _add_empty(self, place: str, longest: int) -> None:
        if self.settings.on_empty == "stop":
            raise DocumentError(
                f"{place}: of {longest:,} tokens none of the first {self.settings.seq_len:,} is an answer's",
                hint=f"give a longer --seq-len (up to {longest}), or --on-empty drop",
            )
        self.counts["n_dropped_empty"] += 1

    def samples(self) -> Samples:
        starts = np.cumsum([0] + [len(one.token_ids) for one in self.sequences], dtype=np.int64)
        tokens = chain.from_iterable(one.token_ids for one in self.sequences)
        masks = chain.from_iterable(one.loss_mask for one in self.sequences)
        is_learnt = np.fromiter(masks, np.bool_, int(starts[-1]))
        is_learnt[starts[:-1]] = False
        return Samples(
            self.n_parts,
            np.fromiter(tokens, np.int32, int(starts[-1])),
            is_learnt,
            starts,
            self.counts,
            self.bad_lines,
        )


def _join(parts: Sequence[Samples]) -> Samples:
    if not parts:
        return _Builder(ReadSettings(tokenizer="", encode=lambda fields, tokenizer: [], seq_len=1)).samples()
    lengths = np.concatenate([np.diff(part.starts) for part in parts])
    counts = {name: sum(part.counts[name] for part in parts) for name in parts[0].counts}
    bad_lines = [line for part in parts for line in part.bad_lines]
    joined = Samples(
        max(part.n_parts for part in parts),
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.is_learnt for part in parts]),
        np.concatenate([[0], np.cumsum(lengths)]),
        counts | {"n_skipped": len(bad_lines)},
        bad_lines,
    )
    joined.counts |= {"n_samples": len(joined), "n_loss_tokens": int(joined.n_learnt.sum())}
    return joined


def _say_counts(counts: Mapping[str, int]) -> str:
    left_out = {
        "too long": "n_dropped_long",
        "nothing left to learn": "n_dropped_empty",
        "no record": "n_skipped",
    }
    return ", ".join(f"{counts.get(name, 0):,} {what}" for what, name in left_out.items())
