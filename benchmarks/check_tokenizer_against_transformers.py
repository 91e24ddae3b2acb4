"""Hold a tokenizer of `dsllm tokenize train` against `transformers.AutoTokenizer`, which must load it.

    python benchmarks/check_tokenizer_against_transformers.py [TOK] [--corpus FILE.jsonl ...] [--write-golden]

Needs dsllm[hf]. Without TOK it learns the small tokenizer that the tests know, from
tests/golden/tokenizer_corpus.jsonl. It compares the ids of plain texts, of texts with special tokens, what
they are decoded to, and the text, ids and masks of conversations; prints one JSON object; and ends with
status 1 on any difference. `--write-golden` stores what `transformers` said in
tests/golden/tokenizer_transformers.json.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import tokenizers
import transformers

from dsllm.stages.tokenize.bpe import EOS, learn_words, tokenizer_files
from dsllm.stages.tokenize.config import TokenizeTrainConfig
from dsllm.text.chat import chat_text, render_chat
from dsllm.text.piece_counts import count_pieces
from dsllm.text.tokenizer_files import load_tokenizer

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
VOCAB_SIZE = 700

TEXTS = [
    "The ferry waits for 42 passengers.",
    "  two spaces,\ttabs\t\tand a line end \r\n\n",
    "渡船在七点出发，没有人着急。",
    "Für schöne Gäste: süße Brötchen — øùúûýþÿ ÷ À Á õö",
    "Паром отходит в 7 часов; ждут следующего.",
    "تغادر العبارة في الساعة ٧ ",
    "Phà rời bến lúc bảy giờ",
    "フェリーは七時に出ます。배는 떠납니다.",
    "for (let i = 0; i < 10; i++) { total += x[i] ** 2; }",
    "café naïve ½ Ⅳ 🙂👩‍👩‍👧 \u0000 \U0010fffd",
    "",
]
SPECIAL_TEXTS = [f"one{EOS}two", f"{EOS}{EOS} three", "<｜begin▁of▁sentence｜>"]
CHATS = [
    [{"role": "user", "content": "When does the ferry leave?"}],
    [{"role": "user", "content": "渡船几点出发？"}, {"role": "assistant", "content": "七点。"}],
    [
        {"role": "system", "content": "Answer in one line."},
        {"role": "user", "content": " leading space and\nline ends\n"},
        {"role": "assistant", "content": "\n starts with a line end"},
        {"role": "user", "content": "1234?"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "für 🙂"},
        {"role": "assistant", "content": "ends with 🙂"},
    ],
]


def main() -> int:
    """Compare, print, perhaps store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tokenizer", nargs="?", help="folder; the tests' small one when left out")
    parser.add_argument("--corpus", nargs="*", default=[], help="more texts: JSON Lines with a field `text`")
    parser.add_argument("--write-golden", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.tokenizer or make_small_tokenizer(Path(scratch))
        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        ours = load_tokenizer(folder)
    texts = TEXTS + [text for path in arguments.corpus for text in read_texts(Path(path))]
    said = ask_transformers(theirs, texts)
    n_different = count_differences(said, ours)
    report = {
        **said["versions"],
        "n_ids": len(theirs),
        "n_texts": len(texts) + len(SPECIAL_TEXTS),
        "n_chats": 2 * len(CHATS),
        "adds_bos": theirs("x").input_ids[0] == theirs.bos_token_id,
        "n_different": n_different,
    }
    print(json.dumps(report))
    if arguments.write_golden:
        data = json.dumps(said, ensure_ascii=True, indent=1)
        (GOLDEN / "tokenizer_transformers.json").write_text(data + "\n")
    return int(n_different > 0)


def make_small_tokenizer(folder: Path) -> str:
    texts = read_texts(GOLDEN / "tokenizer_corpus.jsonl")
    words = learn_words(count_pieces(texts), TokenizeTrainConfig(vocab_size=VOCAB_SIZE))
    for name, data in tokenizer_files(words).items():
        (folder / name).write_bytes(data)
    return str(folder)


def read_texts(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def ask_transformers(tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    """Give all that `transformers` says, as it is stored."""
    chats = []
    for messages in CHATS:
        for is_prompt in (False, True):
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_prompt)
            encoded = tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=is_prompt,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            chats.append(
                {
                    "messages": messages,
                    "add_generation_prompt": is_prompt,
                    "text": text,
                    "ids": encoded["input_ids"],
                    "mask": encoded["assistant_masks"],
                }
            )
    return {
        "versions": {"transformers": transformers.__version__, "tokenizers": tokenizers.__version__},
        "vocab_size": VOCAB_SIZE,
        "bos_id": tokenizer.bos_token_id,
        "eos_id": tokenizer.eos_token_id,
        "texts": [
            {"text": text, "ids": (ids := tokenizer(text, add_special_tokens=False).input_ids)}
            | {
                "decoded": tokenizer.decode(ids),
                "without_special": tokenizer.decode(ids, skip_special_tokens=True),
            }
            for text in texts + SPECIAL_TEXTS
        ],
        "with_bos": tokenizer(TEXTS[0]).input_ids,
        "chats": chats,
    }


def count_differences(said: dict[str, Any], ours: Any) -> int:
    """Compare with dsllm's own functions; say each difference on stderr."""
    pairs = [(each["ids"], ours.encode(each["text"], parse_special=True)) for each in said["texts"]]
    pairs.append((said["with_bos"], [ours.bos_id, *ours.encode(TEXTS[0])]))
    for each in said["texts"]:
        pairs.append((each["decoded"], ours.decode(each["ids"])))
        pairs.append((each["without_special"], ours.decode(each["ids"], skip_special=True)))
    for chat in said["chats"]:
        is_prompt = chat["add_generation_prompt"]
        rendered = render_chat(chat["messages"], ours, add_generation_prompt=is_prompt)
        text = chat_text(chat["messages"], ours, add_generation_prompt=is_prompt)
        pairs += [(chat["text"], text), (chat["ids"], rendered.token_ids)]
        pairs.append((chat["mask"], [int(each) for each in rendered.loss_mask]))
    different = [pair for pair in pairs if pair[0] != pair[1]]
    for theirs, own in different:
        sys.stderr.write(f"transformers: {theirs!r:.300}\ndsllm:        {own!r:.300}\n")
    return len(different)


if __name__ == "__main__":
    sys.exit(main())
