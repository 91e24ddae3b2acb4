"""Files of fastText classifiers, read into arrays: .bin, and .ftz, whose matrices are in codes.

A file is a magic number, a version, the arguments of the training, the dictionary, the input matrix and the
output matrix. Codes (Joulin et al. 2016, arXiv:1612.03651) are unpacked: a row of `dim` numbers is a byte for
each `dsub` of them, which names one of 256 centroids, at times scaled by a norm in a code of its own.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from dsllm.text.fasttext_entries_compiled import NOT_FOUND, fill_table, find_entries
from dsllm.text.fasttext_model import LOSSES, FastText
from dsllm.text.fasttext_ngrams_compiled import (
    BUCKET,
    DIM,
    LONGEST,
    MAX_N,
    MIN_N,
    N_SHAPE,
    N_WORDS,
    ROW_BYTES,
    WORD_NGRAMS,
)
from dsllm.text.vector import BLOCK_BYTES

MAX_UNPACKED_BYTES = 1 << 30
MAX_ALIGNED_BYTES = 1 << 28  # of rows that are copied so that each is in as few lines of memory as can be
_MAGIC, _LAST_VERSION, _WITHOUT_SUBWORDS = 793712314, 12, 11
_SUPERVISED, _LABEL = 3, 1
_N_CENTROIDS = 256


@dataclass
class _Arguments:
    """The twelve whole numbers in a file; a thirteenth, a float, is of no use here."""

    dim: int
    window: int
    epoch: int
    min_count: int
    n_negatives: int
    word_ngrams: int
    loss: int
    model: int
    bucket: int
    min_n: int
    max_n: int
    lr_update_rate: int


class _UnknownError(Exception):
    """Why a file is not read."""


class _File:
    """Takes arrays and numbers from a file, one after another."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self.data = data
        self.place = 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        layout = struct.Struct("<" + form)
        return layout.unpack(self.array(np.uint8, layout.size).tobytes())

    def array(self, dtype: DTypeLike, n: int) -> NDArray[Any]:
        n_bytes = np.dtype(dtype).itemsize * n
        if n < 0 or self.place + n_bytes > len(self.data):
            raise _UnknownError(f"it ends after {len(self.data):,} bytes, in the middle")
        self.place += n_bytes
        return self.data[self.place - n_bytes : self.place].view(dtype)

    def matrix(self, *, is_in_codes: bool) -> tuple[NDArray[np.uint8], int, int]:
        """Take a matrix of float32: its bytes, those that follow it included, and its shape."""
        if is_in_codes:
            values = self._unpacked()
            return values.view(np.uint8).ravel(), *values.shape
        n_rows, dim = self.numbers("qq")
        start = self.place
        self.array(np.uint8, 4 * n_rows * dim)
        return self.data[start:], n_rows, dim

    def _unpacked(self) -> NDArray[np.float32]:
        has_norms, n_rows, dim, n_codes = self.numbers("?qqi")
        if 4 * n_rows * dim > MAX_UNPACKED_BYTES:
            raise _UnknownError(f"its {n_rows:,} rows in codes would take {4 * n_rows * dim:,} bytes")
        codes = self.array(np.uint8, n_codes)
        parts = self._centroids()
        if n_rows * len(parts) != n_codes or sum(part.shape[1] for part in parts) != dim:
            raise _UnknownError(f"{n_codes:,} codes for {n_rows:,} rows of {dim}")
        codes = codes.reshape(n_rows, len(parts))
        values = np.hstack([part[codes[:, index]] for index, part in enumerate(parts)])
        if has_norms:
            codes = self.array(np.uint8, n_rows)
            (norms,) = self._centroids()
            values *= norms[codes]
        return values

    def _centroids(self) -> list[NDArray[np.float32]]:
        """Take the centroids of each part of a row: (256, numbers in the part)."""
        dim, n_parts, n_each, n_last = self.numbers("4i")
        values = self.array(np.uint8, 4 * dim * _N_CENTROIDS).copy().view(np.float32)
        sizes = [n_each] * (n_parts - 1) + [n_last]
        if min(sizes) < 1 or sum(sizes) != dim:
            raise _UnknownError(f"a product quantiser of {n_parts} parts for {dim} numbers")
        cuts = np.cumsum([_N_CENTROIDS * size for size in sizes])[:-1]
        return [part.reshape(_N_CENTROIDS, -1) for part in np.split(values, cuts)]


def read_fasttext(path: Path) -> FastText | str:
    """Read a classifier, or say why it is none or cannot be read here. The file must not be empty."""
    with path.open("rb") as file:
        data = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    try:
        return _read(_File(data))
    except _UnknownError as reason:
        return str(reason)


