"""A model folder that costs nothing: a tokenizer of bytes with BOS and EOS, and random weights."""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from dsllm.model.config import ModelConfig
from dsllm.model.hf import save_model
from dsllm.model.transformer import Transformer

BOS, EOS = "<bos>", "<eos>"


def write_tokenizer(folder: Path, *, adds_bos: bool = False) -> Path:
    """One token a byte: ids 0 and 1 are BOS and EOS, the bytes follow in the order of their stand-ins."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate([BOS, EOS, *alphabet])}, []))
    tokenizer.add_special_tokens([BOS, EOS])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if adds_bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.post_processor = TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": BOS, "eos_token": EOS}))
    return folder


def write_model(
    folder: Path, *, seed: int = 0, vocab_size: int = 258, seq_len: int = 128, is_uniform: bool = False
) -> Path:
    """Write random weights; `is_uniform` makes every token equally likely."""
    config = ModelConfig(
        vocab_size=vocab_size,
        n_layers=1,
        d_model=32,
        d_ff=64,
        n_heads=2,
        n_kv_heads=1,
        head_dim=16,
        seq_len=seq_len,
        init_std=0.1,
        bos_id=0,
        eos_id=1,
    )
    model = Transformer(config)
    model.init_weights(seed)
    if is_uniform:
        model.output_weight.data.zero_()
    save_model(model, folder)
    return write_tokenizer(folder)


def write_jsonl(path: Path, records: list[dict]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return str(path)
