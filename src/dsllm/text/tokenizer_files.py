"""Tokenizer folders: `tokenizer.json` and what stands beside it, as the stages use them.

Any byte-level BPE in Hugging Face's files will do; `dsllm tokenize train` writes them too.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import orjson

from dsllm.errors import InputError
from dsllm.io.tokens import TokenFolder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS_MAP = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"
MAX_IDS = 1 << 24  # arrays are made with a number for each
_TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
TOKENIZER_FILES = (TOKENIZER_JSON, TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP, CHAT_TEMPLATE)

# GPT-2's byte alphabet: a printable character stands for each byte, itself where it can.
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHERS = tuple(byte for byte in range(256) if byte not in _PRINTABLE)
BYTE_OF_CHARACTER = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(256 + index): byte for index, byte in enumerate(_OTHERS)
}


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, and what its folder says about it.

    Args:
        library: the tokenizer of Hugging Face `tokenizers`, made to add, cut and pad nothing by itself.
        special_tokens: the id of each special token, by its text.
        bos_token: the beginning of a sequence, None where the folder names none.
        eos_token: the end of a sequence, which is also the stop token.
        chat_template: Jinja; None where the folder has none.
        adds_bos: whether `transformers` puts `bos_token` before every text that it encodes.
    """

    library: "Tokenizer"
    special_tokens: dict[str, int]
    bos_token: str | None
    eos_token: str | None
    chat_template: str | None
    adds_bos: bool

    @property
    def bos_id(self) -> int | None:
        """The id of `bos_token`."""
        return None if self.bos_token is None else self.library.token_to_id(self.bos_token)

    @property
    def eos_id(self) -> int | None:
        """The id of `eos_token`."""
        return None if self.eos_token is None else self.library.token_to_id(self.eos_token)

    @property
    def n_ids(self) -> int:
        """One more than the highest id."""
        return int(max(self.library.get_vocab(with_added_tokens=True).values())) + 1

    def encode(self, text: str, *, parse_special: bool = False) -> list[int]:
        """Encode one text; special tokens' names in it are plain text unless `parse_special`."""
        self.library.encode_special_tokens = not parse_special
        ids: list[int] = self.library.encode(text, add_special_tokens=False).ids
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Encode plain text; also say which characters, from and to, each token stands for."""
        self.library.encode_special_tokens = True
        encoding = self.library.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_batch(self, texts: list[str], *, parse_special: bool = False) -> list[list[int]]:
        """Encode texts one after another in this thread."""
        self.library.encode_special_tokens = not parse_special
        with _one_thread():
            encodings = self.library.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: list[int], *, skip_special: bool = False) -> str:
        """Turn ids into text; bytes that are no UTF-8 become U+FFFD."""
        text: str = self.library.decode(ids, skip_special_tokens=skip_special)
        return text


def load_tokenizer(folder: str | Path) -> LoadedTokenizer:
    """Load the tokenizer of a tokenizer, token or model folder.

    Raises:
        InputError: there is no tokenizer.json, or it or the files beside it cannot be read.
    """
    from tokenizers import Tokenizer

    folder = Path(folder)
    values = read_tokenizer(folder)
    try:
        library = Tokenizer.from_str(orjson.dumps(values).decode())
    except Exception as error:  # noqa: BLE001  # the library raises the bare class
        raise InputError(
            f"{folder / TOKENIZER_JSON}: {error}", hint="copy the tokenizer again from where it came from"
        ) from None
    bos_token, eos_token = named_tokens(folder, library.get_vocab(with_added_tokens=True))
    first_ids = library.encode("a").ids[:1]
    library.post_processor = None
    library.no_truncation()
    library.no_padding()
    added = values.get("added_tokens", [])
    return LoadedTokenizer(
        library=library,
        special_tokens={
            token["content"]: identity
            for token in added
            if token["special"] and (identity := library.token_to_id(token["content"])) is not None
        },
        bos_token=bos_token,
        eos_token=eos_token,
        chat_template=_chat_template(folder),
        adds_bos=bos_token is not None and first_ids == [library.token_to_id(bos_token)],
    )


def token_byte_lengths(path: str | Path) -> npt.NDArray[np.int64]:
    """Give how many bytes of text each id stands for: shape (highest id + 1,), 0 for special tokens.

    Summed over a document's tokens these are its bytes, which turns nats per token into bits per byte.

    Args:
        path: a `tokenizer.json`.

    Raises:
        InputError: not a byte-level tokenizer.
    """
    path = Path(path)
    values = read_tokenizer(path.parent, path.name)
    has_words = isinstance(values["model"].get("vocab"), dict)
    if "ByteLevel" not in json.dumps(values.get("decoder")) or not has_words:
        raise InputError(
            f"{path}: not a byte-level tokenizer, so its tokens have no lengths in bytes",
            hint="give a tokenizer that `dsllm tokenize train` wrote, or another byte-level BPE",
        )
    added = values.get("added_tokens", [])
    words: dict[str, int] = values["model"]["vocab"] | {token["content"]: token["id"] for token in added}
    lengths = np.zeros(max(words.values()) + 1, np.int64)
    for word, index in words.items():
        is_stand_in = all(character in BYTE_OF_CHARACTER for character in word)
        lengths[index] = len(word) if is_stand_in else len(word.encode())
    for token in added:
        if token["special"]:
            lengths[token["id"]] = 0
    return lengths


def decode_documents(folder: str | Path, n_documents: int) -> Iterator[str]:
    """Give the first documents of a token folder as text, with the tokenizer that lies in it."""
    tokens, tokenizer = TokenFolder(folder), load_tokenizer(folder)
    for index in range(min(n_documents, tokens.n_documents)):
        token_ids = tokens.document(index).tolist()
        yield tokenizer.decode(token_ids[:-1] if token_ids[-1:] == [tokens.eos_id] else token_ids)


def read_tokenizer(folder: str | Path, name: str = TOKENIZER_JSON) -> dict[str, Any]:
    """Read a `tokenizer.json` and check what all readers rely on: its parts are objects, its ids numbers.

    Raises:
        InputError: it is not there, no JSON object, or not as Hugging Face's files are.
    """
    values = read_json(Path(folder), name)
    if fault := _fault(values):
        raise InputError(
            f"{Path(folder) / name}: {fault}", hint="copy the tokenizer again from where it came from"
        )
    return values


def _fault(values: dict[str, Any]) -> str | None:
    if not isinstance(values.get("model"), dict):
        return "it has no model"
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        part = values.get(name)
        if part is not None and not (isinstance(part, dict) and isinstance(part.get("type"), str)):
            return f"its {name} is no object with a type"
    added = values.get("added_tokens", [])
    if not isinstance(added, list) or not all(map(_is_added_token, added)):
        return "its added_tokens are no list of tokens with an id and the library's flags"
    vocabulary = values["model"].get("vocab")
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token["id"] for token in added]
    wrong = next((identity for identity in ids if type(identity) is not int or identity < 0), None)
    if wrong is not None:
        return f"{wrong!r} is no id"
    if max(ids, default=0) >= MAX_IDS:
        return f"it has an id of {max(ids):,}; more than {MAX_IDS:,} are not supported"
    return None


def _is_added_token(token: Any) -> bool:
    return (
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and "id" in token
        and all(isinstance(token.get(flag), bool) for flag in _TOKEN_FLAGS)
    )


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one of a tokenizer's files.

    Raises:
        InputError: it is not there, or no JSON object.
    """
    path = folder / name
    try:
        values = orjson.loads(path.read_bytes())
    except OSError:
        hint = "give a folder that `dsllm tokenize train` wrote, or another with Hugging Face's files"
        raise InputError(f"{folder}: no {name} in it", hint=hint) from None
    except ValueError as error:
        hint = "copy the tokenizer again from where it came from"
        raise InputError(f"{path}: not JSON: {error}", hint=hint) from None
    if not isinstance(values, dict):
        raise InputError(
            f"{path}: a JSON {type(values).__name__}, not an object", hint="give a tokenizer's file"
        )
    return values