def _read(file: _File) -> FastText:
    magic, version = file.numbers("ii")
    if magic != _MAGIC or version > _LAST_VERSION:
        raise _UnknownError("no file of fastText, or one of a later version")
    arguments = _Arguments(*file.numbers("12i"))
    file.numbers("d")
    if version == _WITHOUT_SUBWORDS:
        arguments.max_n = 0
    if arguments.model != _SUPERVISED or arguments.loss not in LOSSES:
        raise _UnknownError("word vectors, not a classifier")
    n_entries, n_words, n_labels, _, n_kept = file.numbers("iiiqq")
    if not (n_words >= 0 and n_labels > 0 and n_entries == n_words + n_labels):
        raise _UnknownError(f"a dictionary of {n_words:,} words and {n_labels:,} labels")
    spans, counts = np.empty((n_entries, 2), np.int64), np.empty(n_entries, np.int64)
    types = np.empty(n_entries, np.uint8)
    file.place = find_entries(file.data, file.place, n_entries, spans, counts, types)
    if file.place == NOT_FOUND or (types[:n_words] == _LABEL).any() or (types[n_words:] != _LABEL).any():
        raise _UnknownError("a dictionary that is not words, then labels")
    table = np.full(1 << (2 * n_entries).bit_length(), NOT_FOUND, np.int32)
    fill_table(file.data, spans, table)
    buckets = _kept_buckets(file, n_kept, arguments.bucket)

    (is_in_codes,) = file.numbers("?")
    rows, n_rows, dim = file.matrix(is_in_codes=is_in_codes)
    (output_in_codes,) = file.numbers("?")
    output, n_outputs, output_dim = file.matrix(is_in_codes=is_in_codes and output_in_codes)
    n_most = n_words + (arguments.bucket if n_kept < 0 else max(0, n_kept))
    has_ngrams = n_kept != 0 and arguments.bucket > 0
    n_needed = n_most if has_ngrams and max(arguments.max_n, arguments.word_ngrams - 1) > 0 else n_words
    if n_rows < n_needed or n_outputs != n_labels or not dim == output_dim == arguments.dim:
        raise _UnknownError(f"matrices of {n_rows:,} and {n_outputs:,} rows of {dim} and {output_dim}")
    if len(buckets):
        order = np.concatenate((np.arange(n_words), n_words + np.argsort(buckets)))
        rows = rows.reshape(n_rows, 4 * dim)[order].ravel()
    n_bytes = 4 * n_rows * dim
    is_split = 4 * dim % BLOCK_BYTES == 0 and rows.ctypes.data % BLOCK_BYTES > 0
    if len(rows) < n_bytes + BLOCK_BYTES or (is_split and n_bytes <= MAX_ALIGNED_BYTES):
        rows = _with_room(rows[:n_bytes])
    kept_bits, kept_before = _index_buckets(buckets, arguments.bucket)
    shape = np.zeros(N_SHAPE, np.int64)
    shape[[N_WORDS, DIM, BUCKET, ROW_BYTES]] = n_words, dim, arguments.bucket, 4 * dim
    shape[LONGEST] = (spans[:, 1] - spans[:, 0]).max()
    shape[MIN_N], shape[MAX_N] = max(1, arguments.min_n), arguments.max_n if has_ngrams else 0
    shape[WORD_NGRAMS] = max(1, arguments.word_ngrams) if has_ngrams else 1
    return FastText(
        labels=tuple(
            file.data[start:end].tobytes().decode("utf-8", "replace")
            for start, end in spans[n_words:].tolist()
        ),
        label_counts=counts[n_words:],
        loss=LOSSES[arguments.loss],
        data=file.data,
        spans=spans,
        table=table,
        rows=rows,
        kept_bits=kept_bits,
        kept_before=kept_before,
        shape=shape,
        output=output[: 4 * n_outputs * dim].copy().view(np.float32).reshape(n_outputs, dim),
    )


def _with_room(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Copy the bytes of rows, from the beginning of a line of memory on, with one more line behind them."""
    room = np.zeros(len(rows) + 2 * BLOCK_BYTES, np.uint8)
    room = room[-room.ctypes.data % BLOCK_BYTES :]
    room[: len(rows)] = rows
    return room


def _kept_buckets(file: _File, n_kept: int, n_buckets: int) -> NDArray[np.int64]:
    """Read which n-grams were kept, where not all were: their buckets by their rows behind those of words."""
    if n_kept <= 0:
        return np.zeros(0, np.int64)
    pairs = file.array(np.uint8, 8 * n_kept).copy().view(np.int32).reshape(n_kept, 2)
    buckets = np.full(n_kept, NOT_FOUND, np.int64)
    if pairs.min() >= 0 and pairs[:, 1].max() < n_kept:
        buckets[pairs[:, 1]] = pairs[:, 0]
    if buckets.min() < 0 or buckets.max() >= n_buckets or len(np.unique(buckets)) < n_kept:
        raise _UnknownError("n-grams without a bucket or a row")
    return buckets


def _index_buckets(
    buckets: NDArray[np.int64], n_buckets: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Give a bit for each bucket that was kept, and how many were before each word of bits."""
    if not len(buckets):
        return np.zeros(0, np.uint64), np.zeros(0, np.int64)
    bits = np.zeros(-(-n_buckets // 64) * 64, np.uint8)
    bits[buckets] = 1
    n_each = bits.reshape(-1, 64).sum(axis=1, dtype=np.int64)
    return np.packbits(bits, bitorder="little").view(np.uint64), np.cumsum(n_each) - n_each
