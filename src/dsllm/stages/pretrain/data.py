"""What a run reads: its tokens, the part of them that is held out, and the loss on that part."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dsllm.errors import ConfigError, InputError
from dsllm.io.tokens import TokenFolder
from dsllm.model.transformer import Transformer
from dsllm.parallel.mesh import Ranks
from dsllm.stages.pretrain.config import PretrainConfig
from dsllm.text.tokenizer_files import TOKENIZER_JSON, token_byte_lengths
from dsllm.train.batches import count_windows, cut_micro, rank_part, read_batch
from dsllm.train.losses import token_loss

VALID_FRAC, VALID_TOKENS_MAX = 0.01, 2**20
WINDOWS_FOR_VALID = 10  # shorter streams are not shortened further unless asked


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The token folders of a run."""

    path: str
    train: TokenFolder
    valid: TokenFolder | None

    @property
    def vocab_size(self) -> int:
        """Words that the tokens may hold."""
        return self.train.vocab_size

    @property
    def bos_id(self) -> int | None:
        """The token that begins a document."""
        return self.train.bos_id

    @property
    def eos_id(self) -> int:
        """The token that ends a document."""
        return self.train.eos_id


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which tokens are trained on, and which windows are held out.

    The held-out windows start at `valid_start` of the validation folder, or of the training folder, whose
    tokens from there on are in no training window.
    """

    n_train_tokens: int
    valid_start: int
    n_valid_windows: int


def open_tokens(config: PretrainConfig, inputs: list[str]) -> Tokens:
    """Open the one token folder to train on, and the one to validate on if there is one.

    Raises:
        ConfigError: more than one folder, or two that two tokenizers made.
        InputError: no token in it, or another kind of folder.
    """
    if len(inputs) != 1:
        raise ConfigError(
            f"{len(inputs)} token folders are given, but a run reads one",
            hint="mix the sources beforehand with dsllm remix, then encode the result",
        )
    train = TokenFolder(inputs[0])
    if train.n_tokens == 0:
        raise InputError(f"{inputs[0]}: no token in it", hint="encode a corpus that has documents")
    valid = None if config.valid is None else TokenFolder(config.valid)
    if valid is not None and _tokenizer(valid) != _tokenizer(train):
        raise ConfigError(
            f"{config.valid}: written with another tokenizer than {inputs[0]}",
            hint=f"encode it again with --tokenizer {inputs[0]}",
        )
    return Tokens(path=inputs[0], train=train, valid=valid)


def _tokenizer(folder: TokenFolder) -> bytes:
    path = folder.path / TOKENIZER_JSON
    if not path.is_file():
        raise InputError(f"{folder.path}: no {TOKENIZER_JSON} in it", hint="encode the corpus again")
    return path.read_bytes()


def split_tokens(config: PretrainConfig, tokens: Tokens, seq_len: int) -> Split:
    """Hold out the end of the stream, or nothing of it when there is a folder to validate on.

    Raises:
        ConfigError: held-out tokens that are fewer than one window.
        InputError: training tokens that are fewer than one window.
    """
    n_tokens, n_valid = tokens.train.n_tokens, config.n_valid_tokens
    if tokens.valid is not None:
        split = Split(
            n_train_tokens=n_tokens,
            valid_start=0,
            n_valid_windows=count_windows(tokens.valid.n_tokens, seq_len),
        )
        n_valid = tokens.valid.n_tokens
    else:
        if n_valid is None:
            has_enough = count_windows(n_tokens, seq_len) >= WINDOWS_FOR_VALID
            by_share = min(int(n_tokens * VALID_FRAC), VALID_TOKENS_MAX)
            n_valid = max(seq_len + 1, by_share) if has_enough else 0
        n_train = max(0, n_tokens - n_valid)
        split = Split(
            n_train_tokens=n_train, valid_start=n_train, n_valid_windows=count_windows(n_valid, seq_len)
        )
    if n_valid and not split.n_valid_windows:
        raise ConfigError(
            f"{n_valid:,} tokens to validate on, but a window has {seq_len + 1:,}",
            hint=f"try --n-valid-tokens {seq_len + 1}, or a shorter --seq-len",
        )
    if not count_windows(split.n_train_tokens, seq_len):
        raise InputError(
            f"{tokens.path}: {split.n_train_tokens:,} tokens to train on, but a window has {seq_len + 1:,}",
            hint="give a shorter --seq-len, fewer --n-valid-tokens, or more text",
        )
    return split


class Validation:
    """The loss on the held-out windows, in nats per token and in bits per byte of text."""

    def __init__(
        self,
        tokens: Tokens,
        split: Split,
        *,
        seq_len: int,
        micro_batch_seqs: int,
        mask_documents: bool,
        ranks: Ranks,
    ) -> None:
        folder = tokens.train if tokens.valid is None else tokens.valid
        self._stream = _Part(folder, split.valid_start)
        self._n_windows, self._seq_len, self._micro_batch_seqs = (
            split.n_valid_windows,
            seq_len,
            micro_batch_seqs,
        )
        self._document_end = tokens.eos_id if mask_documents else None
        self._ranks = ranks
        lengths = np.zeros(tokens.vocab_size, np.int64)
        known = token_byte_lengths(tokens.train.path / TOKENIZER_JSON)
        lengths[: len(known)] = known
        self._byte_lengths = lengths

    def __call__(self, model: Transformer) -> dict[str, float]:
        """Evaluate; every rank does a part of the windows and gets the whole sum."""
        nll, n_labels, n_bytes = 0.0, 0, 0
        mine = np.array(rank_part(self._n_windows, self._ranks.rank, self._ranks.world_size), np.int64)
        for windows in cut_micro(mine, self._micro_batch_seqs):
            batch = read_batch(self._stream, windows, seq_len=self._seq_len, document_end=self._document_end)
            nll += token_loss(model, batch.to(self._ranks.device)).total.item()
            n_labels += batch.labels.numel()
            n_bytes += int(self._byte_lengths[batch.labels.numpy()].sum())
        nats, labels, text_bytes = self._ranks.sum_numbers([nll, n_labels, n_bytes])
        return {"valid_loss": nats / labels, "valid_bits_per_byte": nats / (math.log(2) * text_bytes)}


@dataclass(frozen=True)
class _Part:
    """A token folder from some token on."""

    folder: TokenFolder
    start: int

    @property
    def n_tokens(self) -> int:
        return self.folder.n_tokens - self.start

    def window(self, start: int, n: int) -> npt.NDArray[np.uint32]:
        return self.folder.window(self.start + start, n)
