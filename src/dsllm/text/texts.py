"""Many texts in one array of bytes: what the compiled passes take."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROOM_BYTES = 128  # behind the last text: compiled loops read 64 bytes at a time


@dataclass(frozen=True)
class Texts:
    """Texts one behind the other in UTF-8, with room behind the last: `data[ends[i - 1] : ends[i]]`."""

    data: NDArray[np.uint8]
    ends: NDArray[np.int64]

    @classmethod
    def join(cls, texts: Sequence[bytes | memoryview]) -> "Texts":
        """Put texts into one array."""
        data = np.frombuffer(b"".join((*texts, bytes(ROOM_BYTES))), np.uint8)
        return cls(data, np.cumsum([len(text) for text in texts], dtype=np.int64))

    def take(self, places: NDArray[np.int64]) -> "Texts":
        """Give some of them, in the order of `places`."""
        if len(places) == len(self.ends) and np.array_equal(places, np.arange(len(places))):
            return self
        starts = np.concatenate(([0], self.ends[:-1]))[places].tolist()
        ends = self.ends[places].tolist()
        data = memoryview(self.data)  # type: ignore[arg-type]  # an array is a buffer
        return Texts.join([data[start:end] for start, end in zip(starts, ends, strict=True)])

    def text(self, place: int) -> str:
        """Give one of them."""
        return self.raw(place).decode()

    def raw(self, place: int) -> bytes:
        """Give the bytes of one of them."""
        return self.part(place).tobytes()

    def part(self, place: int) -> NDArray[np.uint8]:
        """Give the bytes of one of them where they are."""
        return self.data[self.ends[place - 1] if place else 0 : self.ends[place]]