def _token_text(value: Any) -> str | None:
    """Read a token as tokenizer_config.json has it: its text, or an object with it."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def named_tokens(folder: Path, ids: dict[str, int]) -> tuple[str | None, str | None]:
    """Read which tokens begin and end a sequence; None for one that the folder does not name.

    Raises:
        InputError: one of them is none of `ids`.
    """
    named = {**_read_if_there(folder, SPECIAL_TOKENS_MAP), **_read_if_there(folder, TOKENIZER_CONFIG)}
    bos_token, eos_token = _token_text(named.get("bos_token")), _token_text(named.get("eos_token"))
    for token in (bos_token, eos_token):
        if token is not None and token not in ids:
            raise InputError(
                f"{folder}: {TOKENIZER_CONFIG} names {token!r}, which {TOKENIZER_JSON} does not have",
                hint="take both files from the same tokenizer",
            )
    return bos_token, eos_token


def _read_if_there(folder: Path, name: str) -> dict[str, Any]:
    return read_json(folder, name) if (folder / name).exists() else {}


def _chat_template(folder: Path) -> str | None:
    """Find the template where `transformers` does: a file of its own, else in the configuration."""
    if (folder / CHAT_TEMPLATE).exists():
        return (folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
    template = _read_if_there(folder, TOKENIZER_CONFIG).get("chat_template")
    if isinstance(template, list):  # several with names
        template = next((each["template"] for each in template if each["name"] == "default"), None)
    return template if isinstance(template, str) else None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep the library from starting threads: workers are processes, one to a core."""
    import os

    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
