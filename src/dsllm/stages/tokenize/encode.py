"""`dsllm tokenize encode`: from documents to token shards, in a stream that can be taken up again.

Workers encode batches; this process appends the results in order and ends a shard at the document that
reaches `shard_tokens`. Each shard is recorded with the place in the input where it ends (file and line), so
an interrupted run goes on from there: what lies before is read or passed over, not encoded again.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError
from dsllm.io.documents import Batch
from dsllm.io.folder import OutputFolder
from dsllm.io.sources import Source, find_sources, read_batches, total_bytes
from dsllm.io.token_formats import token_format
from dsllm.progress import Bar, Reporter
from dsllm.stages.tokenize.config import PAD_VOCAB_TO, TokenizeEncodeConfig
from dsllm.stages.tokenize.encode_task import EncodeTask
from dsllm.stages.tokenize.shards import ShardedTokens, Words
from dsllm.stages.tokenize.statistics import estimate_text_bytes
from dsllm.stages.tokenize.vocabulary import check_tokenizer_folder, model_vocab_size, padded
from dsllm.text.compiled import announce_compiling
from dsllm.text.tokenizer_files import TOKENIZER_FILES
from dsllm.workers.pool import map_ordered

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
        ConfigError: the vocabulary shall be padded otherwise than the tokenizer's folder says.
        InputError: no document, or the tokenizer cannot be read or names no end of a sequence.
    """
    with ThreadPoolExecutor(1) as thread:  # hashes the inputs meanwhile
        found = thread.submit(find_sources, inputs)
        task, content = _prepare(config)
        sources = found.result()
    with OutputFolder(
        output,
        stage="tokenize encode",
        config=config,
        inputs=inputs,
        options=options,
        more_inputs=[config.tokenizer, config.compare],
    ) as out:
        _copy_tokenizer(Path(config.tokenizer), out)
        token_shards = token_format(config.format, content["vocab_size"])
        shards = ShardedTokens(out, config.shard_tokens, n_ids=task.facts.n_ids, token_format=token_shards)
        with shards, reporter.bar("tokenize encode", total=total_bytes(sources), unit="bytes") as bar:
            _encode_all(task, sources, shards, options=options, reporter=reporter, bar=bar)
        if not shards.has_documents:
            raise InputError(f"{', '.join(inputs)}: no document in it", hint="check what wrote it")
        if streams := [source.stream_hash.hexdigest() for source in sources if source.stream_hash]:
            out.set_stream_hash(streams[0])
        counts = shards.counts(Words(set(task.facts.special_tokens.values()), task.decode, task.n_bytes_of))
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
    task, content = _prepare(config)
    n_bytes = estimate_text_bytes(sources)
    n_tokens = None if n_bytes is None else n_bytes // TEXT_BYTES_PER_TOKEN
    estimates: dict[str, Any] = dict.fromkeys(("n_tokens", "n_shards", "n_output_bytes", "seconds"))
    bytes_per_s = TEXT_BYTES_PER_S if task.releases_lock else LIBRARY_TEXT_BYTES_PER_S
    if n_bytes is not None and n_tokens is not None:
        estimates = {
            "n_tokens": n_tokens,
            "n_shards": -(-n_tokens // config.shard_tokens),
            "n_output_bytes": n_tokens * np.dtype(content["dtype"]).itemsize,
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


def _prepare(config: TokenizeEncodeConfig) -> tuple[EncodeTask, dict[str, Any]]:
    """Read the tokenizer, and say what a folder made with it holds."""
    for folder in (config.tokenizer, config.compare):
        if folder is not None:
            check_tokenizer_folder(folder)
    task = EncodeTask(config)
    tokenizer = task.facts
    if tokenizer.eos_id is None:
        raise InputError(
            f"{config.tokenizer}: names no eos_token, and each document ends with one",
            hint='put "eos_token" into its tokenizer_config.json',
        )
    vocab_size = model_vocab_size(config.tokenizer, tokenizer.n_ids, config.pad_vocab_to)
    if config.pad_vocab_to != PAD_VOCAB_TO and vocab_size != padded(tokenizer.n_ids, config.pad_vocab_to):
        raise ConfigError(
            f"pad_vocab_to is {config.pad_vocab_to}, but {config.tokenizer} states a vocabulary of"
            f" {vocab_size:,}",
            hint="leave out --pad-vocab-to",
        )
    content = {
        "kind": "tokens",
        **({} if config.format == "dsllm" else {"format": config.format}),
        "dtype": np.dtype(token_format(config.format, vocab_size).dtype).name,
        "vocab_size": vocab_size,
        "bos_id": tokenizer.bos_id,
        "eos_id": tokenizer.eos_id,
    }
    return task, content


def _copy_tokenizer(folder: Path, out: OutputFolder) -> None:
    for name in TOKENIZER_FILES:
        if (folder / name).is_file() and name not in out.finished:
            with out.create(name) as file:
                file.write((folder / name).read_bytes())


def _encode_all(
    task: EncodeTask,
    sources: list[Source],
    shards: ShardedTokens,
    *,
    options: RunOptions,
    reporter: Reporter,
    bar: Bar,
) -> None:
    batches = _remaining_batches(sources, shards.end_source, shards.end_line, bar)
    if isinstance(task.merges, str):
        reporter.say(f"dsllm: {task.config.tokenizer}: {task.merges}; encoding by the library `tokenizers`")
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
