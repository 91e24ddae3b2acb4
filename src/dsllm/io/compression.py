"""Bytes in and out of .gz and .zst, by suffix or by the first bytes of a stream.

A compressed shard is a row of frames (zstd) or members (gzip), one per batch of documents, so that workers
compress and the writer only appends. Readers take any number of frames.
"""

import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO, Literal

import zstandard

from dsllm.errors import ShardError

Codec = Literal["plain", "gz", "zst"]

READ_BYTES = 1 << 18
# Decompressed at a time: zstd unpacks to as much as 33,000 times its size, gzip to 1,000 times. A slice is
# large where the one before it did not unpack to much.
SLICE_BYTES, MAX_SLICE_BYTES = 1 << 11, 1 << 14
MUCH_BYTES = 1 << 19
MAX_WINDOW_BYTES = 1 << 31  # of `zstd --long=31`, as large files that are kept for years often have it
ZSTD_LEVEL = 1  # level 3 takes 1.8 times as long for a seventh less
GZIP_LEVEL = 6
_MAGIC: dict[bytes, Codec] = {b"\x28\xb5\x2f\xfd": "zst", b"\x1f\x8b": "gz"}


def codec_of_name(name: str) -> Codec:
    """Tell the codec by a file's suffix."""
    if name.endswith(".gz"):
        return "gz"
    return "zst" if name.endswith((".zst", ".zstd")) else "plain"


def codec_of_head(head: bytes) -> Codec:
    """Tell the codec by the first bytes of a stream."""
    return next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), "plain")


def compress(data: bytes, codec: Codec) -> bytes:
    """Compress `data` into one frame that can be appended to others; the bytes depend on `data` alone."""
    return frame_of(data, codec) if data else data


def frame_of(data: bytes, codec: Codec) -> bytes:
    """As `compress`, but a frame for no data too: without any, a file is none to gzip and zstd."""
    if codec == "plain":
        return data
    if codec == "gz":
        return gzip.compress(data, GZIP_LEVEL, mtime=0)
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True).compress(data)


def decompress(file: BinaryIO, codec: Codec, path: str) -> Iterator[tuple[bytes, int]]:
    """Yield (decompressed block, bytes read from `file` for it).

    Raises:
        ShardError: the data is damaged, or ends in the middle of a frame.
    """
    if codec == "plain":
        while block := file.read(READ_BYTES):
            yield block, len(block)
        return
    frame, n_read, is_in_frame, may_be_padded = _decoder(codec), 0, False, False
    read, place = b"", 0
    consumed = n_unpacked = 0
    while True:
        if place == len(read):
            read, place = file.read(READ_BYTES), 0
            if not read:
                break
        n_slice = SLICE_BYTES if n_unpacked > MUCH_BYTES or not n_read else MAX_SLICE_BYTES
        block = read[place : place + n_slice]
        place += len(block)
        consumed, n_read, n_unpacked = consumed + len(block), n_read + len(block), 0
        while block := block.lstrip(b"\0") if may_be_padded and not is_in_frame else block:
            try:
                data = frame.decompress(block)
            except (zlib.error, zstandard.ZstdError) as error:
                raise ShardError(
                    f"{path}: damaged {codec} data before byte {n_read:,}: {error}",
                    hint="copy the file again from where it came from",
                ) from None
            is_in_frame, n_unpacked = not frame.eof, n_unpacked + len(data)
            if data:
                yield data, consumed
                consumed = 0
            if is_in_frame:
                break
            block, frame, may_be_padded = frame.unused_data, _decoder(codec), codec == "gz"
    if is_in_frame:
        raise ShardError(
            f"{path}: cut after {n_read:,} bytes, in the middle of a {codec} frame",
            hint="copy the file again from where it came from",
        )


def _decoder(codec: Codec) -> "zlib._Decompress | zstandard.ZstdDecompressionObj":
    return (
        zlib.decompressobj(wbits=31)
        if codec == "gz"
        else zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES).decompressobj(write_size=1 << 17)
    )
