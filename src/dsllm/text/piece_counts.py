"""How often each piece of many texts occurs: a table in bounded memory, and sorted runs on disk.

A piece is what `pretokens.py` cuts, of two and more bytes, keyed by its bytes. A full table becomes a run,
its pieces in the order of their hashes. What many tables counted is added up part by part, a part being the
pieces whose hashes begin alike: that needs little memory, and gives the same order from any tables.
"""

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsllm.io.atomic import atomic_file
from dsllm.text import piece_counts_compiled as loops
from dsllm.text.pretokens_compiled import piece_classes
from dsllm.text.texts import ROOM_BYTES, Texts

N_PARTS = 256
_FIRST_SLOTS, _LEAST_SLOTS = 1 << 16, 1 << 10
_SLOT_BYTES = 32
_HEAD_BYTES = 16 * (N_PARTS + 1)


@dataclass(frozen=True)
class Pieces:
    """Distinct pieces, ascending by their hashes (n,), and the count of each (n,)."""

    texts: Texts
    counts: NDArray[np.int64]
    hashes: NDArray[np.uint64]

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each piece."""
        return np.diff(self.texts.ends, prepend=0)

    def part(self, part: int) -> "Pieces":
        """Give the pieces of a part."""
        first, end = _bounds(self.hashes, part).tolist()
        return self.between(first, end)

    def between(self, first: int, end: int) -> "Pieces":
        """Give the pieces from one number to another."""
        start = int(self.texts.ends[first - 1]) if first else 0
        stop = int(self.texts.ends[end - 1]) if end else 0
        data = np.zeros(stop - start + ROOM_BYTES, np.uint8)
        data[: stop - start] = self.texts.data[start:stop]
        texts = Texts(data, self.texts.ends[first:end] - start)
        return Pieces(texts, self.counts[first:end].copy(), self.hashes[first:end].copy())

    def chosen(self, is_chosen: NDArray[np.bool_]) -> "Pieces":
        """Give some of the pieces."""
        sizes = self.sizes
        data = self.texts.data[: int(sizes.sum())][np.repeat(is_chosen, sizes)]
        texts = Texts(np.concatenate([data, np.zeros(ROOM_BYTES, np.uint8)]), np.cumsum(sizes[is_chosen]))
        return Pieces(texts, self.counts[is_chosen], self.hashes[is_chosen])

    @classmethod
    def join(cls, parts: Iterable["Pieces"]) -> "Pieces":
        """Put parts, in their order, one behind the other."""
        given = list(parts)
        data = [part.texts.data[: int(part.sizes.sum())] for part in given]
        sizes = [part.sizes for part in given]
        texts = Texts(
            np.concatenate([*data, np.zeros(ROOM_BYTES, np.uint8)]),
            np.cumsum(np.concatenate([np.zeros(0, np.int64), *sizes])),
        )
        return cls(
            texts,
            np.concatenate([np.zeros(0, np.int64), *(part.counts for part in given)]),
            np.concatenate([np.zeros(0, np.uint64), *(part.hashes for part in given)]),
        )


class PieceTable:
    """A table that grows up to `max_bytes`, of which long pieces take a half at most."""

    def __init__(self, max_bytes: int) -> None:
        self._max_slots = max(_LEAST_SLOTS, (1 << (max_bytes // 2 // _SLOT_BYTES).bit_length()) >> 1)
        self._table = np.zeros((min(_FIRST_SLOTS, self._max_slots), 4), np.uint64)
        self._stored = np.empty(max(max_bytes // 2, 2 * loops.MAX_BYTES), np.uint8)
        self._used = np.zeros(2, np.int64)
        self._ends = np.empty(loops.N_PIECES_AT_ONCE, np.int64)
        self._scan = np.zeros(loops.N_SCAN, np.int64)
        self._n_added = 0

    @property
    def n_pieces(self) -> int:
        """The number of pieces in it."""
        return int(self._used[loops.N_USED])

    def count(self, texts: Texts, is_taken: NDArray[np.bool_]) -> bool:
        """Count the pieces of the texts that are taken (n,).

        False when the table is full: the same call goes on from there when it was emptied.
        """
        while not loops.count_pieces(
            texts.data, texts.ends, is_taken, piece_classes(), self._table, self._stored, self._used,
            self._scan, self._ends,
        ):  # fmt: skip
            if not self._grow():
                return False
        self._scan[:] = 0
        return True

    def add(self, pieces: Pieces) -> bool:
        """Add counts; False when the table is full: the same call goes on as with `count`."""
        texts = pieces.texts
        while True:
            self._n_added = loops.add_pieces(
                texts.data, texts.ends, pieces.counts, self._table, self._stored, self._used, self._n_added
            )
            if self._n_added == len(texts.ends):
                self._n_added = 0
                return True
            if not self._grow():
                return False

    def take(self) -> Pieces:
        """Give all pieces and empty the table."""
        hashes, slots = np.empty(self.n_pieces, np.uint64), np.empty(self.n_pieces, np.int64)
        loops.hash_slots(self._table, hashes, slots)
        order = np.argsort(hashes)
        hashes, slots = hashes[order], np.ascontiguousarray(slots[order])
        n_bytes = int(self._table[:, 3].sum())
        data = np.zeros(n_bytes + ROOM_BYTES, np.uint8)
        ends, counts = np.empty(len(slots), np.int64), np.empty(len(slots), np.int64)
        loops.write_pieces(self._table, self._stored, slots, data, ends, counts)
        self._table[:] = 0
        self._used[:] = 0
        return _in_order(Pieces(Texts(data, ends), counts, hashes))

    def _grow(self) -> bool:
        is_full = 4 * self.n_pieces >= 3 * len(self._table)
        if not is_full or len(self._table) >= self._max_slots:
            return False
        larger = np.zeros((min(4 * len(self._table), self._max_slots), 4), np.uint64)
        loops.move_pieces(self._table, larger)
        self._table = larger
        return True


def count_pieces(texts: Iterable[str]) -> Pieces:
    """Count the pieces of a few texts."""
    joined = Texts.join([text.encode() for text in texts])
    table = PieceTable(64 * len(joined.data))
    assert table.count(joined, np.ones(len(joined.ends), bool))
    return table.take()


def add_up(parts: Iterable[Pieces]) -> Pieces:
    """Add up the counts of the same part of several tables."""
    given = list(parts)
    if len(given) == 1:
        return given[0]
    n_bytes = sum(2 * _SLOT_BYTES * 2 * len(part.counts) + 4 * len(part.texts.data) for part in given)
    table = PieceTable(2 * n_bytes + (1 << 16))
    for part in given:
        has_room = table.add(part)
        assert has_room, "a table for pieces is too small"
    return table.take()


def write_run(path: Path, pieces: Pieces) -> None:
    """Write pieces as a file that can be read by parts."""
    firsts = np.array([_bounds(pieces.hashes, part)[0] for part in range(N_PARTS)] + [len(pieces.hashes)])
    ends = np.concatenate([[0], pieces.texts.ends])[firsts]
    with atomic_file(path) as file:
        file.write(np.stack([firsts, ends]).astype("<i8").tobytes())
        file.write(pieces.hashes.astype("<u8").data)
        file.write(pieces.counts.astype("<i8").data)
        file.write(pieces.sizes.astype("<i8").data)
        file.write(pieces.texts.data[: int(ends[-1])].data)


@dataclass(frozen=True)
class Run:
    """A file that `write_run` wrote, read part by part."""

    path: Path

    def read(self, part: int) -> Pieces:
        """Read a part."""
        firsts, starts = self._head
        first, n_read = firsts[part], firsts[part + 1] - firsts[part]
        n_bytes = starts[part + 1] - starts[part]
        data = np.zeros(n_bytes + ROOM_BYTES, np.uint8)
        with self.path.open("rb") as file:

            def read(n_bytes: int, place: int) -> bytes:
                return os.pread(file.fileno(), n_bytes, _HEAD_BYTES + place)

            hashes, counts, sizes = (
                np.frombuffer(read(8 * n_read, 8 * (column * firsts[-1] + first)), dtype)
                for column, dtype in enumerate(("<u8", "<i8", "<i8"))
            )
            data[:n_bytes] = np.frombuffer(read(n_bytes, 24 * firsts[-1] + starts[part]), np.uint8)
        return Pieces(Texts(data, np.cumsum(sizes)), counts, hashes)

    @functools.cached_property
    def _head(self) -> list[list[int]]:
        """The number of the first piece of each part, and where its bytes begin."""
        head: list[list[int]] = np.fromfile(self.path, "<i8", _HEAD_BYTES // 8).reshape(2, -1).tolist()
        return head


def _bounds(hashes: NDArray[np.uint64], part: int) -> NDArray[np.int64]:
    width = (1 << 64) // N_PARTS
    first = np.searchsorted(hashes, np.uint64(part * width))
    is_last = part == N_PARTS - 1
    end = len(hashes) if is_last else np.searchsorted(hashes, np.uint64((part + 1) * width))
    return np.array([first, end], np.int64)


def _in_order(pieces: Pieces) -> Pieces:
    """Sort pieces that share a hash by their bytes: else their order would be the table's."""
    same = np.flatnonzero(pieces.hashes[1:] == pieces.hashes[:-1])
    if not len(same):
        return pieces
    order = np.arange(len(pieces.hashes))
    for place in same.tolist():  # two in billions of pieces
        one, other = (pieces.between(at, at + 1).texts.data.tobytes() for at in (place, place + 1))
        if one > other:
            order[place], order[place + 1] = order[place + 1], order[place]
    parts = [pieces.between(place, place + 1) for place in order.tolist()]
    return Pieces.join(parts)
