"""What is read of a document besides its text and id: its right to stay, and the dump it is counted with."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.errors import DocumentError, InputError
from dsllm.io.documents import BadLine, Batch
from dsllm.stages.dedup.config import DedupConfig
from dsllm.stages.dedup.corpus import Corpus

NO_DUMP = "(none)"
LAST = -math.inf  # the right to stay of a document that does not say

Numbered = list[tuple[int, bytes, dict[str, Any]]]


@dataclass(frozen=True)
class Fields:
    """The documents of a batch whose fields can be read, with what `--keep` and `--by` ask of each."""

    numbered: Numbered
    bad: list[BadLine]
    priorities: list[float]
    dumps: list[str]


def read_fields(batch: Batch, numbered: Numbered, bad: list[BadLine], config: DedupConfig) -> Fields:
    """Read the fields that the settings name; nothing where they name none.

    Raises:
        DocumentError: a value is of a kind that cannot be, and `on_error` is "stop".
    """
    field, is_least = config.keep_field
    found = Fields([], list(bad), [], [])
    for document in numbered:
        line_number, line, fields = document
        try:
            priority = 0.0 if field is None else read_priority(fields.get(field), is_least=is_least)
            dump = NO_DUMP if config.by is None else read_dump(fields.get(config.by))
        except _UnfitError as unfit:
            name = config.by if unfit.flag == "--by" else field
            value = orjson.dumps(unfit.value).decode()
            value = value if len(value) <= 60 else value[:59] + "…"
            reason = f"{name!r} is {value}, which is {unfit.reason}"
            if config.on_error == "stop":
                raise DocumentError(
                    f"{batch.source}, line {line_number:,}: {reason}",
                    hint=f"mend the line, name another field with {unfit.flag}, or give --on-error skip",
                ) from None
            found.bad.append(BadLine(batch.source, line_number, reason, line))
            continue
        found.numbered.append(document)
        found.priorities.append(priority)
        found.dumps.append(dump)
    found.bad.sort(key=lambda line: line.line_number)
    return found


class _UnfitError(Exception):
    """A value that cannot be used, with the flag that asked for it; never leaves this module."""

    def __init__(self, value: object, flag: str, reason: str) -> None:
        super().__init__(reason)
        self.value, self.flag, self.reason = value, flag, reason


def read_priority(value: object, *, is_least: bool) -> float:
    """Turn a field's value into the right to stay: numbers, ISO 8601 dates as times, null last.

    A time without a zone is taken as UTC.
    """
    if value is None:
        return LAST
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        try:
            time = datetime.fromisoformat(value)  # type: ignore[arg-type]  # what is no string is caught
        except (TypeError, ValueError):
            raise _UnfitError(value, "--keep", "neither a number nor an ISO 8601 date") from None
        number = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    return -number if is_least else number


def read_dump(value: object) -> str:
    """Turn a field's value into the name of a dump: strings and whole numbers."""
    if value is None:
        return NO_DUMP
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise _UnfitError(value, "--by", "neither a string nor a whole number")


def pack_dumps(dumps: Sequence[str]) -> tuple[NDArray[np.uint64], bytes]:
    """Give each document the hash of its dump's name, and the names in a line of JSON."""
    names = sorted(set(dumps))
    hashes = {name: hash_name(name) for name in names}
    return np.array([hashes[dump] for dump in dumps], np.uint64), orjson.dumps(names) + b"\n"


def require_fields(corpus: Corpus, config: DedupConfig) -> None:
    """Stop where a field that the settings name is in no document: likely its name is not as given.

    Raises:
        InputError: there is none.
    """
    field = config.keep_field[0]
    if not len(corpus):
        return
    if field is not None and not any(
        (corpus.chunk_rows(chunk)["priority"] != LAST).any() for chunk in corpus.chunks()
    ):
        raise _no_field(field, "--keep first, --keep longest")
    no_dump = hash_name(NO_DUMP)
    if config.by is not None and not any(
        (corpus.column(index, "dumps", "<u8") != no_dump).any() for index in range(len(corpus.paths))
    ):
        raise _no_field(config.by, "another --by")


def _no_field(field: str, others: str) -> InputError:
    return InputError(f"no document has a field {field!r}", hint=f"look at its name, or give {others}")


def hash_name(name: str) -> int:
    """Hash a name to 64 bits."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
