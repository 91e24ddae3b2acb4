"""`dsllm dedup`: passes over all inputs together, and what is said about them.

1. Sign: each document's digest and signature go to files, a set per source.
2. Decide: documents of equal digest, then those that share a band, are compared (decide.py); for the latter
   the inputs are read again.
3. Index, on request: what later runs must know of the documents that stay; the inputs are read once more.
4. Divide: the inputs are read once more and their lines go to the output, or to `--removed`.

The result is a function of the inputs and the settings alone. A killed run carries on: sources that are
signed, the decision and shards that are whole are not made again; standard input must be given again.
With `--bloom` there is one pass, and nothing of this: see bloom.py.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from dsllm.config import RunOptions
from dsllm.errors import ConfigError, InputError, OutputError
from dsllm.io.apart import check_folders, check_no_input
from dsllm.io.atomic import write_atomic
from dsllm.io.folder import OutputFolder
from dsllm.io.shards import LineWriter, StandardOutput, line_shard, shard_name
from dsllm.io.sources import Source, find_sources
from dsllm.progress import Reporter, format_amount
from dsllm.stages.dedup.bands import choose_bands, find_probability
from dsllm.stages.dedup.bloom import run_bloom
from dsllm.stages.dedup.by_dump import rate_by_dump, show_rates
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import Corpus, Place
from dsllm.stages.dedup.decide import STAYS, Decide
from dsllm.stages.dedup.divide import STRING_COUNTS, Divide, Divided, write_fates
from dsllm.stages.dedup.error import show_error
from dsllm.stages.dedup.fields import require_fields
from dsllm.stages.dedup.index import describe_index, open_indices, write_index
from dsllm.stages.dedup.limit import check_limit
from dsllm.stages.dedup.pairs import write_pairs
from dsllm.stages.dedup.plan import plan
from dsllm.stages.dedup.sign import COLUMNS, Sign
from dsllm.stages.dedup.strings import StringSettings, find_cuts
from dsllm.stages.dedup.table import show_removed
from dsllm.text.compiled import announce_compiling
from dsllm.text.scan import UNICODE_VERSION
from dsllm.workers.passes import Pass, read_bad_lines

__all__ = ["plan", "run"]

STAGE = "dedup"
HELD_SHARE = 2  # one part in so many of the memory is for what was read and will be read again


def run(
    config: DedupConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Write the documents of `inputs` without their duplicates to `output`; return the counts.

    Raises:
        ConfigError: no bands have the recall asked for, or lines set aside have no place to go.
        InputError: there is no document in any input, none has a field that is asked for, or an input would
            lose more than `max_removed`.
        OutputError: no folder for the file of pairs, or what is to be written is or lies in an input.
    """
    choose_bands(config)
    check_folders({"-o": output, "--removed": config.removed, "--write-index": config.write_index}, inputs)
    if config.bloom:
        return run_bloom(config, inputs, output, options=options, reporter=reporter)
    if config.pairs is not None and not Path(config.pairs).absolute().parent.is_dir():
        raise OutputError(f"{config.pairs}: no folder for it", hint="make it first, or give another --pairs")
    check_no_input(config.pairs, inputs, flag="--pairs")
    check_no_input(options.skipped, inputs, flag="--skipped")
    if output == "-" and config.on_error == "skip" and options.skipped is None:
        raise ConfigError(
            "--on-error skip with -o - has no place for the lines set aside",
            hint="name one: --skipped FILE",
        )
    folders = (None if output == "-" else output, config.removed, config.write_index)
    indexed = open_indices(config, folders)
    sources = find_sources(inputs)
    with ExitStack() as stack:
        stack.enter_context(announce_compiling(reporter.say))

        def open_folder(path: str, *, side_of: str | None = None) -> OutputFolder:
            folder = OutputFolder(
                path,
                stage=STAGE,
                config=config,
                inputs=inputs,
                options=options,
                more_inputs=config.against,
                side_of=side_of,
            )
            return stack.enter_context(folder)

        out = None if output == "-" else open_folder(output)
        side = None if config.removed is None else open_folder(config.removed, side_of=output)
        index = None if config.write_index is None else open_folder(config.write_index, side_of=output)
        temporary = out.scratch if out else stack.enter_context(tempfile.TemporaryDirectory(prefix="dsllm-"))
        work = Pass(Path(temporary), options, reporter, hold_bytes=config.memory_bytes // HELD_SHARE)
        job = _Job(config, sources, indexed, out, side, index, work)
        return job.run(", ".join(inputs))


@dataclass
class _Job:
    config: DedupConfig
    sources: list[Source]
    indexed: list[Place]
    out: OutputFolder | None
    side: OutputFolder | None
    index: OutputFolder | None
    work: Pass

    def run(self, inputs: str) -> dict[str, Any]:
        scratch = self.work.scratch
        self.work.write_columns(Sign(self.config), self.sources, COLUMNS, label="dedup: sign")
        n_hashes = self.config.n_hashes if self.config.level == "near" else 0
        corpus = Corpus.open(scratch, self.sources, n_hashes, self.indexed)
        bad = [read_bad_lines(scratch, source.index) for source in self.sources]
        if not corpus.n_own and not any(bad):
            raise InputError(f"{inputs}: no document in it", hint="check what wrote it")
        require_fields(corpus.own, self.config)
        decide = Decide(corpus, self.config, self.sources, self.work)
        decision = decide()
        by_source = write_fates(corpus, decision.verdicts, with_notes=self.side is not None)
        check_limit(corpus, decision.verdicts, by_source, self.config)
        rates = {"by": rate_by_dump(decide, decision)} if self.config.by is not None else {}
        if decision.error is not None:
            rates["error"] = decision.error
        for counts, lines in zip(by_source, bad, strict=True):
            if lines:
                counts["n_skipped"] = lines.count(b"\n")
        if self.config.cuts_strings:
            self._find_cuts(corpus.own, decision.verdicts)
        if self.index:
            self._write_index(self.index, corpus.own, decision.verdicts)
        if self.config.pairs is not None:
            write_pairs(Path(self.config.pairs), corpus, decision.verdicts)
        self._divide(by_source, bad)
        total = _add(by_source)
        self._tell(total, by_source)
        if "error" in rates:
            show_error(rates["error"], self.config.threshold, self.work.reporter)
        if "by" in rates:
            show_rates(rates["by"], self.work.reporter)
        self._finish(total, rates)
        return total | rates

    def _find_cuts(self, corpus: Corpus, verdicts: NDArray[Any]) -> None:
        config = self.config
        settings = StringSettings(
            n_span_words=config.cut_spans,
            lines=config.cut_lines,
            paragraphs=config.cut_paragraphs,
            fold=config.fold_case,
            punctuation=config.punctuation,
            text_field=config.text_field,
            memory_bytes=config.memory_bytes,
        )
        stays = verdicts["level"][: len(corpus)] == STAYS
        find_cuts(corpus, stays, settings, self.sources, self.work)

    def _write_index(self, folder: OutputFolder, corpus: Corpus, verdicts: NDArray[Any]) -> None:
        counts = write_index(folder, corpus, verdicts, self.config, sources=self.sources, work=self.work)
        self._set_stream_hash(folder)
        folder.finish(counts=counts, content=describe_index(folder, corpus, self.config))
        n_bytes = sum(record.n_bytes for record in folder.finished.values())
        self.work.reporter.say(
            f"dsllm: {folder.output} describes {counts['n_documents']:,} documents that stay, "
            f"in {format_amount(n_bytes, 'bytes')}"
        )

    def _divide(self, by_source: list[dict[str, int]], bad: list[bytes]) -> None:
        """Write a shard per source, in the output and in the folder for what goes."""
        folders = [folder for folder in (self.out, self.side) if folder]
        names = {source.index: shard_name(source.index, self.config.format) for source in self.sources}
        to_do = [
            source
            for source in self.work.spooled(self.sources)
            if self.out is None or any(names[source.index] not in folder.finished for folder in folders)
        ]
        to_write = {source.index for source in to_do}
        done = {names[source.index]: source.index for source in self.sources if source.index not in to_write}
        for name, index in done.items():  # what the string level took was known when it was written
            by_source[index] = dict(folders[0].finished[name].counts)
        task = Divide(
            self.work.scratch,
            self.config,
            self.config.format if self.out else "jsonl",
            self.config.format if self.side else None,
        )
        for source, parts in self.work.map(task, to_do, label="dedup: write"):
            name, counts = names[source.index], by_source[source.index]
            with ExitStack() as stack:
                for folder in folders:
                    folder.finished.pop(name, None)
                kept: LineWriter = (
                    stack.enter_context(line_shard(self.out, name, self.config.format))
                    if self.out
                    else StandardOutput()
                )
                removed = (
                    stack.enter_context(line_shard(self.side, name, self.config.format))
                    if self.side
                    else None
                )
                written = _write(parts, kept, removed)
                if self.config.cuts_strings:
                    _add_string_level(counts, written)
                for folder in folders:
                    folder.set_counts(name, **counts)
                if self.out and bad[source.index]:  # set aside before the shard counts as finished
                    with self.out.create(f"skipped/{source.index:05d}.jsonl") as file:
                        file.write(bad[source.index])
        if self.out is None and self.work.options.skipped is not None:
            write_atomic(self.work.options.skipped, b"".join(bad))

    def _tell(self, total: dict[str, int], by_source: list[dict[str, int]]) -> None:
        show_removed(self.sources, by_source, self.work.reporter)
        if total.get("n_text_bytes_cut"):
            self.work.reporter.say(
                f"dsllm: {total['n_text_bytes_cut']:,} bytes of text that occurred before were cut out of "
                f"{total['n_cut']:,} documents that stay and {total['n_removed_string']:,} that had no more"
            )
        if "n_removed_for_indexed" in total:
            self.work.reporter.say(
                f"dsllm: {total['n_removed_for_indexed']:,} documents went for one that is indexed"
            )
        if total.get("n_skipped"):
            self.work.reporter.say_set_aside(total["n_skipped"])

    def _finish(self, total: dict[str, int], rates: dict[str, Any]) -> None:
        n_bands, n_rows = choose_bands(self.config)
        content: dict[str, Any] = {
            "kind": "documents",
            "format": self.config.format,
            "unicode": UNICODE_VERSION,
        }
        if self.config.level == "near":
            recall = find_probability(self.config.threshold, n_bands, n_rows)
            content |= {"n_bands": n_bands, "n_rows": n_rows, "recall_at_threshold": round(recall, 6)}
        for folder, more in ((self.side, {"stream": "removed"}), (self.out, {})):
            if folder:
                self._set_stream_hash(folder)
                folder.finish(counts=total, content={**content, **more, **rates})

    def _set_stream_hash(self, folder: OutputFolder) -> None:
        for source in self.sources:
            if source.stream_hash:
                folder.set_stream_hash(source.stream_hash.hexdigest())


def _add(by_source: list[dict[str, int]]) -> dict[str, int]:
    names = {name: None for counts in by_source for name in counts}  # in order
    return {name: sum(counts.get(name, 0) for counts in by_source) for name in names}


def _write(parts: Iterator[Divided], kept: LineWriter, removed: LineWriter | None) -> Counter[str]:
    counts: Counter[str] = Counter()
    for part in parts:
        kept.write(part.kept)
        if removed is not None:
            removed.write(part.removed)
        counts.update(part.counts)
    return counts


def _add_string_level(counts: dict[str, int], more: Counter[str]) -> None:
    """Take off what the string level cut: it is known only when it is written."""
    counts["n_kept"] -= more["n_removed_string"]
    counts["n_text_bytes_kept"] -= more["n_text_bytes_cut"]
    counts |= {name: more[name] for name in STRING_COUNTS}
