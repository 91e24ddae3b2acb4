"""Where an output folder's files end up: on a local disk, or behind a URL that fsspec knows.

On an object store a file is put in one piece under its own name, so it is whole or absent there too.
"""

from pathlib import Path
from typing import Any, Protocol

from dsllm.errors import OutputError
from dsllm.io.atomic import write_atomic


class Store(Protocol):
    """The names of a folder and their bytes."""

    def read(self, name: str) -> bytes | None:
        """Return a small file's bytes, None where there is none."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all."""

    def put(self, name: str, path: Path) -> None:
        """Take a file that was written at `path` in the working folder."""

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None where there is none."""

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""

    def names(self) -> list[str]:
        """List what the folder holds at its top."""


class LocalStore:
    """A folder on disk, which is its own working folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, name: str) -> bytes | None:
        path = self._root / name
        return path.read_bytes() if path.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        write_atomic(self._root / name, data)

    def put(self, name: str, path: Path) -> None:
        assert path == self._root / name, "a local folder's files are written in place"

    def size(self, name: str) -> int | None:
        path = self._root / name
        return path.stat().st_size if path.is_file() else None

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        return sorted(path.name for path in self._root.iterdir())


class UrlStore:
    """A folder behind a URL; files come from a local working folder and leave it when they are put."""

    def __init__(self, url: str) -> None:
        from fsspec.core import url_to_fs

        try:
            self._files, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise OutputError(
                f"{url}: {error}", hint="s3:// needs dsllm[s3], hf:// needs dsllm[hf]"
            ) from None
        self._url = url

    def read(self, name: str) -> bytes | None:
        try:
            data: bytes = self._files.cat_file(self._path(name))
        except FileNotFoundError:
            return None
        return data

    def write(self, name: str, data: bytes) -> None:
        self._make_folder(name)
        self._run("pipe_file", self._path(name), data)

    def put(self, name: str, path: Path) -> None:
        self._make_folder(name)
        self._run("put_file", str(path), self._path(name))
        path.unlink()

    def size(self, name: str) -> int | None:
        try:
            n_bytes: int | None = self._files.size(self._path(name))
        except FileNotFoundError:
            return None
        return n_bytes

    def remove(self, name: str) -> None:
        if self._files.exists(self._path(name)):
            self._run("rm_file", self._path(name))

    def names(self) -> list[str]:
        if not self._files.exists(self._root):
            return []
        return sorted(
            path.rstrip("/").rsplit("/", 1)[-1] for path in self._files.ls(self._root, detail=False)
        )

    def _path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _make_folder(self, name: str) -> None:
        self._run("makedirs", self._path(name).rsplit("/", 1)[0], exist_ok=True)

    def _run(self, method: str, *arguments: Any, **options: Any) -> None:
        try:
            getattr(self._files, method)(*arguments, **options)
        except OSError as error:
            raise OutputError(
                f"{self._url}: {error}", hint="check the address and that you may write there"
            ) from None
