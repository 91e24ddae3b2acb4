"""`dsllm tokenize encode`: from documents to token shards, in a stream that can be taken up again.

Workers encode batches; this process appends the results in order and ends a shard at the document that
reaches `shard_tokens`. Each shard is recorded with the place in the input where it ends (file and line), so
an interrupted run goes on from there: what lies before is read or passed over, not encoded again.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dsllm.config import RunOptions
from dsllm.errors import InputError
from dsllm.io.documents import Batch, parse_batch
from dsllm.io.folder import OutputFolder
from dsllm.io.sources import Source, find_sources, read_batches, total_bytes
from dsllm.io.tokens import TOKEN_DTYPE
from dsllm.progress import Bar, Reporter
from dsllm.stages.tokenize.config import TokenizeEncodeConfig
from dsllm.stages.tokenize.shards import Encoded, Int64s, ShardedTokens
from dsllm.stages.tokenize.statistics import estimate_text_bytes, source_name
from dsllm.stages.tokenize.vocabulary import check_tokenizer_folder, model_vocab_size
from dsllm.text.bpe import Encoder, Ids, Merges, read_merges
from dsllm.text.compiled import announce_compiling
from dsllm.text.json_lines import read_texts
from dsllm.text.texts import Texts
from dsllm.text.tokenizer_files import TOKENIZER_FILES, LoadedTokenizer, load_tokenizer
from dsllm.workers.pool import map_ordered

CHECK_EVERY_LINES = 50  # one document in so many is decoded again and compared
# One worker: orders of magnitude, for --plan; the second by the library, for tokenizers of other cuts.
TEXT_BYTES_PER_S, LIBRARY_TEXT_BYTES_PER_S = 30e6, 0.7e6
TEXT_BYTES_PER_TOKEN = 4  # likewise


def run(
    config: TokenizeEncodeConfig,
    inputs: Sequence[str],
    output: str,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Encode all documents of `inputs`, EOS after each; return counts and what the folder holds.

    Raises:
        InputError: no document, or the tokenizer cannot be read or names no end of a sequence.
    """
    sources = find_sources(inputs)
    tokenizer, content = _prepare(config)
    with OutputFolder(
        output,
        stage="tokenize encode",
        config=config,
        inputs=inputs,
        options=options,
        more_inputs=[config.tokenizer],
    ) as out:
        _copy_tokenizer(Path(config.tokenizer), out)
        shards = ShardedTokens(out, config.shard_tokens, n_ids=tokenizer.n_ids)
        with shards, reporter.bar("tokenize encode", total=total_bytes(sources), unit="bytes") as bar:
            _encode_all(config, sources, shards, options=options, reporter=reporter, bar=bar)
        if not shards.has_documents:
            raise InputError(f"{', '.join(inputs)}: no document in it", hint="check what wrote it")
        if streams := [source.stream_hash.hexdigest() for source in sources if source.stream_hash]:
            out.set_stream_hash(streams[0])
        counts = shards.counts(set(tokenizer.special_tokens.values()))
        out.finish(counts=counts, content=content)
    shards.report(counts, reporter)
    return {**counts, **content}


