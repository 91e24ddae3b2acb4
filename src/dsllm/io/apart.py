"""Outputs that would fall upon inputs: refused before anything is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dsllm.errors import ConfigError, OutputError
from dsllm.io.manifest import MANIFEST
from dsllm.io.sources import is_url


def is_within(path: str | Path, folder: str | Path) -> bool:
    """Tell whether a path is a folder or lies in it; both on this machine, else no."""
    return not (is_url(str(path)) or is_url(str(folder))) and Path(path).resolve().is_relative_to(
        Path(folder).resolve()
    )


def check_apart(output: str, inputs: Sequence[str]) -> None:
    """Refuse a folder inside an input folder that no manifest describes: it would become part of the input.

    Raises:
        OutputError: it lies in one.
    """
    for path in inputs:
        is_plain = path != "-" and Path(path).is_dir() and not (Path(path) / MANIFEST).is_file()
        if is_plain and is_within(output, path):
            raise OutputError(
                f"{output}: lies in {path}, which is an input, and would be read as part of it",
                hint="give a folder outside of it",
            )


def check_folders(named: Mapping[str, str | None], inputs: Sequence[str]) -> None:
    """Refuse folders to write, by the flags that name them, that lie in an input or are given twice.

    Raises:
        OutputError: one lies in an input.
        ConfigError: two flags name the same one.
    """
    seen: dict[Path, str] = {}
    for flag, path in named.items():
        if path is None or path == "-":
            continue
        check_apart(path, inputs)
        if (other := seen.setdefault(Path(path).absolute(), flag)) != flag:
            raise ConfigError(f"{path} is given to {other} and to {flag}", hint="give each its own folder")


def check_no_input(path: str | None, inputs: Sequence[str], *, flag: str) -> None:
    """Refuse a file to write that is an input: the name of one, a file in a folder, or one that a glob names.

    Raises:
        OutputError: it is.
    """
    if path is None or not Path(path).exists():
        return
    for given in inputs:
        if given == "-" or is_url(given):
            continue
        folder = Path("/") if given.startswith("/") else Path()
        found = [Path(given)] if Path(given).exists() else folder.glob(given.lstrip("/"))
        for one in found:
            if is_within(path, one):
                raise OutputError(f"{path}: is an input", hint=f"give another file to {flag}")
