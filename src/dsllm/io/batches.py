"""Cut a stream of bytes into batches of whole lines, each copied once."""

from collections import deque
from collections.abc import Iterable, Iterator

BATCH_BYTES = 4 << 20


def cut_batches(blocks: Iterable[tuple[bytes, int]]) -> Iterator[tuple[bytes, int]]:
    """Yield (whole lines, what was read for them) out of (block, what was read for it).

    A batch ends at the last line end within BATCH_BYTES; a line longer than that goes whole. Where it ends
    depends on the content alone, not on the blocks. The last line may lack its line feed.
    """
    held: deque[bytes | memoryview] = deque()
    n_held = n_read = 0
    for block, consumed in blocks:
        held.append(block)
        n_held += len(block)
        n_read += consumed
        if n_held - len(block) >= BATCH_BYTES and b"\n" not in block:
            continue  # in the middle of a long line
        while n_held >= BATCH_BYTES:
            n_cut = _find_cut(held, n_held)
            if not n_cut:
                break
            lines = _take(held, n_cut)
            n_held -= n_cut
            yield lines, n_read
            n_read = 0
            del lines  # while a long line is worked on, no other copy of it is held
    if n_held:
        yield b"".join(held), n_read


def _find_cut(held: deque[bytes | memoryview], n_held: int) -> int:
    """Say where the last line within BATCH_BYTES ends, or else the first one behind; 0 for nowhere."""
    start = n_held
    for block in reversed(held):
        start -= len(block)
        if start < BATCH_BYTES:
            cut = _bytes_of(block).rfind(b"\n", _first(block), _first(block) + BATCH_BYTES - start) + 1
            if cut:
                return start + cut - _first(block)
    start = 0
    for block in held:
        place = max(0, BATCH_BYTES - start)
        cut = _bytes_of(block).find(b"\n", _first(block) + place) + 1 if place < len(block) else 0
        if cut:
            return start + cut - _first(block)
        start += len(block)
    return 0


def _take(held: deque[bytes | memoryview], n_bytes: int) -> bytes:
    """Take bytes from the front; of the block that is cut the rest stays, uncopied."""
    parts: list[bytes | memoryview] = []
    while n_bytes:
        block = held.popleft()
        if len(block) > n_bytes:
            view = memoryview(block)
            held.appendleft(view[n_bytes:])
            block = view[:n_bytes]
        parts.append(block)
        n_bytes -= len(block)
    return b"".join(parts)


def _bytes_of(block: bytes | memoryview) -> bytes:
    """Give the bytes that a view is the end of."""
    return block if isinstance(block, bytes) else block.obj  # type: ignore[return-value]


def _first(block: bytes | memoryview) -> int:
    """Say where in `_bytes_of` a block begins."""
    return len(_bytes_of(block)) - len(block)