def plan(
    config: TokenizeEncodeConfig,
    inputs: Sequence[str],
    output: str,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Say what `run` would read, write and need, from sizes alone; the estimates are orders of magnitude."""
    sources = find_sources(inputs)
    _, content = _prepare(config)
    n_bytes = estimate_text_bytes(sources)
    n_tokens = None if n_bytes is None else n_bytes // TEXT_BYTES_PER_TOKEN
    estimates: dict[str, Any] = dict.fromkeys(("n_tokens", "n_shards", "n_output_bytes", "seconds"))
    is_compiled = isinstance(read_merges(config.tokenizer), Merges)
    bytes_per_s = TEXT_BYTES_PER_S if is_compiled else LIBRARY_TEXT_BYTES_PER_S
    if n_bytes is not None and n_tokens is not None:
        estimates = {
            "n_tokens": n_tokens,
            "n_shards": -(-n_tokens // config.shard_tokens),
            "n_output_bytes": n_tokens * TOKEN_DTYPE.itemsize,
            "seconds": round(n_bytes / bytes_per_s / options.n_workers, 1),
        }
    return {
        "n_files": len(sources),
        "n_input_bytes": total_bytes(sources),
        "n_text_bytes_estimate": n_bytes,
        "output": output,
        **{f"{name}_estimate": value for name, value in estimates.items()},
        **content,
    }


@dataclass(frozen=True)
class EncodeTask:
    """Encodes a batch; each worker has a tokenizer of its own.

    `releases_lock` says that the compiled encoder can do what this tokenizer does.
    """

    config: TokenizeEncodeConfig
    releases_lock: bool

    @cached_property
    def _worker(self) -> threading.local:
        return threading.local()

    @property
    def _tokenizer(self) -> LoadedTokenizer:
        if not hasattr(self._worker, "tokenizer"):
            self._worker.tokenizer = load_tokenizer(self.config.tokenizer)
        tokenizer: LoadedTokenizer = self._worker.tokenizer
        return tokenizer

    @property
    def _encoder(self) -> Encoder:
        if not hasattr(self._worker, "encoder"):
            self._worker.encoder = Encoder(self._merges, self.config.parse_special)
        encoder: Encoder = self._worker.encoder
        return encoder

    @cached_property
    def _merges(self) -> Merges:
        merges = read_merges(self.config.tokenizer)
        assert isinstance(merges, Merges)
        return merges

    def __call__(self, batch: Batch) -> Encoded:
        """Encode the documents of a batch, EOS after each."""
        lines = read_texts(batch.lines, self.config.text_field, "source") if self.releases_lock else None
        if lines is None:
            return self._encode_by_library(batch)
        tokens, ends = self._encoder.encode(lines.texts, self._tokenizer.eos_id)
        return Encoded(
            source_index=batch.source_index,
            n_read=batch.n_read,
            tokens=tokens,
            lengths=np.diff(ends, prepend=0),
            line_numbers=batch.first_line + lines.places,
            text_bytes=np.diff(lines.texts.ends, prepend=0),
            is_lossy=self._check(batch.first_line + lines.places, lines.texts, tokens, ends),
            names=[source_name(name, batch.source) for name in lines.parsed_ids()],
            bad=[],
        )

    def _check(self, line_numbers: Int64s, texts: Texts, tokens: Ids, ends: Int64s) -> npt.NDArray[np.bool_]:
        """Decode one document in some again: says which came back changed."""
        is_lossy = np.zeros(len(ends), np.bool_)
        for place in np.flatnonzero(line_numbers % CHECK_EVERY_LINES == 1).tolist():
            token_ids = tokens[ends[place - 1] if place else 0 : ends[place] - 1].tolist()
            is_lossy[place] = self._tokenizer.decode(token_ids) != texts.text(place)
        return is_lossy

    def _encode_by_library(self, batch: Batch) -> Encoded:
        tokenizer, config = self._tokenizer, self.config
        documents, bad = parse_batch(batch, text_field=config.text_field, on_error=config.on_error)
        texts = [document.text for document in documents]
        encoded = tokenizer.encode_batch(texts, parse_special=config.parse_special)
        is_lossy = [
            document.line_number % CHECK_EVERY_LINES == 1 and tokenizer.decode(token_ids) != document.text
            for document, token_ids in zip(documents, encoded, strict=True)
        ]
        lengths = np.array([len(token_ids) + 1 for token_ids in encoded], np.int64)
        tokens = np.full(int(lengths.sum()), tokenizer.eos_id, np.uint32)
        for end, token_ids in zip(np.cumsum(lengths).tolist(), encoded, strict=True):
            tokens[end - 1 - len(token_ids) : end - 1] = token_ids
        return Encoded(
            source_index=batch.source_index,
            n_read=batch.n_read,
            tokens=tokens,
            lengths=lengths,
            line_numbers=np.array([document.line_number for document in documents], np.int64),
            text_bytes=np.array([len(text.encode()) for text in texts], np.int64),
            is_lossy=np.array(is_lossy, np.bool_),
            names=[source_name(document.fields.get("source"), batch.source) for document in documents],
            bad=bad,
        )


def _prepare(config: TokenizeEncodeConfig) -> tuple[LoadedTokenizer, dict[str, Any]]:
    """Load the tokenizer, and say what a folder made with it holds."""
    check_tokenizer_folder(config.tokenizer)
    tokenizer = load_tokenizer(config.tokenizer)
    if tokenizer.eos_id is None:
        raise InputError(
            f"{config.tokenizer}: names no eos_token, and each document ends with one",
            hint='put "eos_token" into its tokenizer_config.json',
        )
    content = {
        "kind": "tokens",
        "dtype": "uint32",
        "vocab_size": model_vocab_size(config.tokenizer, tokenizer, config.pad_vocab_to),
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
    }
    return tokenizer, content


def _copy_tokenizer(folder: Path, out: OutputFolder) -> None:
    for name in TOKENIZER_FILES:
        if (folder / name).is_file() and name not in out.finished:
            with out.create(name) as file:
                file.write((folder / name).read_bytes())


def _encode_all(
    config: TokenizeEncodeConfig,
    sources: list[Source],
    shards: ShardedTokens,
    *,
    options: RunOptions,
    reporter: Reporter,
    bar: Bar,
) -> None:
    batches = _remaining_batches(sources, shards.end_source, shards.end_line, bar)
    merges = read_merges(config.tokenizer)
    if isinstance(merges, str):
        reporter.say(f"dsllm: {config.tokenizer}: {merges}; encoding by the library `tokenizers`")
    task = EncodeTask(config, releases_lock=isinstance(merges, Merges))
    results = map_ordered(task, batches, options=options, describe=Batch.describe, reporter=reporter)
    with ExitStack() as stack:
        stack.enter_context(announce_compiling(reporter.say))
        stack.callback(getattr(results, "close", lambda: None))  # the workers stop when this process fails
        for encoded in results:
            shards.append(encoded)
            bar.advance(encoded.n_read)
    shards.end()


def _remaining_batches(sources: list[Source], end_source: int, end_line: int, bar: Bar) -> Iterator[Batch]:
    """Yield what lies behind a line of a source; sources before that one are not opened."""
    for source in sources:
        if source.index < end_source:
            bar.advance(source.n_bytes)
            continue
        for batch in read_batches(source):
            rest = _lines_after(batch, end_line) if source.index == end_source else batch
            if rest is None:
                bar.advance(batch.n_read)
            else:
                yield rest


def _lines_after(batch: Batch, end_line: int) -> Batch | None:
    """Cut off the lines up to `end_line`; None when no line is left."""
    n_done = end_line - batch.first_line + 1
    if n_done <= 0:
        return batch
    parts = batch.lines.split(b"\n", n_done)
    if len(parts) <= n_done or not parts[n_done]:
        return None
    return replace(batch, first_line=end_line + 1, lines=parts[n_done])
