"""Encoded documents into shards, with all that an interrupted run needs to go on.

A shard's tokens are recorded last: what stands beside them (offsets, lines set aside, and in the scratch
folder the statistics up to its end) is then there already.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dsllm.io.atomic import write_atomic
from dsllm.io.documents import BadLine
from dsllm.io.folder import OutputFolder
from dsllm.io.token_formats import TokenFormat
from dsllm.io.tokens import TokenWriter
from dsllm.progress import Reporter
from dsllm.stages.tokenize.statistics import SourceCounts
from dsllm.stages.tokenize.uses_compiled import count_uses

COUNTED_AT_ONCE = 1 << 22  # tokens
NO_LANGUAGE = "(none)"
N_LONGEST, N_SHOWN = 20, 8

Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """What a worker makes of a batch: the documents' tokens back to back, and a column for each other fact.

    Args:
        source_index: which of the inputs.
        n_read: bytes read for the batch, for progress.
        tokens: uint32, shape (n_tokens,).
        lengths: tokens of each document, int64, shape (n_documents,), as the two that follow.
        line_numbers: in the input, from 1.
        text_bytes: of each text, in UTF-8.
        compared: tokens that another tokenizer takes, 0 where none was asked for.
        is_lossy: per document: True where it was decoded again and another text came back.
        groups: source and language of documents, "" for no language; each pair once.
        group_of: which of these each document has.
        bad: the lines that are no documents, in order.
    """

    source_index: int
    n_read: int
    tokens: npt.NDArray[np.uint32]
    lengths: Int64s
    line_numbers: Int64s
    text_bytes: Int64s
    compared: Int64s
    is_lossy: npt.NDArray[np.bool_]
    groups: list[tuple[str, str]]
    group_of: Int64s
    bad: list[BadLine]


@dataclass
class _Totals:
    """Everything that was counted up to the end of the last shard."""

    n_skipped: int = 0
    n_lossy: int = 0
    sources: SourceCounts = field(default_factory=SourceCounts)
    languages: SourceCounts = field(default_factory=SourceCounts)

    def to_json(self) -> bytes:
        by_name = {"sources": self.sources.by_name, "languages": self.languages.by_name}
        return json.dumps({"n_skipped": self.n_skipped, "n_lossy": self.n_lossy, **by_name}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        values = json.loads(data)
        groups = (SourceCounts.from_json(values[name]) for name in ("sources", "languages"))
        return cls(values["n_skipped"], values["n_lossy"], *groups)


@dataclass(frozen=True)
class Words:
    """What the ids stand for: which are special tokens, the bytes of the others, and how many these are."""

    special_ids: set[int]
    decode: Callable[[list[int]], bytes]
    n_bytes: Callable[[list[int]], list[int]]


class ShardedTokens:
    """The shards of a token folder, from the first that an interrupted run did not finish.

    `end_source` and `end_line` say where in the inputs the last finished shard ends; 0 and 0 at the start.
    """

    def __init__(
        self, out: OutputFolder, shard_tokens: int, *, n_ids: int, token_format: TokenFormat
    ) -> None:
        self._out = out
        self._shard_tokens = shard_tokens
        self._format = token_format
        self._uses = np.zeros(n_ids, np.int64)
        self._totals = _Totals()
        self._bad: list[tuple[int, BadLine]] = []  # with the index of the source; not yet set aside
        self.end_source = self.end_line = 0
        n_finished = self._take_up()
        self._writer = TokenWriter(out, first_shard=n_finished, token_format=token_format)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    @property
    def has_documents(self) -> bool:
        """Whether any document was encoded."""
        return bool(self._totals.sources.by_name)

    def append(self, encoded: Encoded) -> None:
        """Append the documents of a batch; shards that become full on the way are ended."""
        self._bad += [(encoded.source_index, line) for line in encoded.bad]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(encoded.lengths)])
        first, n_documents = 0, len(encoded.lengths)
        while first < n_documents:
            room = self._shard_tokens - self._writer.n_tokens
            last = min(n_documents, int(np.searchsorted(starts, starts[first] + room)))
            tokens = encoded.tokens[starts[first] : starts[last]]
            self._writer.add(tokens, encoded.lengths[first:last])
            count_uses(tokens, self._uses)
            self._count(encoded, first, last)
            self.end_source, self.end_line = encoded.source_index, int(encoded.line_numbers[last - 1])
            if self._writer.n_tokens >= self._shard_tokens:
                self._end_shard()
            first = last

    def end(self) -> None:
        """End the last shard, and set aside the lines behind it."""
        if self._writer.n_documents:
            self._end_shard()
        self._set_aside(self._bad)
        self._bad = []

    def counts(self, words: "Words") -> dict[str, Any]:
        """Give the manifest's counts; unused words occur nowhere."""
        is_word = np.ones(len(self._uses), bool)
        is_word[sorted(words.special_ids)] = False
        n_words, n_unused = int(is_word.sum()), int((self._uses[is_word] == 0).sum())
        languages = self._totals.languages.sources()
        return {
            **self._totals.sources.totals(),
            "n_skipped": self._totals.n_skipped,
            "n_lossy": self._totals.n_lossy,
            "n_words": n_words,
            "unused_words_frac": round(n_unused / max(1, n_words), 4),
            "longest_words": self._longest_words(np.flatnonzero(is_word & (self._uses > 0)), words),
            "sources": self._totals.sources.sources(),
            **({"languages": languages} if set(languages) != {NO_LANGUAGE} else {}),
        }

    def _longest_words(self, ids: Int64s, words: "Words") -> list[dict[str, Any]]:
        """Describe the used words that stand for the most bytes."""
        n_bytes = np.array(words.n_bytes(ids.tolist()), np.int64)
        longest = np.argsort(-n_bytes, kind="stable")[:N_LONGEST]
        return [
            {
                "id": identity,
                "text": words.decode([identity]).decode(errors="replace"),
                "n_bytes": length,
                "n_uses": int(self._uses[identity]),
            }
            for identity, length in zip(ids[longest].tolist(), n_bytes[longest].tolist(), strict=True)
        ]

    def report(self, counts: dict[str, Any], reporter: Reporter) -> None:
        """Say how well the tokenizer fits."""
        self._totals.sources.show("Encoded", reporter)
        if "languages" in counts:
            self._totals.languages.show("By language", reporter, "language")
        longest = ", ".join(f"{word['text']!r}" for word in counts["longest_words"][:N_SHOWN])
        reporter.say(f"The longest words: {longest}")
        reporter.say(f"{counts['unused_words_frac']:.1%} of the {counts['n_words']:,} words occur nowhere")
        if self._totals.n_skipped:
            reporter.say_set_aside(self._totals.n_skipped)
        if self._totals.n_lossy:
            reporter.say(
                f"dsllm: warning: {self._totals.n_lossy:,} of the documents decoded again came back changed:"
                " this tokenizer loses something"
            )

    def _count(self, encoded: Encoded, first: int, last: int) -> None:
        self._totals.n_lossy += int(encoded.is_lossy[first:last].sum())
        part, n_groups = slice(first, last), len(encoded.groups)
        groups = encoded.group_of[part]
        n_documents = np.bincount(groups, minlength=n_groups).tolist()
        sums = [
            np.bincount(groups, weights=column[part], minlength=n_groups).astype(np.int64).tolist()
            for column in (encoded.lengths, encoded.text_bytes, encoded.compared)
        ]
        for (source, language), n, *numbers in zip(encoded.groups, n_documents, *sums, strict=True):
            if n:
                self._totals.sources.add(source, n, *numbers)
                self._totals.languages.add(language or NO_LANGUAGE, n, *numbers)

    def _end_shard(self) -> None:
        end = self.end_source, self.end_line
        before = [pair for pair in self._bad if (pair[0], pair[1].line_number) <= end]
        self._bad = self._bad[len(before) :]
        self._set_aside(before)
        self._out.scratch.mkdir(parents=True, exist_ok=True)
        write_atomic(self._state_path(self._writer.n_shards), self._totals.to_json())
        self._writer.end_shard(end_source=self.end_source, end_line=self.end_line)

    def _set_aside(self, bad: list[tuple[int, BadLine]]) -> None:
        if bad:
            self._totals.n_skipped += len(bad)
            with self._out.create(f"skipped/{self._writer.n_shards:05d}.jsonl") as file:
                file.write(b"".join(line.to_json() for _, line in bad))

    def _take_up(self) -> int:
        """Read what an interrupted run left; return the number of its whole shards."""
        index = 0
        while (
            self._format.tokens_name(index) in self._out.finished
            and self._format.offsets_name(index) in self._out.finished
            and self._state_path(index).is_file()
        ):
            name = self._format.tokens_name(index)
            n_tokens = self._out.finished[name].counts["n_tokens"]
            tokens = self._format.map_tokens(self._out.path / name, n_tokens)
            for start in range(0, n_tokens, COUNTED_AT_ONCE):
                count_uses(np.array(tokens[start : start + COUNTED_AT_ONCE], np.uint32), self._uses)
            index += 1
        if index:
            self._totals = _Totals.from_json(self._state_path(index - 1).read_bytes())
            last = self._out.finished[self._format.tokens_name(index - 1)].counts
            self.end_source, self.end_line = last["end_source"], last["end_line"]
        return index

    def _state_path(self, index: int) -> Any:
        return self._out.scratch / f"shard-{index:05d}.json"
