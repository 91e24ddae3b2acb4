"""How token shards lie on disk: dsllm's own, Megatron-LM's indexed datasets, NumPy's arrays.

Each shard is two files, the tokens of whole documents back to back and where these begin and end.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

Lengths = npt.NDArray[np.int64]

# Megatron-LM, core/datasets/indexed_dataset.py: _INDEX_HEADER, the version behind it, and class DType, which
# has no uint32: a vocabulary below 65,500 is written as uint16, any other as int32.
_MEGATRON_MAGIC, _MEGATRON_VERSION = b"MMIDIDX\x00\x00", 1
_MEGATRON_INT32, _MEGATRON_UINT16 = 4, 8
_MEGATRON_SHORT_VOCABULARY = 65500


@dataclass(frozen=True)
class TokenFormat:
    """The files of a shard.

    Args:
        name: as the setting `format` has it.
        dtype: of the tokens.
        suffixes: of the file of tokens and of the one beside it.
        head: what stands before so many tokens; None for nothing, so that they can be written as they come.
        offsets: the file beside them, from the number of tokens of each document.
    """

    name: str
    dtype: npt.DTypeLike
    suffixes: tuple[str, str]
    head: Callable[[int], bytes] | None
    offsets: Callable[[Lengths], bytes]

    def tokens_name(self, index: int) -> str:
        """Name the file of a shard's tokens."""
        return f"shard-{index:05d}{self.suffixes[0]}"

    def offsets_name(self, index: int) -> str:
        """Name the file beside it."""
        return f"shard-{index:05d}{self.suffixes[1]}"

    def map_tokens(self, path: Any, n_tokens: int) -> npt.NDArray[Any]:
        """Map the tokens of a whole shard into memory."""
        n_before = len(self.head(n_tokens)) if self.head else 0
        return np.memmap(path, self.dtype, mode="r", offset=n_before, shape=(n_tokens,))


def token_format(name: str, vocab_size: int) -> TokenFormat:
    """Give a format by its name; Megatron's numbers depend on the vocabulary."""
    if name == "megatron":
        is_short = vocab_size < _MEGATRON_SHORT_VOCABULARY
        dtype = np.dtype("<u2" if is_short else "<i4")
        code = _MEGATRON_UINT16 if is_short else _MEGATRON_INT32
        return TokenFormat(
            name,
            dtype,
            (".bin", ".idx"),
            None,
            lambda lengths: _megatron_index(lengths, code, dtype.itemsize),
        )
    if name == "npy":
        return TokenFormat(
            name,
            np.dtype("<u4"),
            (".npy", ".offsets.npy"),
            _npy_head,
            lambda lengths: _npy_bytes(_ends(lengths).astype("<u8")),
        )
    return DSLLM_FORMAT


def _ends(lengths: Lengths) -> Lengths:
    """0, the end of the first document, the end of the second, ..."""
    return np.cumsum(np.concatenate([np.zeros(1, np.int64), lengths]), dtype=np.int64)


def _megatron_index(lengths: Lengths, code: int, item_bytes: int) -> bytes:
    """Write an index: lengths of the sequences, a document each, their places in bytes, documents."""
    n_documents = len(lengths)
    head = _MEGATRON_MAGIC + struct.pack("<QBQQ", _MEGATRON_VERSION, code, n_documents, n_documents + 1)
    places = _ends(lengths)[:-1] * item_bytes
    documents = np.arange(n_documents + 1, dtype="<i8")
    return head + lengths.astype("<i4").tobytes() + places.astype("<i8").tobytes() + documents.tobytes()


def _npy_bytes(array: npt.NDArray[Any]) -> bytes:
    file = BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npy_head(n_tokens: int) -> bytes:
    file = BytesIO()
    header = {"descr": "<u4", "fortran_order": False, "shape": (n_tokens,)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


DSLLM_FORMAT = TokenFormat(
    "dsllm",
    np.dtype("<u4"),
    (".bin", ".idx"),
    None,
    lambda lengths: _ends(lengths).astype("<u8").tobytes(),
)
