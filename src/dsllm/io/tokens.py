"""Token folders: little-endian uint32 shards, each with the offsets of its documents beside it.

`shard-00000.bin` holds the tokens of whole documents back to back, `shard-00000.idx` uint64 offsets into it:
0, the end of the first document, the end of the second, ... A folder reads as one stream of tokens and as one
row of documents, in the order of its shards.
"""

import shutil
import tempfile
from contextlib import ExitStack
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
import numpy.typing as npt

from dsllm.errors import InputError, ShardError
from dsllm.io.folder import OutputFolder
from dsllm.io.manifest import Manifest, ShardRecord, read_manifest
from dsllm.io.token_formats import DSLLM_FORMAT, TokenFormat

TOKEN_DTYPE = np.dtype("<u4")
OFFSET_DTYPE = np.dtype("<u8")
_COPIED_BYTES = 1 << 22

Tokens = npt.NDArray[np.uint32]
Offsets = npt.NDArray[np.int64]


class TokenWriter:
    """Writes token shards into a folder, one after another; it holds no more than it is given.

    Whoever writes says where a shard ends. `n_tokens` and `n_documents` are those of the open shard.
    """

    def __init__(
        self, folder: OutputFolder, *, first_shard: int = 0, token_format: TokenFormat = DSLLM_FORMAT
    ) -> None:
        self._folder = folder
        self._index = first_shard
        self._format = token_format
        self._open_shard: ExitStack | None = None
        self._file: Any = None
        self._lengths: list[Offsets] = []
        self.n_tokens = self.n_documents = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._open_shard is None or error is not None, "the last shard was not ended"
        if self._open_shard is not None:
            self._open_shard.__exit__(kind, error, trace)

    @property
    def n_shards(self) -> int:
        """The shards before the open one."""
        return self._index

    def add(self, tokens: Tokens, lengths: Offsets) -> None:
        """Append whole documents: their tokens back to back, and how many each has."""
        assert len(tokens) == int(lengths.sum()), f"{len(tokens)} tokens for lengths of {int(lengths.sum())}"
        if self._open_shard is None:
            self._start_shard()
        self._file.write(np.ascontiguousarray(tokens, self._format.dtype).view(np.uint8).data)
        self._lengths.append(lengths.astype(np.int64))
        self.n_tokens += len(tokens)
        self.n_documents += len(lengths)

    def end_shard(self, **counts: int) -> None:
        """Close the open shard and record it, with `counts` beside its numbers of documents and tokens."""
        assert self._open_shard is not None, "no document was added"
        lengths = np.concatenate([np.zeros(0, np.int64), *self._lengths])
        with self._folder.create(self._format.offsets_name(self._index)) as file:
            file.write(self._format.offsets(lengths))
        numbers = {"n_documents": self.n_documents, "n_tokens": self.n_tokens, **counts}
        name = self._format.tokens_name(self._index)
        self._folder.set_counts(name, **numbers)
        if self._format.head is not None:
            with self._folder.create(name) as file:
                file.write(self._format.head(self.n_tokens))
                self._file.seek(0)
                shutil.copyfileobj(self._file, file, _COPIED_BYTES)
        self._open_shard.close()
        self._open_shard, self._file, self._lengths = None, None, []
        self.n_tokens = self.n_documents = 0
        self._index += 1

    def _start_shard(self) -> None:
        for name in (self._format.tokens_name(self._index), self._format.offsets_name(self._index)):
            self._folder.finished.pop(name, None)
        self._open_shard = ExitStack()
        if self._format.head is None:
            file: Any = self._folder.create(self._format.tokens_name(self._index))
        else:  # the number of tokens comes first, so they wait
            self._folder.scratch.mkdir(parents=True, exist_ok=True)
            file = tempfile.TemporaryFile(dir=self._folder.scratch)  # noqa: SIM115  # the stack closes it
        self._file = self._open_shard.enter_context(file)


