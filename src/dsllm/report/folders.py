"""The runs behind the page: their manifests, metrics and results, read with tolerance."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from dsllm.errors import InputError
from dsllm.io.atomic import file_sha256
from dsllm.io.manifest import MANIFEST, PARTIAL, InputRecord, Manifest, read_manifest
from dsllm.train.metrics import read_metrics

IMAGE_TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".jpg": "image/jpeg"}
MAX_IMAGE_BYTES = 2 << 20
_PASSED_OVER = ("checkpoints", ".work")


@dataclass(frozen=True)
class Run:
    """One folder that a stage wrote."""

    path: Path
    name: str  # how the page calls it: no other run has the same
    manifest: Manifest = field(repr=False)
    sha256: str  # of the manifest

    @property
    def stage(self) -> str:
        """The stage's name: "dedup", "tokenize train", ..."""
        return self.manifest.stage

    @property
    def counts(self) -> dict[str, Any]:
        """The manifest's counts."""
        return self.manifest.counts

    @property
    def is_side(self) -> bool:
        """Whether it holds what a stage took out: the folder of --removed or --rejected."""
        return "stream" in self.manifest.content

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; none where there is no such file or it is damaged."""
        try:
            return [line for line in read_metrics(self.path) if isinstance(line, dict)]
        except (OSError, ValueError):
            return []

    def number(self, *names: str) -> float | None:
        """The first of these counts that is a number."""
        return first_number(self.counts, *names)

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        """The tasks of an evaluation that have a score, by name."""
        tasks = self.counts.get("tasks", self.counts)
        return {
            name: entry
            for name, entry in (tasks.items() if isinstance(tasks, dict) else ())
            if isinstance(entry, dict) and first_number(entry, "score") is not None
        }

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object beside the manifest; empty where there is none."""
        try:
            values = json.loads((self.path / name).read_bytes())
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def images(self) -> list[tuple[str, str, bytes]]:
        """The pictures that the manifest lists: name, type, bytes."""
        found = []
        for shard in self.manifest.shards:
            kind = IMAGE_TYPES.get(Path(shard.name).suffix.lower())
            path = self.path / shard.name
            if kind and shard.n_bytes <= MAX_IMAGE_BYTES and path.is_file():
                found.append((shard.name, kind, path.read_bytes()))
        return found


def first_number(values: dict[str, Any], *names: str) -> float | None:
    """The first of the named values that is a number; whole numbers stay whole."""
    for name in names:
        value = values.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
    return None


def find_runs(inputs: Sequence[str]) -> list[Run]:
    """Read the manifests of all folders given, and of all finished ones below those that have none.

    Raises:
        InputError: a folder that is not there, unfinished, or without any finished run in it.
    """
    paths: dict[Path, str] = {}
    for given in inputs:
        for path in _find_folders(Path(given)):
            paths.setdefault(path.resolve(), str(path))
    names = _short_names(list(paths.values()))
    return [
        Run(Path(path), name, read_manifest(path), file_sha256(Path(path) / MANIFEST))
        for path, name in zip(paths.values(), names, strict=True)
    ]


def _find_folders(folder: Path) -> list[Path]:
    if (folder / MANIFEST).is_file():
        return [folder]
    if not folder.is_dir() or (folder / PARTIAL).exists():
        read_manifest(folder)  # says what is wrong
    found = sorted(
        path.parent
        for path in folder.rglob(MANIFEST)
        if not any(part in _PASSED_OVER for part in path.relative_to(folder).parts)
    )
    if not found:
        raise InputError(f"{folder}: no finished run in it", hint="give folders that dsllm wrote")
    return found


def _short_names(paths: Sequence[str]) -> list[str]:
    """Name each path by as few of its last parts as tell it from the others."""
    parts = [Path(path).resolve().parts for path in paths]
    names = []
    for own in parts:
        n = 1
        while n < len(own) and sum(other[-n:] == own[-n:] for other in parts) > 1:
            n += 1
        names.append("/".join(own[-n:]))
    return names


def is_input(record: InputRecord, run: Run) -> bool:
    """Whether a run's output is what a manifest names as an input: by content hash."""
    return record.kind == "manifest" and record.sha256 == run.sha256
