"""An output folder's life: started, locked, resumed or refused, its files recorded, finished by a manifest.

While a stage works, `manifest.partial.json` lists the finished files and the configuration. The same command
carries on; another configuration is refused; a complete folder is refused unless it may be overwritten.
"""

import fcntl
import hashlib
import io
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Self, cast

from dsllm import __version__
from dsllm.config import RunOptions, Settings, command_line
from dsllm.errors import InputError, OutputError
from dsllm.io.atomic import atomic_file, file_sha256, output_error, write_atomic
from dsllm.io.manifest import MANIFEST, PARTIAL, InputRecord, Manifest, ShardRecord
from dsllm.io.sources import is_url

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

PARTIAL_EVERY_S = 1.0  # a shard finished since then is made again after a crash, with the same bytes
_LEFT_OVERS = ("checkpoints", ".work")


class OutputFolder:
    """A folder that is being written: `with OutputFolder(...) as out`, then `out.finish(...)` at the end.

    `finished` holds the files of an interrupted run of the same command: they are whole and need not be made
    again. `scratch` is a place for intermediate files, which `finish` removes. A side folder goes with a main
    one that is finished after it: a kill in between leaves it complete, and the same command takes it up
    again.
    """

    def __init__(
        self,
        output: str,
        *,
        stage: str,
        config: Settings,
        inputs: Sequence[str],
        options: RunOptions,
        more_inputs: Sequence[str | None] = (),
        is_side: bool = False,
    ) -> None:
        if is_url(output):
            raise OutputError(f"{output}: results go to local folders", hint="copy the finished folder there")
        self.path = Path(output)
        self.scratch = self.path / ".work"
        self.finished: dict[str, ShardRecord] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._options = options
        self._is_side = is_side
        self._is_restartable = "-" not in inputs
        given = [*inputs, *(path for path in more_inputs if path is not None)]
        self._manifest = Manifest(
            stage=stage,
            version=__version__,
            command=command_line(
                stage, [_relative(path, Path()) for path in inputs], _relative(output, Path()), config
            ),
            config=config.to_dict(),
            inputs=[
                replace(record, path=_relative(record.path, self.path)) for record in input_records(given)
            ],
            content={},
            counts={},
            shards=[],
        )
        self._lock: IO[bytes] | None = None
        self._saved_s = 0.0

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            self._start()
            self._save_partial()
        except OSError as error:
            self._drop_lock()
            raise output_error(self.path, error) from error
        except BaseException:
            self._drop_lock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (self.path / PARTIAL).exists():
            self._save_partial()
        self._drop_lock()

    @contextmanager
    def create(self, name: str, **counts: int) -> Iterator[BinaryIO]:
        """Write a file that is whole or absent, and record it when the block ends without an error."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            hashed = _HashedFile(file)
            yield cast(BinaryIO, hashed)
        counts |= self._counts.pop(name, {})
        self._add(ShardRecord(name, hashed.n_bytes, hashed.digest.hexdigest(), counts))

    def record(self, name: str, **counts: int) -> None:
        """Record a file that stands in the folder already, whole."""
        path = self.path / name
        self._add(ShardRecord(name, path.stat().st_size, file_sha256(path), counts))

    def set_counts(self, name: str, **counts: int) -> None:
        """Give a file counts that were not known when it was begun; call it inside the `create` block."""
        assert name not in self.finished, f"{name} is recorded already"
        self._counts.setdefault(name, {}).update(counts)

    def set_stream_hash(self, sha256: str) -> None:
        """Tell the hash of standard input, known when all of it was read."""
        records = [
            replace(record, sha256=sha256) if record.kind == "stream" else record
            for record in self._manifest.inputs
        ]
        self._manifest = replace(self._manifest, inputs=records)

    def finish(self, *, counts: dict[str, Any], content: dict[str, Any]) -> Manifest:
        """Write the manifest: from now on the folder is complete."""
        shards = [self.finished[name] for name in sorted(self.finished)]
        manifest = replace(self._manifest, counts=counts, content=content, shards=shards)
        write_atomic(self.path / MANIFEST, manifest.to_bytes())
        (self.path / PARTIAL).unlink(missing_ok=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        return manifest

    def _start(self) -> None:
        complete, partial = self.path / MANIFEST, self.path / PARTIAL
        if self._is_side and complete.exists() and not partial.exists():
            complete.rename(partial)
        if complete.exists():
            if not self._options.overwrite:
                raise OutputError(
                    f"{self.path}: already complete", hint="give --overwrite to make it again, or another -o"
                )
            self._clear(complete)
        elif partial.exists():
            before = Manifest.from_bytes(partial.read_bytes(), partial)
            difference = self._difference(before)
            if self._is_restartable and difference is None:
                self.finished = {
                    shard.name: shard
                    for shard in before.shards
                    if _has_size(self.path / shard.name, shard.n_bytes)
                }
            elif difference is None or self._options.overwrite:
                self._clear(partial)
            else:
                raise OutputError(
                    f"{self.path}: begun by another command: {difference}",
                    hint=f"finish that one ({before.command}), give --overwrite, or another -o",
                )
        elif foreign := [path.name for path in self.path.iterdir() if not path.name.startswith(".")]:
            raise OutputError(
                f"{self.path}: not empty, and not written by dsllm ({foreign[0]})",
                hint="give another folder to -o",
            )

    def _difference(self, before: Manifest) -> str | None:
        """Name the first thing in which an unfinished run was another one."""
        now = self._manifest
        if before.stage != now.stage:
            return f"stage {before.stage}, now {now.stage}"
        for name in sorted({*before.config, *now.config}):
            if before.config.get(name) != now.config.get(name):
                return f"{name} was {before.config.get(name)}, now {now.config.get(name)}"
        if before.inputs != now.inputs:
            changed = [a.path for a, b in zip(before.inputs, now.inputs, strict=False) if a != b]
            return f"other inputs ({changed[0] if changed else 'another number'})"
        return f"dsllm {before.version}, now {now.version}" if before.version != now.version else None

    def _clear(self, manifest: Path) -> None:
        """Remove what an earlier run wrote here, and nothing else."""
        for shard in Manifest.from_bytes(manifest.read_bytes(), manifest).shards:
            (self.path / shard.name).unlink(missing_ok=True)
        for name in _LEFT_OVERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in ("metrics.jsonl", PARTIAL, MANIFEST):
            (self.path / name).unlink(missing_ok=True)

    def _add(self, record: ShardRecord) -> None:
        self.finished[record.name] = record
        if time.monotonic() - self._saved_s > PARTIAL_EVERY_S:
            self._save_partial()

    def _save_partial(self) -> None:
        shards = [self.finished[name] for name in sorted(self.finished)]
        write_atomic(self.path / PARTIAL, replace(self._manifest, shards=shards).to_bytes())
        self._saved_s = time.monotonic()

    def _take_lock(self) -> None:
        self._lock = (self.path / ".lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{self.path}: another dsllm is writing to it", hint="wait for that one, or give another -o"
            ) from None

    def _drop_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class _HashedFile(io.RawIOBase):
    """Counts and hashes what is written; closing it leaves the file below open."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.digest = hashlib.sha256()
        self.n_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: "Buffer") -> int:
        self.digest.update(data)
        n_bytes = self._file.write(data)
        self.n_bytes += n_bytes
        return n_bytes

    def tell(self) -> int:
        return self.n_bytes


