"""The items of a task: records of .jsonl, .json and .csv files, as dictionaries."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from dsllm.errors import DocumentError, InputError
from dsllm.io.compression import codec_of_name, decompress
from dsllm.io.documents import BadLine
from dsllm.io.records import parse_record, record_error

_HINT = "mend the file: tests are not skipped, so that scores stay comparable"


def read_items(
    path: Path, *, columns: Sequence[str] = (), records: str | None = None
) -> list[dict[str, Any]]:
    """Read a file of items.

    Args:
        path: .jsonl, .json (a list, or an object that holds one) or .csv, each also .gz or .zst.
        columns: names for a .csv without a heading.
        records: the key of the list in a .json object.

    Raises:
        DocumentError: an item that is no object; it names file and line.
        InputError: a suffix that is not understood, or a file that cannot be read.
    """
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    try:
        with path.open("rb") as file:
            data = b"".join(block for block, _ in decompress(file, codec_of_name(path.name), str(path)))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="check that the file can be read") from None
    if name.endswith(".jsonl"):
        return _read_lines(data, path)
    if name.endswith(".json"):
        return _read_json(data, path, records)
    if name.endswith(".csv"):
        return _read_csv(data, path, columns)
    raise InputError(
        f"{path}: unknown suffix", hint="items are read from .jsonl, .json and .csv, each also .gz, .zst"
    )


def _read_lines(data: bytes, path: Path) -> list[dict[str, Any]]:
    items = []
    for line_number, line in enumerate(data.split(b"\n"), start=1):
        if line and not line.isspace():
            record = parse_record(str(path), line_number, line)
            if isinstance(record, BadLine):
                raise record_error(record, hint=_HINT)
            items.append(record.fields)
    return items


def _read_json(data: bytes, path: Path, records: str | None) -> list[dict[str, Any]]:
    try:
        content = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        if b"\n{" in data:  # JSON Lines under the other name
            return _read_lines(data, path)
        raise DocumentError(f"{path}: not JSON: {error}", hint=_HINT) from None
    if records is not None and isinstance(content, dict):
        content = content.get(records)
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        where = f"under {records!r}" if records else "in the file"
        raise DocumentError(
            f"{path}: no list of objects {where}", hint="name the key of the list in task.toml: records = KEY"
        )
    return content


def _read_csv(data: bytes, path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path}: not UTF-8 at byte {error.start + 1:,}", hint=_HINT) from None
    rows = list(csv.reader(io.StringIO(text, newline="")))
    names, first_row = (list(columns), 1) if columns else (rows.pop(0) if rows else [], 2)
    items = []
    for row_number, row in enumerate(rows, start=first_row):
        if len(row) != len(names):
            raise DocumentError(
                f"{path}, row {row_number:,}: {len(row)} columns, not {len(names)}", hint=_HINT
            )
        items.append(dict(zip(names, row, strict=True)))
    return items
