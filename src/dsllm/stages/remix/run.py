"""`dsllm remix`: measure all documents, choose how often each is taken, shuffle the copies into shards.

1. Measure: sizes and sources' names go to files, a set per input file.
2. Choose: shares, epochs and a seeded choice of documents (mix.py). What is not taken is counted.
3. Scatter: the inputs are read again, each copy goes to the part of the shuffle that its key says.
4. Gather: each part is sorted and becomes a shard (shuffle.py).

The result is a function of the inputs, their order and the settings. A killed run carries on: input files
that are measured, the scattering once it is whole, and shards that are whole are not made again; standard
input must be given again.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.config import RunOptions, parse_weights
from dsllm.errors import ConfigError, InputError
from dsllm.io.apart import check_no_input
from dsllm.io.atomic import atomic_file, write_atomic
from dsllm.io.folder import OutputFolder
from dsllm.io.shards import LineWriter, StandardOutput, line_shard, shard_name
from dsllm.io.sources import Source, total_bytes
from dsllm.progress import Reporter
from dsllm.stages.remix.config import REST, SOURCE_FIELD, RemixConfig
from dsllm.stages.remix.inputs import name_inputs, source_names
from dsllm.stages.remix.measure import COLUMNS, DOCUMENT, NO_NAME, Measure
from dsllm.stages.remix.mix import wanted_shares
from dsllm.stages.remix.mixing_law import propose, read_runs
from dsllm.stages.remix.mixture import mix
from dsllm.stages.remix.picture import draw_mixture
from dsllm.stages.remix.shuffle import TAKEN, Gather, Gathered, Parts, Scatter
from dsllm.text.tokenizer_files import load_tokenizer
from dsllm.workers.passes import Pass, column_path, read_bad_lines, read_column
from dsllm.workers.pool import map_ordered

STAGE = "remix"


def run(
    config: RemixConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Write the documents of `inputs` in new proportions, shuffled, to `output`; return the counts.

    Raises:
        ConfigError: names or weights that do not fit the sources, or no place for lines set aside.
        InputError: no document in any input, or a source without text that shall have a share.
    """
    if output == "-" and config.picture != "none":
        raise ConfigError(
            f"picture is {config.picture}, but there is no folder for it", hint="give a folder to -o"
        )
    if output == "-" and config.on_error == "skip" and options.skipped is None:
        raise ConfigError(
            "--on-error skip with -o - has no place for the lines set aside",
            hint="name one: --skipped FILE",
        )
    config, paths = name_inputs(config, inputs)
    check_no_input(options.skipped, paths, flag="--skipped")
    sources, input_names = source_names(config, paths)
    _check_early(config, list(dict.fromkeys(input_names)))
    with ExitStack() as stack:
        out = None
        if output != "-":
            out = stack.enter_context(
                OutputFolder(
                    output,
                    stage=STAGE,
                    config=config,
                    inputs=paths,
                    options=options,
                    more_inputs=[*config.from_losses, config.tokenizer],
                )
            )
        temporary = out.scratch if out else stack.enter_context(tempfile.TemporaryDirectory(prefix="dsllm-"))
        job = _Job(config, sources, input_names, out, Pass(Path(temporary), options, reporter))
        return job.run(", ".join(inputs))


def plan(
    config: RemixConfig, inputs: Sequence[str], output: str, *, options: RunOptions, reporter: Reporter
) -> dict[str, Any]:
    """Say what a run would read and write; sources are weighed when they are read, not before."""
    config, paths = name_inputs(config, inputs)
    sources, input_names = source_names(config, paths)
    names = list(dict.fromkeys(input_names))
    shares = _check_early(config, names)
    n_bytes = dict.fromkeys(names, 0)
    for source, name in zip(sources, input_names, strict=False):
        n_bytes[name] += source.n_bytes
    return {
        "stage": STAGE,
        "output": output,
        "n_sources": len(n_bytes) or None,
        "n_files": len(sources),
        "n_bytes_to_read": total_bytes(sources),
        "n_bytes_by_source": n_bytes or None,
        "shares": shares,
        "n_passes": 2,
        "n_text_bytes_to_write": None if config.tokenizer else config.budget_size,
        "n_tokens_to_write": config.budget_size if config.tokenizer else None,
        "scratch_bytes_per_byte_written": 1.0,
        "memory_bytes": options.n_workers * 3 * config.shard_bytes,
    }


def _check_early(config: RemixConfig, names: list[str]) -> dict[str, float] | None:
    """Find what is wrong with weights, losses and tokenizer before the documents are read.

    Returns the shares that are asked for, where they do not depend on sizes.
    """
    if config.tokenizer is not None:
        load_tokenizer(config.tokenizer)
    runs = read_runs(config.from_losses) if config.from_losses else None
    if not names:
        return None
    if runs:
        target = parse_weights(config.target, "target")
        shares = propose(runs, names, target=target, caps=[1.0] * len(names)).shares
    else:
        shares = wanted_shares(config, names, [1] * len(names))
    weights = parse_weights(config.weights, "weights")
    is_known = config.even or runs is not None or (bool(weights) and REST not in weights)
    return dict(zip(names, shares, strict=True)) if is_known else None