def input_records(inputs: Sequence[str]) -> list[InputRecord]:
    """Hash inputs of any kind: files, folders with a manifest, folders without, URLs, `-`.

    Raises:
        InputError: an input is not there.
    """
    return [_input_record(path) for path in inputs]


def _input_record(path: str) -> InputRecord:
    if path == "-":
        return InputRecord("-", "stream", "")
    local = Path(path)
    if (local / MANIFEST).is_file():
        return InputRecord(path, "manifest", file_sha256(local / MANIFEST))
    if local.is_file():
        return InputRecord(path, "file", file_sha256(local))
    if local.is_dir():
        files = sorted(file for file in local.rglob("*") if file.is_file() and not file.name.startswith("."))
        lines = "".join(f"{file.relative_to(local)} {file_sha256(file)}\n" for file in files)
        return InputRecord(path, "folder", hashlib.sha256(lines.encode()).hexdigest())
    from dsllm.io.sources import find_sources

    sources = find_sources([path])  # a pattern or a URL; says so when nothing is there
    lines = "".join(f"{Path(source.path).name} {source.sha256}\n" for source in sources)
    return InputRecord(path, "folder", hashlib.sha256(lines.encode()).hexdigest())


def _relative(path: str, folder: Path) -> str:
    if path == "-" or is_url(path):
        return path
    return os.path.relpath(path, folder) if Path(path).is_absolute() or folder != Path() else path


def _has_size(path: Path, n_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == n_bytes


def require_file(folder: str | Path, name: str, *, hint: str) -> Path:
    """Return the path of a file that a folder must hold.

    Raises:
        InputError: it does not.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise InputError(f"{folder}: no {name} in it", hint=hint)
    return path
