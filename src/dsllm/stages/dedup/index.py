"""The index of a run: what later runs must know of the documents that stayed, so that none is read again.

For each source of the run there are the columns of the first pass (corpus.py), of the documents that stayed
alone, and at level near the distinct shingles of each one, by the lower 32 bits of their hashes: as many
as there are hashes of 64 bits. So the similarity of a document of n shingles to an indexed one may come out
too high, never too low, where unlike shingles share the lower half: on average by less than n / 2**33.

A later run reads the columns where they lie, as those of further sources: see `Corpus`.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dsllm.config import describe
from dsllm.errors import ConfigError, InputError, ShardError
from dsllm.io.documents import Batch
from dsllm.io.folder import OutputFolder
from dsllm.io.manifest import Manifest, read_manifest
from dsllm.io.sources import Source, is_url
from dsllm.stages.dedup import sets
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import SAMPLE, Chunk, Corpus, Numbers, Place
from dsllm.stages.dedup.decide import STAYS
from dsllm.text.scan import UNICODE_VERSION
from dsllm.workers.passes import Columns, Pass, column_path

KIND = "dedup-index"
VERSION = 1  # of the columns and the hashes in them
COLUMNS = {
    "exact": ("documents", "ids"),
    "near": ("documents", "ids", "signatures", "samples", "sets", "set_ends"),
}
# What must be as it was for hashes to be comparable; at level exact, only what a word is.
SETTINGS = {
    "exact": ("fold_case", "punctuation"),
    "near": ("fold_case", "punctuation", "shingle_words", "n_hashes", "seed"),
}
N_THREADS = 4  # that compare hashes


def read_indices(config: DedupConfig) -> dict[str, Manifest]:
    """Read the manifests of the indices that the settings name.

    Raises:
        ConfigError: one was made with other settings, or is given twice.
        InputError: one is no index, or incomplete.
    """
    found: dict[str, Manifest] = {}
    for path in config.against:
        if is_url(path):
            raise ConfigError(f"{path}: an index is read from a disk", hint="copy the folder here first")
        if Path(path).resolve() in (Path(other).resolve() for other in found):
            raise ConfigError(f"{path}: the index is given twice", hint="give each one once")
        manifest = read_manifest(path)
        kind = manifest.content.get("kind")
        if kind != KIND:
            raise InputError(
                f"{path}: holds {kind}, made by {manifest.stage}; an index is needed",
                hint="give a folder that dsllm dedup --write-index wrote",
            )
        _require_same(path, manifest, config)
        found[path] = manifest
    return found


def _require_same(path: str, manifest: Manifest, config: DedupConfig) -> None:
    """Refuse an index whose hashes mean something else."""
    flags = {option.name: option.flag for option in describe(DedupConfig)}
    content = manifest.content
    for name, here in (("version", VERSION), ("unicode", UNICODE_VERSION)):
        if content.get(name) != here:
            raise ConfigError(
                f"{path}: its {name} is {content.get(name)}, but here {name} is {here}",
                hint=f"make the index again: {manifest.command}",
            )
    if config.level == "near" and content["level"] != "near":
        raise ConfigError(
            f"{path}: its level is {content['level']}, but level is near",
            hint="give --level exact, or make the index again with --level near",
        )
    for name in SETTINGS[config.level]:
        then, now = manifest.config[name], getattr(config, name)
        if then != now:
            flag = flags[name] if then is not False else f"--no-{flags[name][2:]}"
            raise ConfigError(
                f"{path}: its {name} is {then}, but {name} is {now}",
                hint=f"give {flag}" + ("" if isinstance(then, bool) else f" {then}"),
            )


def open_indices(config: DedupConfig, written: Sequence[str | None]) -> list[Place]:
    """Compare the indices that the settings name with their manifests; returns where their sources lie.

    Args:
        config: the settings.
        written: the folders that the run writes: none of them may be an index that it reads.

    Raises:
        ConfigError: an index is to be written to; or as `read_indices`.
        InputError: as `read_indices`.
        ShardError: a file is missing or differs.
    """
    places: list[Place] = []
    outputs = {Path(path).resolve() for path in written if path is not None and not is_url(path)}
    for path, manifest in read_indices(config).items():
        if Path(path).resolve() in outputs:
            raise ConfigError(f"{path}: is to be read and to be written", hint="name another folder for one")
        with ThreadPoolExecutor(N_THREADS) as threads:
            faults = threads.map(lambda shard, folder=Path(path): shard.fault(folder), manifest.shards)
        if fault := next(filter(None, faults), None):
            raise ShardError(fault, hint=f"copy {path} again, or remake it with: {manifest.command}")
        places += [
            Place(Path(path).absolute(), index, _seen_through(path, source))
            for index, source in enumerate(manifest.content["sources"])
        ]
    return places


def _seen_through(folder: str, path: str) -> str:
    return path if path == "-" or is_url(path) else str(Path(os.path.normpath(Path(folder, path))))


def write_index(
    folder: OutputFolder,
    corpus: Corpus,
    verdicts: NDArray[Any],
    config: DedupConfig,
    *,
    sources: Sequence[Source],
    work: Pass,
) -> dict[str, int]:
    """Write the columns of the documents that stay; returns their counts. What is finished is passed over.

    Args:
        folder: the index.
        corpus: the documents that this run has read.
        verdicts: by number.
        config: the settings.
        sources: those of the corpus; at level near they are read once more.
        work: the run's passes.
    """

    def choose(chunk: Chunk) -> Numbers:
        end_number = chunk.first_number + chunk.end_row - chunk.first_row
        return chunk.first_number + np.flatnonzero(
            verdicts["level"][chunk.first_number : end_number] == STAYS
        )

    chunks = {index: list(some) for index, some in groupby(corpus.chunks(), key=attrgetter("source_index"))}
    staying = sets.write_chosen(corpus, choose, "indexed")
    is_read = {index for index in staying if config.level == "near"}
    to_do = [
        source
        for source in work.spooled(sources)
        if any(_file_name(source.index, name) not in folder.finished for name in COLUMNS[config.level])
    ]
    unread = ((source, iter(())) for source in to_do if source.index not in is_read)
    read = work.map(
        DescribeSets(corpus.scratch, config),
        [source for source in to_do if source.index in is_read],
        label="dedup: index",
    )
    for source, parts in chain(unread, read):
        names = {name: _file_name(source.index, name) for name in COLUMNS[config.level]}
        with ExitStack() as stack:
            for name in names.values():
                folder.finished.pop(name, None)
            files = {name: stack.enter_context(folder.create(names[name])) for name in names}
            counts = _copy_columns(files, corpus, chunks.get(source.index, []), choose)
            if config.level == "near":
                counts["n_shingles"] = _write_sets(files, parts)
            folder.set_counts(names["documents"], **counts)
    total = Counter[str]()
    for record in folder.finished.values():
        total.update(record.counts)
    return dict(total)


def describe_index(folder: OutputFolder, corpus: Corpus, config: DedupConfig) -> dict[str, Any]:
    """Say what the index is: the manifest's `content`."""
    return {
        "kind": KIND,
        "version": VERSION,
        "level": config.level,
        "unicode": UNICODE_VERSION,
        "sources": [folder.seen_from_here(path) for path in corpus.own.paths],
    }


