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
    tokenizer_files,
)
from dsllm.stages.tokenize.config import N_BYTES_IN_UTF8, TokenizeTrainConfig
from dsllm.stages.tokenize.count import Corpus, PieceCount, Tally
from dsllm.stages.tokenize.sampling import choose_shares
from dsllm.stages.tokenize.statistics import MAX_ROWS, SourceCounts, estimate_text_bytes
from dsllm.stages.tokenize.vocabulary import padded
from dsllm.text.bpe import Encoder, Merges, merges_of_file
from dsllm.text.compiled import announce_compiling
from dsllm.text.texts import Texts
from dsllm.text.tokenizer_files import BYTE_OF_CHARACTER, TOKENIZER_JSON

# For --plan, orders of magnitude: read, cut and counted by a worker, and merged when they are few enough.
TEXT_BYTES_PER_S, MERGED_BYTES_PER_S = 40e6, 30e6


def run(
    config: TokenizeTrainConfig,
    inputs: Sequence[str],
    output: str,
    *,
    options: RunOptions,
    reporter: Reporter,
) -> dict[str, Any]:
    """Learn a tokenizer from the documents of `inputs`; return what it is.

    Raises:
        InputError: no document in any input, or none of a sample.
        ConfigError: weights that do not fit the sources.
    """
    sources = find_sources(inputs)
    with OutputFolder(output, stage="tokenize train", config=config, inputs=inputs, options=options) as out:
        with announce_compiling(reporter.say):
            corpus = _count(config, sources, out, options, reporter)
            _check(corpus, config, inputs)
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
            **_taken(corpus),
            "n_pieces": corpus.n_pieces,
            "n_pieces_left_out": corpus.n_left_out,
            "n_pairs_forgotten": words.n_pairs_forgotten,
            "sample": {**sample.totals(), "sources": sample.sources()},
        }
        if streams := [source.stream_hash.hexdigest() for source in sources if source.stream_hash]:
            out.set_stream_hash(streams[0])
        content = _content(words, config)
        out.finish(counts=counts, content=content)
    _warn(words, config, reporter)
    _report(sample, len(words.ids), reporter, counts.get("taken"))
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
    seconds = None
    is_sample = bool(config.weights) or config.sample is not None
    if n_bytes is not None:
        reading_s = n_bytes / TEXT_BYTES_PER_S / options.n_workers * (1.5 if is_sample else 1)
        n_learned = min(n_bytes, config.sample_bytes or n_bytes, config.memory_bytes)
        seconds = round(reading_s + n_learned / MERGED_BYTES_PER_S, 1)
    return {
        "n_files": len(sources),
        "n_input_bytes": total_bytes(sources),
        "n_text_bytes_estimate": n_bytes,
        "n_passes": 2 if is_sample else 1,
        "sample_bytes": config.sample_bytes,
        "memory_bytes": config.memory_bytes,
        "n_scratch_bytes_at_most_estimate": None if n_bytes is None else 3 * n_bytes,
        "output": output,
        "vocab_size": config.vocab_size,
        "model_vocab_size": padded(config.vocab_size + N_SPECIAL_TOKENS, config.pad_vocab_to),
        "seconds_estimate": seconds,
    }


def _count(
    config: TokenizeTrainConfig,
    sources: list[Source],
    out: OutputFolder,
    options: RunOptions,
    reporter: Reporter,
) -> Corpus:
    """Count the pieces of the corpus; says when not all of them fit."""
    parts, sources = choose_shares(config, sources, out.scratch, options=options, reporter=reporter)
    with reporter.bar("tokenize train: count", total=total_bytes(sources), unit="bytes") as bar:
        corpus = PieceCount(config, sources, parts, out.scratch, options, reporter, bar).run()
    if corpus.n_left_out:
        share = corpus.n_bytes_left_out / max(1, sum(n_bytes for _, n_bytes in corpus.tally.taken.values()))
        reporter.say(
            f"dsllm: warning: {corpus.n_left_out:,} of {corpus.n_pieces:,} distinct pieces do not fit into"
            f" {config.memory}; the rarest were left out, {share:.1%} of the text; give more --memory"
        )
    return corpus


def _check(corpus: Corpus, config: TokenizeTrainConfig, inputs: Sequence[str]) -> None:
    if not corpus.tally.n_documents:
        raise InputError(f"{', '.join(inputs)}: no document in it", hint="check what wrote it")
    if not corpus.tally.taken:
        raise InputError(f"a sample of {config.sample} holds no document", hint="give a larger --sample")


def _taken(corpus: Corpus) -> dict[str, Any]:
    """Say how much of each source was taken, for the manifest; nothing when all was."""
    if not corpus.is_sample:
        return {}
    total = sum(n_bytes for _, n_bytes in corpus.tally.taken.values())
    by_source = {
        name: {"n_documents": n_documents, "n_bytes": n_bytes, "share": round(n_bytes / max(1, total), 6)}
        for name, (n_documents, n_bytes) in corpus.tally.taken.items()
    }
    return {"n_bytes_taken": total, "taken": by_source}


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
        reporter.say_set_aside(len(tally.bad))
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


def _warn(words: LearnedWords, config: TokenizeTrainConfig, reporter: Reporter) -> None:
    """Say what is not as it was asked for."""
    n_words, least = len(words.ids), config.min_frequency
    if words.n_pairs_forgotten:
        reporter.say(
            f"dsllm: {words.n_pairs_forgotten:,} pairs that occurred less than {least:,} times were forgotten"
            f" to stay within {config.memory}; words differ only where one is made in a second way"
        )
    if n_words < config.vocab_size:
        limit = config.max_token_length
        short = "" if limit is None else f" and makes a word shorter than {limit:,} bytes"
        reporter.say(
            f"dsllm: warning: the corpus gave {n_words:,} words, not {config.vocab_size:,}; no other pair"
            f" occurs {least:,} times{short}"
        )


def _report(
    sample: SourceCounts, n_words: int, reporter: Reporter, taken: dict[str, dict[str, Any]] | None
) -> None:
    """Say what was learned from, and how well the words fit."""
    if taken:
        largest = sorted(taken.items(), key=lambda item: -item[1]["n_bytes"])[:MAX_ROWS]
        rows = [[name, *source.values()] for name, source in largest]
        reporter.table("What was learned from", ("source", "documents", "bytes", "share"), rows)
    sample.show(f"A sample of the corpus, encoded with the {n_words:,} words", reporter)
