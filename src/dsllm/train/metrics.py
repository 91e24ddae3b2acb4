"""metrics.jsonl: a line per step or evaluation, with times; a resumed run cuts it back to its checkpoint."""

import json
import os
from pathlib import Path
from typing import Any

from dsllm.io.atomic import write_atomic

METRICS_NAME = "metrics.jsonl"


class MetricsFile:
    """Appends lines to a run's metrics; every line is a JSON object with the key "step"."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Open the file and drop what lies behind `step`: steps after it, and evaluations from it on.

        An evaluation follows the checkpoint of its step, so a run that goes on from there makes it again.
        """
        self._path = folder / METRICS_NAME
        kept = [line for line in read_metrics(folder) if _is_before(line, step)]
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path, b"".join(json.dumps(line).encode() + b"\n" for line in kept))
        self._file = self._path.open("ab")

    def append(self, line: dict[str, Any]) -> None:
        """Write one line through to the operating system."""
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()

    def close(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file.fileno())
        self._file.close()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Read a run's metrics; empty without a file. A last line that was cut by a kill is left out."""
    path = folder / METRICS_NAME
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [
        json.loads(line) for line in lines[:-1] if line
    ]  # behind the last line end: nothing, or a cut line


def _is_before(line: dict[str, Any], step: int) -> bool:
    return bool(line["step"] < step or (line["step"] == step and "loss" in line))
