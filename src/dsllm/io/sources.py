"""Inputs: files, folders, globs, URLs and `-`, in a fixed order, each known by its content hash.

A folder with a manifest is read as the manifest lists it, after sizes and hashes were compared; one with only
`manifest.partial.json` is refused. A folder without either is read recursively in sorted order: every file
whose suffix is understood, and folders with a manifest as that lists them.
"""

import base64
import hashlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson

from dsllm.errors import DsllmError, InputError, ShardError
from dsllm.io.atomic import file_sha256
from dsllm.io.batches import cut_batches
from dsllm.io.compression import codec_of_head, codec_of_name, decompress
from dsllm.io.documents import Batch
from dsllm.io.manifest import MANIFEST, PARTIAL, Manifest, ShardRecord, read_manifest

SUFFIXES = (
    *(name + packed for name in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst", ".zstd")),
    ".parquet",
)
_KNOWN = ".jsonl, .json (each also .gz, .zst) and .parquet are read"

_OTHERS = "; others that hold JSON Lines go through a pipe: bzcat FILE.bz2 | dsllm ... -"


@dataclass(frozen=True)
class Source:
    """One input file.

    `n_bytes` is its size on disk, 0 where it is unknown; `sha256` is empty for `-`, whose content is hashed
    into `stream_hash` while it is read.
    """

    index: int
    path: str
    n_bytes: int = 0
    sha256: str = ""
    stream_hash: Any = field(default=None, compare=False, repr=False)


def find_sources(inputs: Sequence[str]) -> list[Source]:
    """List the files behind the inputs, in order, hashed and compared with their manifests.

    Raises:
        InputError: nothing there, an unknown suffix, or an incomplete folder.
        ShardError: a file differs from what its folder's manifest says.
    """
    found = [file for given in inputs for file in _expand(given)]
    if sum(file.path == "-" for file in found) > 1:
        raise InputError("'-' is given twice", hint="standard input can be read once")
    with ThreadPoolExecutor(4) as threads:
        digests = list(threads.map(lambda file: _size_and_hash(file.path), found))
    for file, (n_bytes, sha256) in zip(found, digests, strict=True):
        if file.shard is not None and (fault := file.shard.difference(file.path, n_bytes, sha256)):
            raise ShardError(fault, hint=f"copy the folder again, or remake it with: {file.command}")
    return [
        Source(index, file.path, n_bytes, sha256, hashlib.sha256() if file.path == "-" else None)
        for index, (file, (n_bytes, sha256)) in enumerate(zip(found, digests, strict=True))
    ]


def read_batches(source: Source) -> Iterator[Batch]:
    """Read a source as batches of about 4 MiB of whole lines.

    Raises:
        InputError: the file cannot be opened.
        ShardError: it is cut or damaged.
    """
    name = "standard input" if source.path == "-" else source.path
    first_line = 1
    for lines, n_read in cut_batches(_read_blocks(source)):
        yield Batch(source.index, name, first_line, lines, n_read)
        first_line += count_lines(lines)
        del lines


def count_lines(lines: bytes) -> int:
    """Count line feeds, several times as fast as `bytes.count`."""
    return int(np.count_nonzero(np.frombuffer(lines, np.uint8) == ord("\n")))


def is_url(path: str) -> bool:
    """Tell whether a path is for fsspec: s3://bucket/key, hf://, https://, memory://."""
    return "://" in path


@dataclass(frozen=True)
class _Found:
    """A file behind an input, and what its folder's manifest says of it."""

    path: str
    shard: ShardRecord | None = None
    command: str = ""


def _expand(given: str) -> list[_Found]:
    if given == "-":
        return [_Found("-")]
    if not given:
        raise InputError("an input is '', no name", hint="check the command: a variable may be empty")
    if is_url(given):
        return _expand_url(given)
    path = Path(given)
    if path.is_dir():
        return _expand_folder(path)
    if path.exists():
        _check_suffix(given)
        return [_Found(given)]
    if any(mark in given for mark in "*?["):
        folder = Path("/") if path.is_absolute() else Path()
        found = sorted(map(str, folder.glob(given.lstrip("/"))))
        if found:
            return [file for match in found for file in _expand(match)]
        raise InputError(f"{given}: no file matches", hint="check the pattern with: ls " + given)
    raise InputError(f"{given}: no such file or folder", hint="check the path; '-' is standard input")


def _expand_folder(folder: Path) -> list[_Found]:
    if (folder / MANIFEST).exists() or (folder / PARTIAL).exists():
        return _listed(read_manifest(str(folder)), str(folder))
    found = list(_walk(folder))
    if not found:
        raise InputError(f"{folder}: no file to read in this folder", hint=_KNOWN)
    return found


def _walk(folder: Path) -> Iterator[_Found]:
    """Find the files below a folder, in the order of their paths; hidden ones are passed over."""
    entries = [(f"{path.name}/" if path.is_dir() else path.name, path) for path in folder.iterdir()]
    for name, path in sorted(entries):
        if name.startswith("."):
            continue
        if name.endswith("/") and path.is_symlink():
            raise InputError(
                f"{path}: a link to a folder, which is not followed",
                hint="link its files, or give folders themselves",
            )
        if not name.endswith("/"):
            yield from [_Found(str(path))] if name.endswith(SUFFIXES) else []
        elif (path / MANIFEST).exists() or (path / PARTIAL).exists():
            yield from _expand_folder(path)
        else:
            yield from _walk(path)


def _listed(manifest: Manifest, folder: str) -> list[_Found]:
    kind = manifest.content.get("kind")
    if kind != "documents":
        raise InputError(
            f"{folder}: holds {kind}, made by {manifest.stage}; documents are needed",
            hint="give a folder of documents, such as dedup, filter and remix write",
        )
    shards = [shard for shard in manifest.shards if shard.name.startswith("shard-")]
    return [_Found(f"{folder.rstrip('/')}/{shard.name}", shard, manifest.command) for shard in shards]


def _expand_url(given: str) -> list[_Found]:
    from fsspec.core import url_to_fs

    try:
        files, path = url_to_fs(given)
        if any(mark in path for mark in "*?["):
            found = sorted(files.glob(path))
        elif files.isdir(path):
            if files.exists(f"{path}/{MANIFEST}"):
                manifest = Manifest.from_bytes(files.cat_file(f"{path}/{MANIFEST}"), Path(given) / MANIFEST)
                return _listed(manifest, given)
            if files.exists(f"{path}/{PARTIAL}"):
                raise InputError(
                    f"{given}: incomplete: the run that writes it has not ended", hint="finish it first"
                )
            found = sorted(name for name in files.find(path) if name.endswith(SUFFIXES))
        else:
            _check_suffix(path)
            found = [path] if files.exists(path) else []
    except (OSError, ImportError, ValueError) as error:
        raise InputError(
            f"{given}: {error}",
            hint="check the address and the access; s3:// needs dsllm[s3], hf:// dsllm[hf], https:// aiohttp "
            "and requests",
        ) from None
    if not found:
        raise InputError(f"{given}: nothing there to read", hint=_KNOWN)
    return [_Found(str(files.unstrip_protocol(name))) for name in found]


def _check_suffix(path: str) -> None:
    if not path.endswith(SUFFIXES):
        raise InputError(f"{path}: unknown suffix", hint=_KNOWN + _OTHERS)


def _size_and_hash(path: str) -> tuple[int, str]:
    if path == "-":
        return 0, ""
    try:
        if not is_url(path):
            return Path(path).stat().st_size, file_sha256(path)
        with _open(path) as file:
            digest, n_bytes = hashlib.sha256(), 0
            while block := file.read(1 << 20):
                digest.update(block)
                n_bytes += len(block)
            return n_bytes, digest.hexdigest()
    except OSError as error:
        raise _open_error(path, error) from None


def _read_blocks(source: Source) -> Iterator[tuple[bytes, int]]:
    if source.path.endswith(".parquet"):
        yield from _read_parquet(source)
        return
    with _open(source.path) as file:
        if source.path != "-":
            yield from decompress(file, codec_of_name(source.path), source.path)
            return
        stream = _HashedStream(file, source.stream_hash)
        if stream.head == b"PAR1":
            raise InputError(
                "standard input: is Parquet, which begins at its end", hint="give the file itself"
            )
        yield from decompress(stream, codec_of_head(stream.head), "standard input")  # type: ignore[arg-type]


def _read_parquet(source: Source) -> Iterator[tuple[bytes, int]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with _open(source.path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            n_rows = max(1, table.metadata.num_rows)
            for rows in table.iter_batches(batch_size=1024):
                lines = b"".join(orjson.dumps(row, default=_as_json) + b"\n" for row in rows.to_pylist())
                yield lines, source.n_bytes * len(rows) // n_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise ShardError(
            f"{source.path}: not a whole Parquet file: {error}",
            hint="copy the file again from where it came from",
        ) from None
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date that Python has not
        raise ShardError(
            f"{source.path}: a value that cannot be read: {error}", hint="write the file without that column"
        ) from None


def _as_json(value: object) -> object:
    """Give a value that JSON lacks: bytes are mostly text of a writer that did not say so."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        opened = _open_url(path) if is_url(path) else Path(path).open("rb")  # noqa: SIM115
    except OSError as error:
        raise _open_error(path, error) from None
    with opened as file:
        yield file


def _open_url(path: str) -> BinaryIO:
    import fsspec

    opened: BinaryIO = fsspec.open(path, "rb").open()
    return opened


def _open_error(path: str, error: OSError) -> DsllmError:
    return InputError(
        f"{path}: {error.strerror or error}", hint="check that the file is there and can be read"
    )


class _HashedStream:
    """Standard input, whole blocks at a time and hashed on the way; a terminal's short reads are joined."""

    def __init__(self, file: BinaryIO, digest: Any) -> None:
        self._file, self._digest = file, digest
        self.head = self._read(4)
        self._is_head_given = False

    def _read(self, n_bytes: int) -> bytes:
        data = self._file.read(n_bytes)
        self._digest.update(data)
        return data

    def read(self, n_bytes: int) -> bytes:
        if self._is_head_given:
            return self._read(n_bytes)
        self._is_head_given = True
        return self.head + self._read(n_bytes - len(self.head))


def total_bytes(sources: Iterable[Source]) -> int | None:
    """Add up the sizes on disk; None where one is unknown, as that of standard input is."""
    found = list(sources)
    is_known = all(source.path != "-" for source in found)
    return sum(source.n_bytes for source in found) if is_known else None
