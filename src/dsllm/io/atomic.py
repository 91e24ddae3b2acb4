"""Files that are whole or absent: a temporary name beside the target, fsync, rename."""

import ctypes
import errno
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import BinaryIO, cast

from dsllm.errors import OutputError

_SYNC_FILE_RANGE_WRITE = 2
_HINTS = {
    errno.ENOSPC: "free some space and run the same command again: it carries on",
    errno.EDQUOT: "free some space and run the same command again: it carries on",
    errno.EACCES: "choose an output that you may write",
    errno.EPERM: "choose an output that you may write",
    errno.EROFS: "choose an output on a file system that can be written",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) and run the same command again",
}


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only when the block ends without an error.

    Raises:
        OutputError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BrokenPipeError:  # of another stream that the block writes to
        temporary.unlink(missing_ok=True)
        raise
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise output_error(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a whole small file at once."""
    with atomic_file(path) as file:
        file.write(data)


def start_writing_out(file: BinaryIO, begin: int, n_bytes: int) -> None:
    """Let the system begin to put part of a file on the disk, which is waited for at its end.

    A hint, given on Linux alone; whether all is written, and any error, is for `fsync` to say.
    """
    if (function := _sync_file_range()) is not None:
        function(file.fileno(), begin, n_bytes, _SYNC_FILE_RANGE_WRITE)


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    function = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
    if function is not None:
        function.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast("Callable[[int, int, int, int], int] | None", function)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def output_error(path: str | Path, error: OSError) -> OutputError:
    """Say why a path could not be written."""
    hint = _HINTS.get(error.errno or 0, "check that the folder exists and can be written")
    return OutputError(f"{path}: {error.strerror or error}", hint=hint)


def file_sha256(path: str | Path) -> str:
    """Hash a local file; asked again for an unchanged file, answer from memory."""
    stat = Path(path).stat()
    return _file_sha256(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=100_000)
def _file_sha256(path: str, n_bytes: int, mtime_ns: int, inode: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
