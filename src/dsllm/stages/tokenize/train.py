"""`dsllm tokenize train`: from documents to a tokenizer folder."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from dsllm.config import RunOptions
from dsllm.errors import InputError
from dsllm.io.documents import BadLine, Document, parse_batch
from dsllm.io.folder import OutputFolder
from dsllm.io.sources import Source, find_sources, read_batches, total_bytes
from dsllm.progress import Bar, Reporter
from dsllm.stages.tokenize.bpe import (
    BOS,
    EOS,
    N_SPECIAL_TOKENS,
    LearnedWords,
    learn_words,
    padded,
    tokenizer_files,
)
from dsllm.stages.tokenize.config import TokenizeTrainConfig
from dsllm.stages.tokenize.statistics import SourceCounts, estimate_text_bytes, source_name
from dsllm.text.tokenizer_files import load_tokenizer

SAMPLE_BYTES = 50_000  # of each source, encoded again to tell bytes per token
SAMPLE_SOURCES = 40
TEXT_BYTES_PER_S = 0.6e6  # read, cut, counted and merged: an order of magnitude, for --plan


def run(
    config: TokenizeTrainConfig,
    inputs: Sequence[str],
    output: str,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Learn a tokenizer from all documents of `inputs`; return what it is.

    Raises:
        InputError: no document in any input.
    """
    sources = find_sources(inputs)
    with OutputFolder(output, stage="tokenize train", config=config, inputs=inputs, options=options) as out:
        with reporter.bar("tokenize train", total=total_bytes(sources), unit="bytes") as bar:
            reader = _Reader(config, sources, bar)
            words = learn_words(reader.read(), config)
        if not reader.n_documents:
            raise InputError(f"{', '.join(inputs)}: no document in it", hint="check what wrote it")
        for name, data in tokenizer_files(words).items():
            with out.create(name) as file:
                file.write(data)
        reader.set_aside(out, reporter)
        sample = _measure(reader.sample, str(out.path))
        counts = {
            "n_documents": reader.n_documents,
            "n_bytes": reader.n_bytes,
            "n_skipped": len(reader.bad),
            "sample": {**sample.totals(), "sources": sample.sources()},
        }
        if streams := [source.stream_hash.hexdigest() for source in sources if source.stream_hash]:
            out.set_stream_hash(streams[0])
        content = _content(words, config)
        out.finish(counts=counts, content=content)
    _report(content, config, sample, reporter)
    return {**counts, **content}


def plan(
    config: TokenizeTrainConfig,
    inputs: Sequence[str],
    output: str,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Say what `run` would read and make, from sizes alone; the estimates are orders of magnitude."""
    sources = find_sources(inputs)
    n_bytes = estimate_text_bytes(sources)
    return {
        "n_files": len(sources),
        "n_input_bytes": total_bytes(sources),
        "n_text_bytes_estimate": n_bytes,
        "output": output,
        "vocab_size": config.vocab_size,
        "model_vocab_size": padded(config.vocab_size + N_SPECIAL_TOKENS, config.pad_vocab_to),
        "seconds_estimate": None if n_bytes is None else round(n_bytes / TEXT_BYTES_PER_S, 1),
    }


@dataclass
class _Reader:
    """Gives the texts to the trainer, counts them, and keeps the first of each source as a sample."""

    config: TokenizeTrainConfig
    sources: list[Source]
    bar: Bar
    n_documents: int = 0
    n_bytes: int = 0
    sample: dict[str, list[str]] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)
    _sampled_bytes: dict[str, int] = field(default_factory=dict)

    def read(self) -> Iterator[list[str]]:
        """Yield the texts of one batch after another."""
        for source in self.sources:
            for batch in read_batches(source):
                documents, bad = parse_batch(
                    batch, text_field=self.config.text_field, on_error=self.config.on_error
                )
                self.bad += bad
                for document in documents:
                    self._count(document, batch.source)
                yield [document.text for document in documents]
                self.bar.advance(batch.n_read)
        self.bar.advance(0, note="merging")

    def _count(self, document: Document, path: str) -> None:
        n_bytes = len(document.text.encode())
        self.n_documents += 1
        self.n_bytes += n_bytes
        name = source_name(document.fields.get("source"), path)
        n_sampled = self._sampled_bytes.get(name, 0)
        if n_sampled < SAMPLE_BYTES and (name in self.sample or len(self.sample) < SAMPLE_SOURCES):
            self.sample.setdefault(name, []).append(document.text[:SAMPLE_BYTES])
            self._sampled_bytes[name] = n_sampled + n_bytes

    def set_aside(self, out: OutputFolder, reporter: Reporter) -> None:
        """Write the lines that were no documents, a file per source."""
        if self.bad:
            reporter.say(f"dsllm: {len(self.bad):,} lines were no documents and were set aside")
        index_of = {source.path: source.index for source in self.sources}
        for path, lines in groupby(self.bad, key=lambda line: line.source):
            with out.create(f"skipped/{index_of.get(path, 0):05d}.jsonl") as file:
                file.write(b"".join(line.to_json() for line in lines))


def _measure(sample: dict[str, list[str]], folder: str) -> SourceCounts:
    """Encode the sample with the tokenizer that was written; every text must come back from its ids."""
    tokenizer = load_tokenizer(folder)
    counts = SourceCounts()
    for name, texts in sample.items():
        for text, token_ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            assert tokenizer.decode(token_ids) == text, f"{name}: a text did not come back from its tokens"
            counts.add(name, 1, len(token_ids), len(text.encode()))
    return counts


def _content(words: LearnedWords, config: TokenizeTrainConfig) -> dict[str, Any]:
    n_words = len(words.ids)
    return {
        "kind": "tokenizer",
        "vocab_size": n_words,
        "n_special_tokens": N_SPECIAL_TOKENS,
        "model_vocab_size": padded(n_words + N_SPECIAL_TOKENS, config.pad_vocab_to),
        "bos_token": BOS,
        "bos_id": n_words,
        "eos_token": EOS,
        "eos_id": n_words + 1,
    }


def _report(
    content: dict[str, Any], config: TokenizeTrainConfig, sample: SourceCounts, reporter: Reporter
) -> None:
    n_words = content["vocab_size"]
    if n_words < config.vocab_size:
        reporter.say(
            f"dsllm: warning: the corpus gave {n_words:,} words, not {config.vocab_size:,}; no other pair"
            f" occurs {config.min_frequency} times"
        )
    sample.show(f"A sample of the corpus, encoded with the {n_words:,} words", reporter)
