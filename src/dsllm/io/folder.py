"""An output folder's life: started, locked, resumed or refused, its files recorded, finished by a manifest.

While a stage works, `manifest.partial.json` lists the finished files and the configuration. The same command
carries on, also with `--on-error skip` after a stop at a bad line; another configuration is refused; a
complete folder is refused unless it may be overwritten.
"""

import fcntl
import hashlib
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Self, cast

from dsllm import __version__
from dsllm.config import RunOptions, Settings, command_line
from dsllm.errors import InputError, OutputError
from dsllm.io.apart import check_apart, is_within
from dsllm.io.atomic import atomic_file, file_sha256, output_error, start_writing_out
from dsllm.io.manifest import MANIFEST, PARTIAL, InputRecord, Manifest, ShardRecord
from dsllm.io.sources import find_sources, is_url
from dsllm.io.stores import LocalStore, Store, UrlStore

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

PARTIAL_EVERY_S = 1.0  # a shard finished since then is made again after a crash, with the same bytes
START_BYTES = 1 << 23  # written since the system was last told to begin with putting them on the disk
_LEFT_OVERS = ("checkpoints", ".work")


class OutputFolder:
    """A folder that is being written: `with OutputFolder(...) as out`, then `out.finish(...)` at the end.

    `finished` holds the files of an interrupted run of the same command: they are whole and need not be made
    again. `scratch` is a place for intermediate files, which `finish` removes. A side folder goes with a main
    output, `side_of`, that is finished after it: a kill in between leaves it complete, and the same command
    takes it up again. With `is_on_disk` the output cannot be a URL: its user writes into `path` by himself.
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
        side_of: str | None = None,
        is_on_disk: bool = False,
    ) -> None:
        if is_on_disk and is_url(output):
            raise OutputError(
                f"{output}: a run's checkpoints need a disk",
                hint="write to a local folder, then copy it there",
            )
        check_apart(output, inputs)
        self.output = output
        self.path = Path(tempfile.mkdtemp(prefix="dsllm-")) if is_url(output) else Path(output)
        self._store: Store = UrlStore(output) if is_url(output) else LocalStore(self.path)
        self.scratch = self.path / ".work"
        self.finished: dict[str, ShardRecord] = {}
        self._counts: dict[str, dict[str, int]] = {}
        self._options = options
        self._is_side = side_of is not None
        self._is_restartable = "-" not in inputs
        config = _without_absolute_paths(config)
        self._inputs = given = [*inputs, *(path for path in more_inputs if path is not None)]
        self._manifest = Manifest(
            stage=stage,
            version=__version__,
            command=command_line(
                stage,
                [_relative(path, Path()) for path in inputs],
                _relative(output if side_of is None else side_of, Path()),
                config,
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
        if self._store.size(PARTIAL) is not None:
            self._save_partial()
        self._drop_lock()
        if is_url(self.output):
            shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def create(self, name: str, **counts: int) -> Iterator[BinaryIO]:
        """Write a file that is whole or absent, and record it when the block ends without an error."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            hashed = _HashedFile(file)
            yield cast(BinaryIO, hashed)
        self._store.put(name, path)
        counts |= self._counts.pop(name, {})
        self._add(ShardRecord(name, hashed.n_bytes, hashed.digest.hexdigest(), counts))

    def record(self, name: str, **counts: int) -> None:
        """Record a file that stands in the folder already, whole."""
        path = self.path / name
        record = ShardRecord(name, path.stat().st_size, file_sha256(path), counts)
        self._store.put(name, path)
        self._add(record)

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
        self._store.write(MANIFEST, manifest.to_bytes())
        self._tidy()
        return manifest

    def _tidy(self) -> None:
        self._store.remove(PARTIAL)
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _start(self) -> None:
        complete, partial = self._store.read(MANIFEST), self._store.read(PARTIAL)
        if self._is_side and complete is not None:  # its run may have ended before the other folder was whole
            self._store.write(PARTIAL, complete)
            self._store.remove(MANIFEST)
            complete, partial = None, complete
        if complete is not None:
            if not self._options.overwrite:
                self._tidy()  # a kill while it was being finished may have left things
                raise OutputError(
                    f"{self.output}: already complete",
                    hint="give --overwrite to make it again, or another -o",
                )
            self._clear(self._parse(complete))
        elif partial is not None:
            self._resume(self._parse(partial))
        elif foreign := [name for name in self._store.names() if not name.startswith(".")]:
            raise OutputError(
                f"{self.output}: not empty, and not written by dsllm ({foreign[0]})",
                hint="give another folder to -o",
            )

    def _resume(self, before: Manifest) -> None:
        difference = self._difference(before)
        if self._is_restartable and difference is None:
            whole = (shard for shard in before.shards if self._store.size(shard.name) == shard.n_bytes)
            self.finished = {shard.name: shard for shard in whole}
        elif difference is None or self._options.overwrite:
            self._clear(before)
        else:
            if before.command == self._manifest.command:
                raise OutputError(
                    f"{self.output}: cannot be carried on: {difference}",
                    hint="give --overwrite to begin anew, or another -o",
                )
            raise OutputError(
                f"{self.output}: begun by another command: {difference}",
                hint=f"finish that one ({before.command}), give --overwrite, or another -o",
            )

    def _difference(self, before: Manifest) -> str | None:
        """Name the first thing in which an unfinished run was another one."""
        now = self._manifest
        if before.stage != now.stage:
            return f"stage {before.stage}, now {now.stage}"
        for name in sorted({*before.config, *now.config}):
            if before.config.get(name) != now.config.get(name) and not _is_more_lenient(name, before, now):
                return f"{name} was {before.config.get(name)}, now {now.config.get(name)}"
        if before.inputs != now.inputs:
            changed = [a.path for a, b in zip(before.inputs, now.inputs, strict=False) if a != b]
            if [record.path for record in before.inputs] == [record.path for record in now.inputs]:
                return f"{changed[0]} has changed since it was begun"
            return f"other inputs ({changed[0] if changed else 'another number'})"
        return f"dsllm {before.version}, now {now.version}" if before.version != now.version else None

    def _clear(self, manifest: Manifest) -> None:
        """Remove what an earlier run wrote here, and nothing else.

        Raises:
            OutputError: an input lies there.
        """
        for path in self._inputs:
            if self.output == path or (path != "-" and is_within(path, self.output)):
                raise OutputError(
                    f"{self.output}: {path} is an input, and would be removed",
                    hint="give another folder to -o",
                )
        for name in _LEFT_OVERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        for name in (*(shard.name for shard in manifest.shards), "metrics.jsonl", PARTIAL, MANIFEST):
            self._store.remove(name)

    def _parse(self, data: bytes) -> Manifest:
        return Manifest.from_bytes(data, self.path / PARTIAL)

    def seen_from_here(self, path: str) -> str:
        """Write a path as the manifest names it: from the folder on."""
        return path if is_url(self.output) else _relative(path, self.path)

    def _add(self, record: ShardRecord) -> None:
        self.finished[record.name] = record
        if time.monotonic() - self._saved_s > PARTIAL_EVERY_S:
            self._save_partial()

    def _save_partial(self) -> None:
        shards = [self.finished[name] for name in sorted(self.finished)]
        self._store.write(PARTIAL, replace(self._manifest, shards=shards).to_bytes())
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


