"""Where a folder comes from: from manifest to manifest, by content hash, back to the raw files."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dsllm.errors import InputError
from dsllm.io.folder import input_records
from dsllm.io.manifest import MANIFEST, InputRecord, Manifest, read_manifest
from dsllm.io.sources import is_url

State = Literal["same", "changed", "missing", "not checked"]


@dataclass(frozen=True)
class Origin:
    """One step of the way back.

    `state` compares what stands at `path` now with the hash that the step after it recorded.
    """

    path: str
    sha256: str
    state: State
    manifest: Manifest | None = None
    inputs: list["Origin"] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The tree as JSON."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "state": self.state,
            "stage": self.manifest.stage if self.manifest else None,
            "command": self.manifest.command if self.manifest else None,
            "inputs": [origin.to_dict() for origin in self.inputs],
        }

    def lines(self, indent: str = "") -> Iterator[str]:
        """The tree as text, one origin a line."""
        note = "" if self.state == "same" else f"  [{self.state}]"
        made_by = f"  {self.manifest.command}" if self.manifest else ""
        yield f"{indent}{self.path}  {self.sha256[:12]}{note}{made_by}"
        for origin in self.inputs:
            yield from origin.lines(indent + "  ")


def trace(path: str) -> Origin:
    """Follow a folder, or a file in one, back to its raw inputs.

    Raises:
        InputError: it belongs to no folder that dsllm wrote, or is an address.
    """
    check_is_here(path)
    folder = Path(path)
    if folder.is_file():
        name, folder = folder.name, folder.parent
        manifest = read_manifest(folder)
        if not any(shard.name == name for shard in manifest.shards):
            raise InputError(
                f"{path}: not among the files of {folder}/{MANIFEST}", hint=f"try: dsllm trace {folder}"
            )
    read_manifest(folder)
    (record,) = input_records([str(folder)])
    return _origin(record, Path(), set())


def check_is_here(path: str) -> None:
    """Refuse an address.

    Raises:
        InputError: it is one.
    """
    if is_url(path):
        raise InputError(f"{path}: is not on a disk", hint="copy it here first")


def _origin(record: InputRecord, seen_from: Path, above: set[str]) -> Origin:
    if record.kind == "stream":
        return Origin("standard input", record.sha256, "not checked")
    if is_url(record.path):
        return Origin(record.path, record.sha256, "not checked")
    path = seen_from / record.path
    shown = _short(path)
    try:
        (now,) = input_records([str(path)])
    except InputError:
        return Origin(shown, record.sha256, "missing")
    if now.sha256 != record.sha256:
        return Origin(shown, record.sha256, "changed")
    if record.kind != "manifest" or record.sha256 in above:
        return Origin(shown, record.sha256, "same")
    manifest = read_manifest(path)
    inputs = [_origin(before, path, above | {record.sha256}) for before in manifest.inputs]
    return Origin(shown, record.sha256, "same", manifest, inputs)


def _short(path: Path) -> str:
    """Write a path without `..` in its middle, from here where it lies below."""
    whole = path.resolve()
    here = Path().resolve()
    return str(whole.relative_to(here)) if whole.is_relative_to(here) else str(path)