@dataclass
class _Job:
    config: RemixConfig
    sources: list[Source]
    input_names: tuple[str, ...]
    out: OutputFolder | None
    work: Pass

    def run(self, inputs: str) -> dict[str, Any]:
        scratch = self.work.scratch
        measure = Measure(self.config, self.input_names)
        self.work.write_columns(measure, self.sources, COLUMNS, label="remix: measure")
        tables = [read_column(scratch, source.index, "documents", DOCUMENT) for source in self.sources]
        rows = np.concatenate(tables)
        bad = [read_bad_lines(scratch, source.index) for source in self.sources]
        if not len(rows):
            raise InputError(f"{inputs}: no document in it", hint="check what wrote it")
        self._set_aside(bad)
        mixture = mix(self.config, rows, self._names())
        starts = [0, *accumulate(len(table) for table in tables)]
        n_parts = max(1, min(-(-mixture.n_line_bytes // self.config.shard_bytes), int(mixture.times.sum())))
        self._scatter(rows, mixture.times, starts, n_parts)
        self._gather(n_parts)
        counts = mixture.counts | (
            {"n_skipped": n} if (n := sum(lines.count(b"\n") for lines in bad)) else {}
        )
        mixture.tell(self.work.reporter)
        self._finish(counts)
        return counts

    def _names(self) -> list[str]:
        """List the sources' names in the order in which the inputs have them."""
        if self.input_names:
            return list(dict.fromkeys(self.input_names))
        scratch = self.work.scratch
        columns = [read_column(scratch, source.index, "names", "u1") for source in self.sources]
        lines = [line for column in columns for line in column.tobytes().splitlines()]
        names = [orjson.loads(line) for line in dict.fromkeys(lines)]
        field = self.config.source_field
        if names == [NO_NAME] and field != SOURCE_FIELD:
            raise InputError(
                f"no document has a string in the field {field!r}",
                hint="look at its name, or leave out --source-field",
            )
        return names

    def _scatter(self, rows: NDArray[Any], times: NDArray[np.int64], starts: list[int], n_parts: int) -> None:
        """Fill the parts' files, from the beginning unless they are whole."""
        scratch = self.work.scratch
        done = scratch / "scattered"
        if done.exists():
            return
        taken = np.zeros(len(rows), TAKEN)
        taken["line"], taken["times"] = rows["line"], times
        for source, first, end in zip(self.sources, starts[:-1], starts[1:], strict=True):
            with atomic_file(column_path(scratch, source.index, "taken")) as file:
                file.write(taken[first:end].tobytes())
        parts = Parts(scratch / "parts", n_parts)
        parts.clear()
        task = Scatter(scratch, tuple(starts[:-1]), n_parts, self.config.seed)
        for _, scattered in self.work.map(task, self.work.spooled(self.sources), label="remix: scatter"):
            parts.fill(scattered)
        parts.flush()
        write_atomic(done, b"")

    def _gather(self, n_parts: int) -> None:
        """Sort each part into its shard, passing over those that are finished."""
        format = self.config.format if self.out else "jsonl"
        names = [shard_name(part, self.config.format) for part in range(n_parts)]
        to_do = [part for part, name in enumerate(names) if self.out is None or name not in self.out.finished]
        for shard in self._sorted(Gather(self.work.scratch / "parts", format), to_do):
            with self._writer(names[shard.part], shard.n_documents) as writer:
                for frame in shard.packed:
                    writer.write(frame)

    def _writer(self, name: str, n_documents: int) -> AbstractContextManager[LineWriter]:
        if self.out is None:
            return nullcontext(StandardOutput())
        self.out.set_counts(name, n_documents=n_documents)
        return line_shard(self.out, name, self.config.format)

    def _sorted(self, task: Gather, parts: list[int]) -> Iterator[Gathered]:
        results = map_ordered(
            task,
            parts,
            options=self.work.options,
            describe="part {} of the shuffle".format,
            reporter=self.work.reporter,
        )
        with closing(results), self.work.reporter.bar("remix: write", total=len(parts), unit="shards") as bar:  # type: ignore[type-var]
            for shard in results:
                yield shard
                bar.advance()

    def _set_aside(self, bad: list[bytes]) -> None:
        lines = b"".join(bad)
        if lines:
            self.work.reporter.say_set_aside(lines.count(b"\n"))
        if self.out is None:
            if self.work.options.skipped is not None:
                write_atomic(self.work.options.skipped, lines)
            return
        for source, lines in zip(self.sources, bad, strict=True):
            if lines:
                with self.out.create(f"skipped/{source.index:05d}.jsonl") as file:
                    file.write(lines)

    def _finish(self, counts: dict[str, Any]) -> None:
        if self.out is None:
            return
        if self.config.picture != "none":
            with self.out.create(f"mixture.{self.config.picture}") as file:
                file.write(draw_mixture(counts["sources"], self.config.picture))
        for source in self.sources:
            if source.stream_hash:
                self.out.set_stream_hash(source.stream_hash.hexdigest())
        self.out.finish(counts=counts, content={"kind": "documents", "format": self.config.format})