class TokenFolder:
    """A complete folder of tokens, mapped into memory: one stream, one row of documents.

    Raises:
        InputError: no such folder, an unfinished one, or one that holds something else.
        ShardError: a shard is missing, its size is not what the manifest says, or that lacks something.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.manifest: Manifest = read_manifest(path)
        content = self.manifest.content
        if content.get("kind") != "tokens":
            raise InputError(
                f"{path}: holds {content.get('kind')}, made by {self.manifest.stage}; tokens are needed",
                hint="give a folder that `dsllm tokenize encode` wrote",
            )
        if (other := content.get("format", DSLLM_FORMAT.name)) != DSLLM_FORMAT.name:
            raise InputError(
                f"{path}: its shards are in the format {other!r}, for other programs",
                hint="encode once more without --format",
            )
        if content.get("dtype") != "uint32":
            self._fail(f"{path}: its tokens are {content.get('dtype')}, not uint32")
        if lacking := [name for name in ("vocab_size", "eos_id") if type(content.get(name)) is not int]:
            self._fail(f"{path}: its manifest.json names no {lacking[0]}")
        self.vocab_size: int = content["vocab_size"]
        self.eos_id: int = content["eos_id"]
        self.bos_id: int | None = content.get("bos_id")
        self._shards = [shard for shard in self.manifest.shards if shard.name.endswith(".bin")]
        self._maps: dict[int, Tokens] = {}
        # Where each shard begins, in tokens and in documents; one number more than there are shards.
        self._token_starts = _running_sum([self._check_size(shard) for shard in self._shards])
        self._document_starts = _running_sum([shard.counts["n_documents"] for shard in self._shards])

    @property
    def n_tokens(self) -> int:
        """Tokens in the stream."""
        return int(self._token_starts[-1])

    @property
    def n_documents(self) -> int:
        """Documents in the folder."""
        return int(self._document_starts[-1])

    def window(self, start: int, n: int) -> Tokens:
        """Give the `n` tokens from position `start`, shape (n,); they may come from several shards.

        Raises:
            IndexError: the window reaches outside the stream.
            ShardError: a token is none of the vocabulary.
        """
        if start < 0 or n < 0 or start + n > self.n_tokens:
            raise IndexError(f"tokens {start:,} to {start + n:,} of {self.n_tokens:,}")
        parts, position = [], start
        while position < start + n:
            shard = int(np.searchsorted(self._token_starts, position, side="right")) - 1
            shard_start, shard_end = self._token_starts[shard], self._token_starts[shard + 1]
            end = min(start + n, int(shard_end))
            parts.append(self._map(shard)[position - shard_start : end - shard_start])
            position = end
        tokens = np.concatenate(parts) if parts else np.zeros(0, np.uint32)
        if n and int(tokens.max()) >= self.vocab_size:
            place = int(np.argmax(tokens >= self.vocab_size))
            raise ShardError(
                f"{self.path}: token {start + place:,} is {tokens[place]}, but the vocabulary has"
                f" {self.vocab_size:,} words",
                hint=f"check the folder with: dsllm verify {self.path}",
            )
        return tokens

    def document(self, index: int) -> Tokens:
        """Give one document's tokens, the end-of-sequence token included."""
        if not 0 <= index < self.n_documents:
            raise IndexError(f"document {index:,} of {self.n_documents:,}")
        start, end = self._document_ends[index], self._document_ends[index + 1]
        return self.window(int(start), int(end - start))

    def document_starts(self) -> Offsets:
        """Give where each document starts in the stream: int64, shape (n_documents,), ascending."""
        return self._document_ends[:-1]

    def document_ranges(self) -> list[tuple[int, int]]:
        """Give the first document of each shard, and the one behind its last."""
        edges: list[int] = self._document_starts.tolist()
        return list(pairwise(edges))

    @cached_property
    def _document_ends(self) -> Offsets:
        """0, then where each document ends: shape (n_documents + 1,)."""
        parts = [np.zeros(1, np.int64)]
        for index, shard in enumerate(self._shards):
            parts.append(self._read_offsets(index, shard)[1:] + self._token_starts[index])
        return np.concatenate(parts)

    def _check_size(self, shard: ShardRecord) -> int:
        path, n_tokens = self.path / shard.name, shard.counts["n_tokens"]
        n_bytes = path.stat().st_size if path.is_file() else -1
        if n_bytes < 0:
            self._fail(f"{path}: missing, but manifest.json lists it")
        if n_bytes != n_tokens * TOKEN_DTYPE.itemsize:
            expected = n_tokens * TOKEN_DTYPE.itemsize
            self._fail(f"{path}: {n_bytes:,} bytes, but manifest.json says {expected:,}")
        return n_tokens

    def _read_offsets(self, index: int, shard: ShardRecord) -> Offsets:
        path = (self.path / shard.name).with_suffix(".idx")
        if not path.is_file():
            self._fail(f"{path}: missing, but {shard.name} needs it")
        if path.stat().st_size != (shard.counts["n_documents"] + 1) * OFFSET_DTYPE.itemsize:
            n_documents = shard.counts["n_documents"]
            self._fail(f"{path}: {path.stat().st_size:,} bytes, not offsets for {n_documents:,} documents")
        offsets = np.fromfile(path, OFFSET_DTYPE).astype(np.int64)
        if offsets[0] != 0 or offsets[-1] != shard.counts["n_tokens"] or bool((np.diff(offsets) < 0).any()):
            self._fail(f"{path}: its offsets do not ascend from 0 to {shard.counts['n_tokens']:,}")
        return offsets

    def _map(self, shard: int) -> Tokens:
        if shard not in self._maps:
            path = self.path / self._shards[shard].name
            self._maps[shard] = np.memmap(path, TOKEN_DTYPE, mode="r")
        return self._maps[shard]

    def _fail(self, message: str) -> NoReturn:
        raise ShardError(message, hint=f"copy {self.path} again, or remake it with: {self.manifest.command}")


def _running_sum(numbers: list[int]) -> Offsets:
    return np.cumsum(np.array([0, *numbers], np.int64))
