"""The whole life of a stage that looks at one document at a time, from sources to manifest.

One output shard per input file, cut into batches whose results are appended in order, so the bytes do not
depend on the number of workers. `-` streams: lines go out as soon as their batch is done.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dsllm.config import DocumentSettings, RunOptions
from dsllm.errors import ConfigError, InputError
from dsllm.io.apart import check_no_input
from dsllm.io.atomic import atomic_file
from dsllm.io.documents import BadLine, Batch
from dsllm.io.folder import OutputFolder
from dsllm.io.shards import LineWriter, StandardOutput, line_shard, pack_lines, shard_name
from dsllm.io.sources import Source, find_sources, read_batches, total_bytes
from dsllm.progress import Bar, Reporter
from dsllm.workers.passes import Pass, map_by_source


@dataclass
class Part:
    """What a task makes of one batch.

    `lines` go to the output, `side` to other folders by name, `bad` aside; `counts` are added up. `note` is
    for who called, see `map_documents`, and is not kept.
    """

    lines: bytes = b""
    side: dict[str, bytes] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    bad: list[BadLine] = field(default_factory=list)
    note: Any = None


Task = Callable[[Batch], Part]


def map_documents(
    task: Task,
    *,
    stage: str,
    config: DocumentSettings,
    inputs: Sequence[str],
    output: str,
    options: RunOptions,
    reporter: Reporter,
    side_folders: Mapping[str, str] | None = None,
    content: Callable[[], Mapping[str, Any]] = dict,
    more_inputs: Sequence[str | None] = (),
    sources: list[Source] | None = None,
    read: Callable[[Source], Iterator[Batch]] = read_batches,
    see: Callable[[Any], None] | None = None,
    prepare: Callable[[Pass, list[Source]], Task] | None = None,
) -> dict[str, int]:
    """Run `task` over all documents of `inputs` into `output`; return the summed counts.

    `side_folders` says where each side stream goes; `more_inputs` are the other files that the result depends
    on (models, rules). `sources` are the files behind `inputs`, where they are known; `read` gives the
    batches of one, asked for in their order. `content` is asked at the end what the manifest has to say.
    Counts must have `n_documents` (read) and `n_kept`. `see` is given the notes of the batches, in order;
    those of sources that an interrupted run had finished are gone. `prepare` makes passes of its own first
    and gives the task that takes the place of `task`; standard input is then read from its copy.

    Raises:
        InputError: no document in any input.
        ConfigError: lines are to be skipped and set aside, but there is no place for them.
    """
    check_no_input(options.skipped, inputs, flag="--skipped")
    sources = find_sources(inputs) if sources is None else sources
    with ExitStack() as stack:

        def open_folder(path: str, *, side_of: str | None = None) -> OutputFolder:
            return stack.enter_context(
                OutputFolder(
                    path,
                    stage=stage,
                    config=config,
                    inputs=inputs,
                    options=options,
                    more_inputs=more_inputs,
                    side_of=side_of,
                )
            )

        out = None if output == "-" else open_folder(output)
        sides = {name: open_folder(path, side_of=output) for name, path in (side_folders or {}).items()}
        if prepare is not None:
            folder = out.scratch if out else stack.enter_context(TemporaryDirectory(prefix="dsllm-"))
            work = Pass(Path(folder), options, reporter)
            work.scratch.mkdir(parents=True, exist_ok=True)
            task = prepare(work, sources)
            sources = work.spooled(sources)
        bar = stack.enter_context(reporter.bar(stage, total=total_bytes(sources), unit="bytes"))
        run = _Run(task, config, sources, read, sides, options, reporter, bar, see)
        counts = run.to_folder(out) if out else run.to_stdout(options.skipped)
        if not counts.get("n_documents") and not counts.get("n_skipped"):
            raise InputError(f"{', '.join(inputs)}: no document in it", hint="check what wrote it")
        if counts.get("n_skipped"):
            reporter.say_set_aside(counts["n_skipped"])
        run.finish(out, counts, dict(content()))
    return counts


@dataclass
class _Run:
    task: Task
    config: DocumentSettings
    sources: list[Source]
    read: Callable[[Source], Iterator[Batch]]
    sides: dict[str, OutputFolder]
    options: RunOptions
    reporter: Reporter
    bar: Bar
    see: Callable[[Any], None] | None = None

    def to_folder(self, out: OutputFolder) -> dict[str, int]:
        """Write a shard per source, passing over those that an interrupted run finished."""
        folders = [out, *self.sides.values()]
        names = {source.index: shard_name(source.index, self.config.format) for source in self.sources}
        to_do = [s for s in self.sources if any(names[s.index] not in folder.finished for folder in folders)]
        for source in set(self.sources) - set(to_do):
            self.bar.advance(source.n_bytes)
        for source, parts in self._parts_by_source(to_do, self.config.format):
            name = names[source.index]
            for folder in folders:
                folder.finished.pop(name, None)
            with ExitStack() as stack:
                writers = {
                    key: stack.enter_context(line_shard(folder, name, self.config.format))
                    for key, folder in {"": out, **self.sides}.items()
                }
                counts, bad = self._write(parts, writers)
                out.set_counts(name, **counts)
                if bad:  # set aside before the shard counts as finished
                    with out.create(f"skipped/{source.index:05d}.jsonl") as file:
                        file.write(b"".join(line.to_json() for line in bad))
        return _sum(out.finished[name].counts for name in names.values())

    def to_stdout(self, skipped: str | None) -> dict[str, int]:
        """Stream kept lines to standard output."""
        if self.config.on_error == "skip" and skipped is None:
            raise ConfigError(
                "--on-error skip with -o - has no place for the lines set aside",
                hint="name one: --skipped FILE",
            )
        total: Counter[str] = Counter()
        bad: list[BadLine] = []
        for source, parts in self._parts_by_source(self.sources, "jsonl"):
            with ExitStack() as stack:
                name = shard_name(source.index, self.config.format)
                writers: dict[str, LineWriter] = {"": StandardOutput()}
                for key, folder in self.sides.items():
                    folder.finished.pop(name, None)
                    writers[key] = stack.enter_context(line_shard(folder, name, self.config.format))
                counts, more = self._write(parts, writers)
            total.update(counts)
            bad += more
        if skipped is not None:
            with atomic_file(skipped) as file:
                file.write(b"".join(line.to_json() for line in bad))
        return dict(total)

    def finish(self, out: OutputFolder | None, counts: dict[str, int], content: dict[str, Any]) -> None:
        """Write the manifests, the main one last."""
        streams = [source.stream_hash.hexdigest() for source in self.sources if source.stream_hash]
        for name, folder in [*self.sides.items(), *([("", out)] if out else [])]:
            if streams:
                folder.set_stream_hash(streams[0])
            kind = {"kind": "documents", "format": self.config.format, **({"stream": name} if name else {})}
            folder.finish(counts=counts, content={**kind, **content})

    def _parts_by_source(self, sources: list[Source], format: str) -> Iterator[tuple[Source, Iterator[Part]]]:
        task = _PackingTask(self.task, format, self.config.format)
        return map_by_source(
            task, sources, read=self.read, options=self.options, reporter=self.reporter, bar=self.bar
        )

    def _write(
        self, parts: Iterator[Part], writers: dict[str, LineWriter]
    ) -> tuple[dict[str, int], list[BadLine]]:
        counts: Counter[str] = Counter()
        bad: list[BadLine] = []
        for part in parts:
            for key, writer in writers.items():
                writer.write(part.side.get(key, b"") if key else part.lines)
            counts.update(part.counts)
            bad += part.bad
            if self.see is not None and part.note is not None:
                self.see(part.note)
        if bad:
            counts["n_skipped"] += len(bad)
        return dict(counts), bad


@dataclass(frozen=True)
class _PackingTask:
    """The task, and the compression of what it makes: both are the workers' work."""

    task: Task
    format: str
    side_format: str

    @property
    def releases_lock(self) -> bool:
        """As the task does: see `workers/pool.py`."""
        return getattr(self.task, "releases_lock", False)

    def __call__(self, batch: Batch) -> Part:
        part = self.task(batch)
        side = {name: pack_lines(lines, self.side_format) for name, lines in part.side.items()}
        return replace(part, lines=pack_lines(part.lines, self.format), side=side)


def _sum(counts: Iterator[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(total)