def _is_more_lenient(name: str, before: Manifest, now: Manifest) -> bool:
    """Tell that a run stopped at a bad line and now skips such lines: what it had finished has none."""
    return name == "on_error" and (before.config.get(name), now.config.get(name)) == ("stop", "skip")


class _HashedFile(io.RawIOBase):
    """Counts and hashes what is written; closing it leaves the file below open."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self.digest = hashlib.sha256()
        self.n_bytes = self._n_started = 0

    def writable(self) -> bool:
        return True

    def write(self, data: "Buffer") -> int:
        self.digest.update(data)
        n_bytes = self._file.write(data)
        self.n_bytes += n_bytes
        if self.n_bytes - self._n_started >= START_BYTES:
            start_writing_out(self._file, self._n_started, self.n_bytes - self._n_started)
            self._n_started = self.n_bytes
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
    if is_url(path):
        if (data := UrlStore(path).read(MANIFEST)) is not None:
            return InputRecord(path, "manifest", hashlib.sha256(data).hexdigest())
    elif (local / MANIFEST).is_file():
        return InputRecord(path, "manifest", file_sha256(local / MANIFEST))
    elif local.is_file():
        return InputRecord(path, "file", file_sha256(local))
    elif local.is_dir():
        files = sorted(file for file in local.rglob("*") if file.is_file() and not file.name.startswith("."))
        return InputRecord(
            path, "folder", _hash_listing((str(file.relative_to(local)), file_sha256(file)) for file in files)
        )
    sources = find_sources([path])  # a pattern or a URL; says so when nothing is there
    return InputRecord(
        path, "folder", _hash_listing((Path(source.path).name, source.sha256) for source in sources)
    )


def _hash_listing(files: Iterable[tuple[str, str]]) -> str:
    return hashlib.sha256("".join(f"{name} {digest}\n" for name, digest in files).encode()).hexdigest()


def _without_absolute_paths(config: Settings) -> Settings:
    """Write paths as they are seen from here: a manifest names no machine's folders."""
    values = {name: getattr(config, name) for name in config.to_dict()}
    return replace(config, **{name: _without_absolute_path(value) for name, value in values.items()})


def _without_absolute_path(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_without_absolute_path(part) for part in value)
    is_absolute = isinstance(value, str) and value.startswith("/") and Path(value).parent.exists()
    return os.path.relpath(value) if is_absolute else value


def _relative(path: str, folder: Path) -> str:
    if path == "-" or is_url(path):
        return path
    return os.path.relpath(path, folder) if Path(path).is_absolute() or folder != Path() else path


def require_file(folder: str | Path, name: str, *, hint: str) -> Path:
    """Return the path of a file that a folder must hold.

    Raises:
        InputError: it does not.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise InputError(f"{folder}: no {name} in it", hint=hint)
    return path
