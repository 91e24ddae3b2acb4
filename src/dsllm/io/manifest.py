"""The manifest: what a folder holds, out of what it was made, and by which command.

A folder is complete when it holds `manifest.json`, written last. No clock, host or absolute path is in it,
so the same run twice gives the same bytes.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from dsllm.errors import InputError, ShardError
from dsllm.io.atomic import file_sha256

MANIFEST = "manifest.json"
PARTIAL = "manifest.partial.json"
FORMAT = 1


@dataclass(frozen=True)
class ShardRecord:
    """A file of the folder: its name, size, hash, and what it holds."""

    name: str
    n_bytes: int
    sha256: str
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        taken = {"name", "n_bytes", "sha256"} & set(self.counts)
        assert not taken, f"{taken} are the record's own: give the count another name, such as n_text_bytes"

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON has it, the counts beside the rest."""
        return {"name": self.name, "n_bytes": self.n_bytes, **self.counts, "sha256": self.sha256}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote; a ValueError where a name leads out of the folder."""
        rest = {key: value for key, value in values.items() if key not in ("name", "n_bytes", "sha256")}
        if (name := Path(values["name"])).is_absolute() or ".." in name.parts:
            raise ValueError(f"{values['name']!r} is no file of the folder")  # --overwrite would remove it
        return cls(values["name"], values["n_bytes"], values["sha256"], rest)

    def difference(self, path: str | Path, n_bytes: int, sha256: str) -> str | None:
        """Say in what a file differs from this record, None when it is the same."""
        if n_bytes != self.n_bytes:
            return f"{path}: {n_bytes:,} bytes, but {MANIFEST} says {self.n_bytes:,}"
        if sha256 != self.sha256:
            return f"{path}: content hash {sha256[:12]}…, but {MANIFEST} says {self.sha256[:12]}…"
        return None

    def fault(self, folder: Path) -> str | None:
        """Say what is wrong with the file in `folder`, None when it is whole."""
        path = folder / self.name
        if not path.is_file():
            return f"{path}: missing, but {MANIFEST} lists it"
        n_bytes = path.stat().st_size
        return self.difference(path, n_bytes, file_sha256(path) if n_bytes == self.n_bytes else "")


@dataclass(frozen=True)
class InputRecord:
    """An input: its path as seen from the output folder, and its content's hash.

    `kind` says what was hashed: a "file", the "manifest" of a folder, the files of a "folder" without one
    (names and hashes), or the bytes of a "stream".
    """

    path: str
    kind: Literal["file", "manifest", "folder", "stream"]
    sha256: str

    def to_dict(self) -> dict[str, str]:
        """The record as JSON has it: the kind is in the key of the hash."""
        return {"path": self.path, "sha256" if self.kind == "file" else f"{self.kind}_sha256": self.sha256}

    @classmethod
    def from_dict(cls, values: dict[str, str]) -> Self:
        """Read what `to_dict` wrote."""
        key = next(key for key in values if key.endswith("sha256"))
        kind: Any = key.removesuffix("_sha256") if key != "sha256" else "file"
        return cls(values["path"], kind, values[key])


@dataclass(frozen=True)
class Manifest:
    """What `manifest.json` says."""

    stage: str
    version: str
    command: str
    config: dict[str, Any]
    inputs: list[InputRecord]
    content: dict[str, Any]
    counts: dict[str, Any]
    shards: list[ShardRecord]

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        values = {
            "format": FORMAT,
            "stage": self.stage,
            "dsllm": self.version,
            "command": self.command,
            "config": self.config,
            "inputs": [record.to_dict() for record in self.inputs],
            "content": self.content,
            "counts": self.counts,
            "shards": [shard.to_dict() for shard in self.shards],
        }
        return (json.dumps(values, indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, path: Path) -> Self:
        """Read what `to_bytes` wrote; `path` is for messages."""
        try:
            values = json.loads(data)
            if values["format"] != FORMAT:
                raise InputError(
                    f"{path}: format {values['format']}, but this dsllm reads format {FORMAT}",
                    hint="update dsllm, or make the folder again",
                )
            for key in ("config", "content", "counts"):
                if not isinstance(values[key], dict):
                    raise TypeError(f"{key} is no object")
            return cls(
                stage=values["stage"],
                version=values["dsllm"],
                command=values["command"],
                config=values["config"],
                inputs=[InputRecord.from_dict(record) for record in values["inputs"]],
                content=values["content"],
                counts=values["counts"],
                shards=[ShardRecord.from_dict(record) for record in values["shards"]],
            )
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise InputError(
                f"{path}: no manifest of dsllm: {type(error).__name__} {error}",
                hint="make the folder again, or copy it again from where it came from",
            ) from None

    def check_shards(self, folder: Path) -> None:
        """Compare every file with its record.

        Raises:
            ShardError: the first file that is missing or differs.
        """
        for shard in self.shards:
            if fault := shard.fault(folder):
                raise ShardError(fault, hint=f"copy {folder} again, or remake it with: {self.command}")


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of a complete folder.

    Raises:
        InputError: no such folder, no manifest, or only that of an unfinished run.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        return Manifest.from_bytes(path.read_bytes(), path)
    except OSError:
        pass
    if (partial := folder / PARTIAL).exists():
        command = Manifest.from_bytes(partial.read_bytes(), partial).command
        raise InputError(
            f"{folder}: incomplete: the run that writes it has not ended", hint=f"finish it with: {command}"
        )
    if not folder.exists():
        raise InputError(f"{folder}: no such folder", hint="check the path")
    raise InputError(f"{folder}: no {MANIFEST} in it", hint="give a folder that dsllm wrote")
