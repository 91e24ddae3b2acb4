"""`dsllm tokenize decode`: from token shards back to documents, one shard of lines for each of tokens."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import orjson

from dsllm.config import RunOptions
from dsllm.errors import InputError
from dsllm.io.folder import OutputFolder
from dsllm.io.shards import LineWriter, StandardOutput, line_shard, pack_lines, shard_name
from dsllm.io.tokens import TOKEN_DTYPE, TokenFolder
from dsllm.progress import Reporter
from dsllm.stages.tokenize.config import TokenizeDecodeConfig
from dsllm.text.tokenizer_facts import TextDecoder
from dsllm.workers.pool import map_ordered

TOKENS_AT_ONCE = 1 << 20
Part = tuple[int, int]  # the first document, and the one behind the last


def run(
    config: TokenizeDecodeConfig,
    inputs: Sequence[str],
    output: str,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Write the text of each document as a line of JSON, without its end token; return the counts.

    Raises:
        InputError: not one folder of tokens, or it has no tokenizer.
        ShardError: a shard is damaged.
    """
    folder = _open(inputs)
    task = DecodeTask(str(folder.path), "jsonl" if output == "-" else config.format)
    counts = {"n_documents": folder.n_documents, "n_tokens": folder.n_tokens}
    with reporter.bar("tokenize decode", total=folder.n_tokens, unit="tokens") as bar:

        def write(first: int, last: int, writer: LineWriter) -> None:
            parts = _parts(folder, first, last)
            for n_tokens, packed in map_ordered(task, parts, options=options, reporter=reporter):
                writer.write(packed)
                bar.advance(n_tokens)

        if output == "-":
            write(0, folder.n_documents, StandardOutput())
            return counts
        with OutputFolder(
            output, stage="tokenize decode", config=config, inputs=inputs, options=options
        ) as out:
            for index, (first, last) in enumerate(folder.document_ranges()):
                name = shard_name(index, config.format)
                if name not in out.finished:
                    with _shard(out, name, config.format, last - first) as writer:
                        write(first, last, writer)
            out.finish(counts=counts, content={"kind": "documents", "format": config.format})
    return counts


def plan(
    config: TokenizeDecodeConfig,
    inputs: Sequence[str],
    output: str,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Say what `run` would read and write."""
    folder = _open(inputs)
    return {
        "n_documents": folder.n_documents,
        "n_tokens": folder.n_tokens,
        "n_input_bytes": folder.n_tokens * TOKEN_DTYPE.itemsize,
        "n_shards": len(folder.document_ranges()),
        "output": output,
    }


@dataclass(frozen=True)
class DecodeTask:
    """Decodes documents; each process opens the folder for itself."""

    folder: str
    format: str

    @cached_property
    def _tokens(self) -> TokenFolder:
        return TokenFolder(self.folder)

    @cached_property
    def _decoder(self) -> TextDecoder:
        return TextDecoder.of_folder(self.folder)

    def __call__(self, part: Part) -> tuple[int, bytes]:
        """Give the number of tokens of the documents, and their lines, packed."""
        lines, n_tokens = [], 0
        for index in range(*part):
            ids = self._tokens.document(index)
            n_tokens += len(ids)
            has_end = len(ids) > 0 and int(ids[-1]) == self._tokens.eos_id
            text = self._decoder.decode(ids[: len(ids) - has_end].tolist()).decode(errors="replace")
            lines.append(orjson.dumps({"text": text}) + b"\n")
        return n_tokens, pack_lines(b"".join(lines), self.format)


def _open(inputs: Sequence[str]) -> TokenFolder:
    if len(inputs) != 1:
        raise InputError(
            f"{len(inputs)} inputs: {', '.join(inputs)}", hint="give one folder that tokenize encode wrote"
        )
    return TokenFolder(inputs[0])


def _parts(folder: TokenFolder, first: int, last: int) -> Iterator[Part]:
    """Cut a range of documents so that each part has about TOKENS_AT_ONCE tokens."""
    starts = folder.document_starts()
    while first < last:
        end = int(np.searchsorted(starts, starts[first] + TOKENS_AT_ONCE))
        end = min(last, max(first + 1, end))
        yield first, end
        first = end


def _shard(out: OutputFolder, name: str, format: str, n_documents: int) -> AbstractContextManager[LineWriter]:
    out.set_counts(name, n_documents=n_documents)
    return line_shard(out, name, format)
