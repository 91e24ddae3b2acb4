"""`dsllm tokenize train`: from documents to a tokenizer folder."""

import json
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from dsllm.config import RunOptions
from dsllm.errors import InputError
from dsllm.io.folder import OutputFolder
from dsllm.io.sources import Source, find_sources, total_bytes
from dsllm.progress import Reporter
from dsllm.stages.tokenize.bpe import (
    BOS,
    EOS,
    N_SPECIAL_TOKENS,
    LearnedWords,
    learn_words,
    padded,
    tokenizer_files,
)
from dsllm.stages.tokenize.config import N_BYTES_IN_UTF8, TokenizeTrainConfig
from dsllm.stages.tokenize.count import Corpus, PieceCount, Tally
from dsllm.stages.tokenize.statistics import SourceCounts, estimate_text_bytes
from dsllm.text.bpe import Encoder, Merges, merges_of_file
from dsllm.text.compiled import announce_compiling
from dsllm.text.texts import Texts
from dsllm.text.tokenizer_files import BYTE_OF_CHARACTER, TOKENIZER_JSON

TEXT_BYTES_PER_S = 30e6  # read, cut and counted, a worker: an order of magnitude, for --plan


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
        with announce_compiling(reporter.say):
            corpus = _count(config, sources, out, options, reporter)
            if not corpus.tally.n_documents:
                raise InputError(f"{', '.join(inputs)}: no document in it", hint="check what wrote it")
            words = _learn(corpus, config, reporter)
        files = tokenizer_files(words)
        for name, data in files.items():
            with out.create(name) as file:
                file.write(data)
        tally = corpus.tally
        _set_aside(tally, out, reporter)
        sample = _measure(tally.sample, words, files[TOKENIZER_JSON])
        counts = {
            "n_documents": tally.n_documents,
            "n_bytes": tally.n_bytes,
            "n_skipped": len(tally.bad),
            "n_pieces": corpus.n_pieces,
            "n_pieces_left_out": corpus.n_left_out,
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


def _count(
    config: TokenizeTrainConfig,
    sources: list[Source],
    out: OutputFolder,
    options: RunOptions,
    reporter: Reporter,
) -> Corpus:
    """Count the pieces of the corpus; says when not all of them fit."""
    with reporter.bar("tokenize train: count", total=total_bytes(sources), unit="bytes") as bar:
        corpus = PieceCount(config, sources, out.scratch, options, reporter, bar).run()
    if corpus.n_left_out:
        share = corpus.n_bytes_left_out / corpus.tally.n_bytes
        reporter.say(
            f"dsllm: warning: {corpus.n_left_out:,} of {corpus.n_pieces:,} distinct pieces do not fit into"
            f" {config.memory}; the rarest were left out, {share:.1%} of the text; give more --memory"
        )
    return corpus


def _learn(corpus: Corpus, config: TokenizeTrainConfig, reporter: Reporter) -> LearnedWords:
    n_known = N_BYTES_IN_UTF8
    with reporter.bar("tokenize train: merge", total=config.vocab_size - n_known, unit="words") as bar:

        def tell(n_words: int) -> None:
            nonlocal n_known
            bar.advance(n_words - n_known)
            n_known = n_words

        return learn_words(corpus.pieces, config, tell)


def _set_aside(tally: Tally, out: OutputFolder, reporter: Reporter) -> None:
    """Write the lines that were no documents, a file per source."""
    if tally.bad:
        reporter.say(f"dsllm: {len(tally.bad):,} lines were no documents and were set aside")
    for index, lines in groupby(tally.bad, key=itemgetter(0)):
        with out.create(f"skipped/{index:05d}.jsonl") as file:
            file.write("".join(line for _, line in lines).encode())


def _measure(sample: dict[str, list[str]], words: LearnedWords, file: bytes) -> SourceCounts:
    """Encode the sample with the tokenizer that is written; every text must come back from its ids."""
    merges = merges_of_file(json.loads(file))
    assert isinstance(merges, Merges), merges
    encoder, counts = Encoder(merges), SourceCounts()
    byte_of = BYTE_OF_CHARACTER.__getitem__
    bytes_of = {index: bytes(map(byte_of, word)) for word, index in words.ids.items()}
    for name, texts in sample.items():
        ids, ends = encoder.encode(Texts.join([text.encode() for text in texts]))
        for text, token_ids in zip(texts, np.split(ids, ends[:-1]), strict=True):
            back = b"".join(map(bytes_of.__getitem__, token_ids.tolist()))
            assert back == text.encode(), f"{name}: a text did not come back from its tokens"
            counts.add(name, 1, len(token_ids), len(back))
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