@dataclass(frozen=True)
class DescribeSets:
    """The task: the distinct shingles of each document of a batch that stays, as an index has them."""

    scratch: Path
    config: DedupConfig

    releases_lock = True

    def __call__(self, batch: Batch) -> Columns:
        """Give the arrays by the names in `sets.COLUMNS`."""
        found = sets.FindSets(self.scratch, self.config, "indexed")(batch)
        hashes = found.arrays["sets"].astype("<u4")  # the lower half
        return replace(found, arrays={**found.arrays, "sets": hashes})


def _file_name(source_index: int, name: str) -> str:
    return column_path(Path(), source_index, name).name


def _copy_columns(
    files: Mapping[str, BinaryIO],
    corpus: Corpus,
    chunks: Sequence[Chunk],
    choose: Callable[[Chunk], Numbers],
) -> dict[str, int]:
    """Copy what the first pass knows of the documents that stay, a chunk in memory at a time."""
    n_documents = n_words = id_start = 0
    for chunk in chunks:
        rows = corpus.chunk_rows(chunk)
        stays = np.zeros(len(rows), bool)
        stays[choose(chunk) - chunk.first_number] = True
        id_end = id_start + int(rows["n_id_bytes"].sum())
        ids = corpus.column(chunk.source_index, "ids", "u1")[id_start:id_end]
        files["ids"].write(ids[np.repeat(stays, rows["n_id_bytes"])].data)
        id_start = id_end
        if "signatures" in files:
            signatures = corpus.signatures(chunk.source_index)[chunk.first_row : chunk.end_row]
            files["signatures"].write(signatures[stays].data)
            samples = corpus.column(chunk.source_index, "samples", SAMPLE)
            first, end = np.searchsorted(samples["line"], [rows["line"][0], rows["line"][-1] + 1])
            own = samples[first:end]
            files["samples"].write(own[stays[np.searchsorted(rows["line"], own["line"])]].data)
        kept = rows[stays]
        kept["priority"] = np.inf
        files["documents"].write(kept.data)
        n_documents, n_words = n_documents + len(kept), n_words + int(kept["n_words"].sum())
    return {"n_documents": n_documents, "n_words": n_words}


def _write_sets(files: Mapping[str, BinaryIO], parts: Iterator[Columns]) -> int:
    """Write the sets of a source and where each ends; returns the number of shingles."""
    n_shingles = 0
    for part in parts:
        ends = n_shingles + np.cumsum(part.arrays["set_sizes"], dtype="<i8")
        files["sets"].write(part.arrays["sets"].data)
        files["set_ends"].write(ends.data)
        n_shingles += len(part.arrays["sets"])
    return n_shingles
