"""Split a TOML file into a file per table, each rewritten only when its table has changed.

python examples/split_settings.py examples/demo.toml demo/settings filter dedup ...

Make then sees which stages a changed setting concerns. `NAME.flags` has the same table as flags, for the
scripts of this folder.
"""

import re
import sys
import tomllib
from pathlib import Path


def split(text: str) -> dict[str, str]:
    """Return the lines below each `[table]` heading, without comments and blank lines."""
    tables: dict[str, str] = {}
    for part in re.split(r"^\[", text, flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("]\n")
        lines = [line for line in body.splitlines() if line.strip() and not line.startswith("#")]
        tables[name] = "".join(line + "\n" for line in lines)
    return tables


def as_flags(body: str) -> str:
    """Write a table as flags: `max_bytes = 5` is `--max-bytes 5`."""
    values = tomllib.loads(body)
    return " ".join(f"--{name.replace('_', '-')} {value}" for name, value in values.items()) + "\n"


def main(source: str, folder: str, *names: str) -> None:
    """Write `folder/NAME.toml` and `folder/NAME.flags` for every name."""
    tables = split(Path(source).read_text())
    if unknown := set(tables) ^ set(names):
        sys.exit(f"{source}: tables and stages differ in {', '.join(sorted(unknown))}")
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        path = Path(folder, f"{name}.toml")
        if not path.exists() or path.read_text() != tables[name]:
            path.with_suffix(".flags").write_text(as_flags(tables[name]))
            path.write_text(tables[name])


if __name__ == "__main__":
    main(*sys.argv[1:])
