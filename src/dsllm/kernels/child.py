"""A module run in a process of its own: one process of Triton interprets or compiles, never both."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dsllm


def run_module(module: str, arguments: Sequence[str], *, interprets: bool) -> list[dict[str, Any]]:
    """Run `python -m module arguments` and read the rows that it writes as JSON.

    Args:
        module: its full name.
        arguments: its command line.
        interprets: whether kernels run in Triton's interpreter there.
    """
    environment = dict(os.environ)
    environment.pop("TRITON_INTERPRET", None)
    if interprets:
        environment["TRITON_INTERPRET"] = "1"
    environment.setdefault(
        "TRITON_DEFAULT_FP_FUSION", "1"
    )  # as it is unset; Triton 3.9 warns that this changes
    package = str(Path(dsllm.__file__).parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (package, environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows
