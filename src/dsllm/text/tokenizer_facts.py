"""What a byte-level tokenizer's folder says, read without the library: ids, special tokens, words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsllm.errors import ShardError
from dsllm.text.tokenizer_files import (
    BYTE_OF_CHARACTER,
    LoadedTokenizer,
    load_tokenizer,
    named_tokens,
    read_tokenizer,
)

Ids = NDArray[np.uint32]


@dataclass(frozen=True)
class TokenizerFacts:
    """The ids of a tokenizer whose file numbers its tokens as the library does.

    Args:
        words: the bytes that each id stands for, b"" where there is no such id.
        special_tokens: the id of each special token, by its text.
        bos_id: the beginning of a sequence, None where the folder names none.
        eos_id: the end of a sequence.
        is_byte_level: whether a text is the bytes of its tokens, one after another.
    """

    words: list[bytes]
    special_tokens: dict[str, int]
    bos_id: int | None
    eos_id: int | None
    is_byte_level: bool

    @property
    def n_ids(self) -> int:
        """One more than the highest id."""
        return len(self.words)

    def decode(self, ids: list[int]) -> bytes:
        """Give the bytes that ids stand for; special tokens stand for their names."""
        return b"".join(map(self.words.__getitem__, ids))


def read_facts(folder: str | Path, values: dict[str, Any] | None = None) -> TokenizerFacts:
    """Read them; `values` are those of the folder's `tokenizer.json`, where they are read already.

    Raises:
        InputError: a file cannot be read, or names a token that the tokenizer does not have.
    """
    folder = Path(folder)
    values = read_tokenizer(folder) if values is None else values
    added = values.get("added_tokens", [])
    ids: dict[str, int] = values["model"]["vocab"] | {token["content"]: token["id"] for token in added}
    bos_token, eos_token = named_tokens(folder, ids)
    decoder = values.get("decoder") or {}
    return TokenizerFacts(
        words=word_bytes(ids),
        special_tokens={token["content"]: token["id"] for token in added if token["special"]},
        bos_id=None if bos_token is None else ids[bos_token],
        eos_id=None if eos_token is None else ids[eos_token],
        is_byte_level=decoder.get("type") == "ByteLevel",
    )


@dataclass(frozen=True)
class TextDecoder:
    """Turns ids into the bytes of a text: by words where the tokenizer is byte-level, else by the library.

    `n_ids` is one more than the highest id.
    """

    tokenizer: TokenizerFacts | LoadedTokenizer
    folder: str
    n_ids: int

    @classmethod
    def of_folder(cls, folder: str | Path) -> "TextDecoder":
        """Take the tokenizer of a folder of tokens.

        Raises:
            InputError: it has none, or none that can be read.
        """
        values = read_tokenizer(folder)
        is_byte_level = (values.get("decoder") or {}).get("type") == "ByteLevel"
        has_words = isinstance(values["model"].get("vocab"), dict)
        tokenizer = read_facts(folder) if is_byte_level and has_words else load_tokenizer(folder)
        return cls(tokenizer, str(folder), tokenizer.n_ids)

    def decode(self, ids: list[int]) -> bytes:
        """Decode them; special tokens stand for their names.

        Raises:
            ShardError: the tokenizer does not have one of them.
        """
        if (largest := max(ids, default=0)) >= self.n_ids:
            raise ShardError(
                f"{self.folder}: a token is {largest:,}, but its tokenizer has {self.n_ids:,} ids",
                hint=f"check the folder with: dsllm verify {self.folder}",
            )
        text = self.tokenizer.decode(ids)
        return text.encode() if isinstance(text, str) else text


def word_bytes(ids: dict[str, int]) -> list[bytes]:
    """Give the bytes of each id: as the byte alphabet has them, or the word itself where it has others."""
    words = [b""] * (max(ids.values(), default=-1) + 1)
    for word, identity in ids.items():
        try:
            words[identity] = word.translate(_LATIN_OF_CHARACTER).encode("latin-1")
        except UnicodeEncodeError:
            words[identity] = word.encode()
    return words


# A character that is none of the alphabet goes beyond Latin-1, which is refused.
_LATIN_OF_CHARACTER = {code: code + 0x10000 for code in range(256)} | {
    ord(character): byte for character, byte in BYTE_OF_CHARACTER.items()
}
