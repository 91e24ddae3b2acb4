"""One more field of lines of JSON that `json_lines.py` has read already."""

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.text.json_fields_compiled import find_values


def read_field(
    lines: bytes, bounds: tuple[NDArray[np.int64], NDArray[np.int64]], places: NDArray[np.int64], field: str
) -> list[Any]:
    """Give the value of a field in each of the lines at `places`; None where a line lacks it.

    `bounds` says where all lines start and end. `read_texts` must have taken them: they are not checked.
    """
    starts, ends = (np.ascontiguousarray(edge[places]) for edge in bounds)
    data = np.frombuffer(lines + bytes(64), np.uint8)
    spans = np.zeros((len(starts), 2), np.int64)
    find_values(data, starts, ends, np.frombuffer(f'"{field}"'.encode(), np.uint8), spans)
    values: dict[bytes, Any] = {b"": None}
    found = []
    for start, end in spans.tolist():
        raw = lines[start:end]
        if raw not in values:
            values[raw] = orjson.loads(raw)
        found.append(values[raw])
    return found
