"""Document shards out: lines into `shard-00000.jsonl.zst`, `.gz`, plain or Parquet."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import orjson

from dsllm.errors import OutputError
from dsllm.io.compression import Codec, codec_of_name, compress, frame_of
from dsllm.io.folder import OutputFolder

if TYPE_CHECKING:
    import pyarrow

PARQUET = "parquet"


class LineWriter(Protocol):
    """Something that takes whole lines, packed by `pack_lines`."""

    def write(self, packed: bytes) -> object:
        """Append lines."""


def shard_name(index: int, format: str) -> str:
    """Name a shard: shard-00000.jsonl.zst."""
    return f"shard-{index:05d}.{format}"


def pack_lines(lines: bytes, format: str) -> bytes:
    """Compress lines for a shard: done by workers, so that the writer only appends."""
    codec: Codec = codec_of_name(format)
    return compress(lines, codec)


@contextmanager
def line_shard(out: OutputFolder, name: str, format: str) -> Iterator[LineWriter]:
    """Open a shard for lines that went through `pack_lines`; it is recorded when the block ends."""
    with out.create(name) as file:
        if format != PARQUET:
            yield file
            if not file.tell():
                file.write(frame_of(b"", codec_of_name(format)))
            return
        writer = _ParquetWriter(file, name)
        try:
            yield writer
        except BaseException:
            writer.abandon()
            raise
        writer.close()


class StandardOutput:
    """A `LineWriter` whose lines go out at once: whoever reads the pipe may be waiting."""

    def write(self, lines: bytes) -> None:
        """Write lines to stdout."""
        sys.stdout.buffer.write(lines)
        sys.stdout.buffer.flush()


class _ParquetWriter:
    """Lines as rows; the columns are those of the first lines, or of no line at all."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self._writer: Any = None

    def write(self, lines: bytes) -> None:
        if not lines:
            return
        import pyarrow

        rows = [orjson.loads(line) for line in lines.split(b"\n") if line]
        try:
            if self._writer is None:
                self._begin(pyarrow.Table.from_pylist(rows).schema)
            self._writer.write_table(pyarrow.Table.from_pylist(rows, schema=self._writer.schema))
        except (pyarrow.ArrowException, OverflowError) as error:
            raise OutputError(
                f"{self._name}: the documents do not fit one table: {error}", hint="give --format jsonl.zst"
            ) from None
        unknown = {key for row in rows for key in row} - set(self._writer.schema.names)
        if unknown:
            raise OutputError(
                f"{self._name}: field {min(unknown)!r} came up after the columns were fixed",
                hint="give --format jsonl.zst",
            )

    def close(self) -> None:
        if self._writer is None:
            import pyarrow

            self._begin(pyarrow.schema([("text", pyarrow.string())]))
        self._writer.close()

    def abandon(self) -> None:
        """Let go of the file, which is not wanted any more: pyarrow would write its end into it later on."""
        if self._writer is not None:
            self._writer.is_open = False

    def _begin(self, schema: "pyarrow.Schema") -> None:
        import pyarrow
        import pyarrow.parquet

        self._writer = pyarrow.parquet.ParquetWriter(
            pyarrow.PythonFile(self._file, mode="w"), schema, compression="zstd"
        )
