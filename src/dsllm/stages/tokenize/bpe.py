"""Byte-level BPE as DeepSeek LLM has it: written as files of Hugging Face `tokenizers`.

The vocabulary, by id: the 243 bytes that UTF-8 uses, the learned words in the order of their merges, then 15
special tokens: beginning and end of a sequence, and the stand-ins of the 13 bytes that UTF-8 never uses, so
that all 256 are there. The stand-ins are plain words of the vocabulary, which no text can meet. As added
tokens they would be looked for in the text itself, and "für" would lose its ü, the stand-in of byte FC.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dsllm.stages.tokenize.config import N_BYTES_IN_UTF8, TokenizeTrainConfig
from dsllm.text.bpe_training import Limits, learn_merges
from dsllm.text.chat import DEEPSEEK_TEMPLATE
from dsllm.text.piece_counts import Pieces
from dsllm.text.pretokens import huggingface_pre_tokenizer
from dsllm.text.tokenizer_files import (
    BYTE_OF_CHARACTER,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
)

BOS = "<｜begin▁of▁sentence｜>"
EOS = "<｜end▁of▁sentence｜>"
UNUSED_BYTES = "øöúÿõ÷ûýÀùÁþü"  # in the order of their ids; bytes F8 F6 FA FF F5 F7 FB FD C0 F9 C1 FE FC
N_SPECIAL_TOKENS = 2 + len(UNUSED_BYTES)
_PAIRS_FRAC = 0.42  # of the memory
_CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


@dataclass(frozen=True)
class LearnedWords:
    """What training gives: each word's id, and the merges that make the words, in order.

    `n_pairs_forgotten` says how often a pair rarer than `min_frequency` was forgotten for lack of memory.
    """

    ids: dict[str, int]
    merges: list[tuple[str, str]]
    n_pairs_forgotten: int


def learn_words(
    pieces: Pieces, config: TokenizeTrainConfig, told: Callable[[int], None] = lambda n_words: None
) -> LearnedWords:
    """Learn up to `config.vocab_size` words; fewer when the text has no more pairs that are frequent enough.

    Args:
        pieces: what the texts were cut into, counted.
        config: what to learn.
        told: is told the number of words now and then.
    """
    alphabet = sorted(set(BYTE_OF_CHARACTER) - set(UNUSED_BYTES))
    assert len(alphabet) == N_BYTES_IN_UTF8
    learned = learn_merges(
        pieces.texts,
        pieces.counts,
        [bytes([BYTE_OF_CHARACTER[character]]) for character in alphabet],
        Limits(
            vocab_size=config.vocab_size,
            min_frequency=config.min_frequency,
            max_token_length=config.max_token_length,
            table_bytes=int(config.working_bytes * _PAIRS_FRAC),
        ),
        told=told,
    )
    words = ["".join(map(_CHARACTER_OF_BYTE.__getitem__, token)) for token in learned.tokens]
    merges = list(dict.fromkeys(reversed([(left, right) for left, right, _ in learned.merges.tolist()])))
    return LearnedWords(
        {word: index for index, word in enumerate(words)},
        [(words[left], words[right]) for left, right in reversed(merges)],  # of equal ones the last
        learned.n_pairs_forgotten,
    )


def tokenizer_files(words: LearnedWords) -> dict[str, bytes]:
    """Write tokenizer.json and what `transformers` reads beside it, by name.

    As in the released tokenizer, `transformers` puts BOS before each text that it encodes. dsllm does not
    leave that to the file: its stages place BOS and EOS themselves.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, processors

    ids = dict(words.ids)
    for token in (BOS, EOS, *UNUSED_BYTES):
        ids[token] = len(ids)
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=words.merges))
    tokenizer.pre_tokenizer = huggingface_pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (BOS, EOS)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[BOS, "$A"], pair=[BOS, "$A", BOS + ":1", "$B:1"], special_tokens=[(BOS, ids[BOS])]
    )
    names = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **names,
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "chat_template": DEEPSEEK_TEMPLATE,
    }
    return {
        TOKENIZER_JSON: tokenizer.to_str(pretty=True).encode(),
        TOKENIZER_CONFIG: _json_bytes(config),
        SPECIAL_TOKENS_MAP: _json_bytes(names),
    }


def _json_bytes(values: dict[str, Any]) -> bytes:
    return (json.dumps(values, ensure_ascii=False, indent=2) + "\n").encode()
