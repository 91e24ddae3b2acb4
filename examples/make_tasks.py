"""Generate bilingual instruction and preference data with checkable answers, and its held-out part.

    python examples/make_tasks.py demo/tasks --seed 0

Writes, out of the kinds of `task_kinds.py`, in English (en) and in Chinese (zh):

- `sft.jsonl`: conversations, {"messages": [...]}, for `dsllm sft`;
- `prefs.jsonl`: pairs, {"prompt", "chosen", "rejected"}, for `dsllm dpo`: the rejected answer is wrong, or
  right and does not stop;
- `heldout/en` and `heldout/zh`: questions, {"prompt", "answer"}, a file per kind, for `dsllm eval`, and
  `task.toml`, which says how they are asked;
- `text.jsonl`: facts of the training part as plain sentences, a source of the pre-training corpus, so that
  tokenizer and base model have seen the digits, letters and Chinese characters of the questions;
- `summary.json`: the counts, last.

Whether a question is held out depends on its kind and operands alone: one that is held out stands in no other
file, in neither language, in no wording.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import orjson
from task_kinds import HARD, KINDS, LANGUAGES, Item, Kind, Wording

HELD_OUT_FRAC = 0.1
SENTENCES_PER_DOCUMENT = 12
HARD_WEIGHT = 3  # how much oftener a hard kind stands in the text
DRAWS_PER_ITEM = 200  # after that many a kind has run out of new items
FILES = ("sft.jsonl", "prefs.jsonl", "text.jsonl")

TASK_TOML = b"""# How `dsllm eval` asks the questions beside this file: each answer is compared whole.
kind = "generation"
data = "{subject}.jsonl"
context = "{{ prompt }}"
answer = "answer"
max_new_tokens = 16
"""

Record = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files that the command line asks for."""
    options = _parse(arguments)
    files = make_files(options)
    summary = {name: len(records) for name, records in files.items()}
    for name, records in files.items():
        lines = b"".join(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE) for record in records)
        write_file(options.output / name, lines)
    for language in LANGUAGES:
        write_file(options.output / "heldout" / language / "task.toml", TASK_TOML)
    write_file(options.output / "summary.json", orjson.dumps(summary, option=orjson.OPT_INDENT_2) + b"\n")
    n_held_out = sum(count for name, count in summary.items() if name.startswith("heldout"))
    print(", ".join(f"{name}: {summary[name]:,}" for name in FILES) + f", heldout: {n_held_out:,}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Generate instruction and preference data in English and Chinese, a part held out.",
        epilog=f"Result: OUT/{', OUT/'.join(FILES)}, OUT/heldout/, and OUT/summary.json last.",
    )
    parser.add_argument("output", metavar="OUT", type=Path, help="folder to write to; it is made if missing")
    for flag, default, what in (
        ("--sft-items", 600, "conversations of each hard kind in each language, half of each easy one"),
        ("--pref-items", 80, "preference pairs of each kind in each language"),
        ("--heldout-items", 20, "held-out questions of each kind in each language"),
        (
            "--text-documents",
            6000,
            f"documents of {SENTENCES_PER_DOCUMENT} sentences, in both languages together",
        ),
        ("--seed", 0, "seed of all draws; what is held out does not depend on it"),
    ):
        text = f"{what} (default: %(default)s)"
        parser.add_argument(flag, type=int, default=default, metavar="N", help=text)
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        if isinstance(value, int) and value < 0:
            parser.error(f"--{name.replace('_', '-')} is {value}; give a number from 0 on")
    return options


def make_files(options: argparse.Namespace) -> dict[str, list[Record]]:
    """Make the records of every file, by its name."""
    sft, prefs, held_out = [], [], {}
    for kind in KINDS:
        random = Random(f"{options.seed} {kind.__name__}")
        n_items = options.sft_items if kind in HARD else options.sft_items // 2
        for item in draw(kind, random, n_items, held_out=False):
            sft += [_conversation(item, language) for language in LANGUAGES]
        for item in draw(kind, random, options.pref_items, held_out=False):
            prefs += [_preference(item, language, random) for language in LANGUAGES]
        items = list(draw(kind, random, options.heldout_items, held_out=True))
        for language in LANGUAGES:
            name = f"heldout/{language}/{kind.__name__}.jsonl"
            held_out[name] = [_question(item, language) for item in items]
    texts = list(_documents(options.text_documents, Random(f"{options.seed} text")))
    _check_disjoint(held_out.values(), sft, prefs, texts)
    return {"sft.jsonl": sft, "prefs.jsonl": prefs, "text.jsonl": texts, **held_out}


def is_held_out(item: Item) -> bool:
    """Decide by a hash of kind and operands, the same in every run, for every language and wording."""
    digest = hashlib.sha256(" ".join((item.kind, *item.operands)).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_FRAC * 2**32


def draw(kind: Kind, random: Random, n_items: int, *, held_out: bool) -> Iterator[Item]:
    """Draw different items of one kind and one part; fewer where the kind does not have as many."""
    seen = set()
    for _ in range(DRAWS_PER_ITEM * n_items):
        item = kind(random)
        if is_held_out(item) == held_out and item.operands not in seen:
            seen.add(item.operands)
            yield item
            if len(seen) == n_items:
                return


def _id(item: Item, language: str, use: str) -> str:
    return f"{use}/{language}/{item.kind}/{'-'.join(item.operands)}"


def _conversation(item: Item, language: str) -> Record:
    wording = item.wording(language)
    messages = [
        {"role": "user", "content": wording.prompt},
        {"role": "assistant", "content": wording.answer},
    ]
    about = {"kind": item.kind, "language": language}
    return {"id": _id(item, language, "sft"), **about, "messages": messages}


def _preference(item: Item, language: str, random: Random) -> Record:
    wording = item.wording(language)
    rejected = wording.wrong if random.random() < 0.5 else _ramble(wording, random)
    about = {"kind": item.kind, "language": language, "prompt": wording.prompt}
    return {"id": _id(item, language, "prefs"), **about, "chosen": wording.answer, "rejected": rejected}


def _ramble(wording: Wording, random: Random) -> str:
    """The right answer, and then no end."""
    more = random.choice((wording.answer, wording.prompt, wording.statement))
    return " ".join([wording.answer] + [more] * random.randint(1, 3))


def _question(item: Item, language: str) -> Record:
    wording = item.wording(language)
    about = {"kind": item.kind, "language": language}
    return {"id": _id(item, language, "heldout"), **about, "prompt": wording.prompt, "answer": wording.answer}


def _documents(n_documents: int, random: Random) -> Iterator[Record]:
    """Documents of sentences of mixed kinds, English and Chinese in turn."""
    weights = [HARD_WEIGHT if kind in HARD else 1 for kind in KINDS]
    for number in range(n_documents):
        language = LANGUAGES[number % len(LANGUAGES)]
        sentences: list[str] = []
        while len(sentences) < SENTENCES_PER_DOCUMENT:
            item = random.choices(KINDS, weights)[0](random)
            if not is_held_out(item):
                sentences.append(item.wording(language).statement)
        text = "\n".join(sentences)
        yield {"id": f"tasks/{number:06}", "source": "tasks", "language": language, "text": text}


def _check_disjoint(held_out: Iterable[list[Record]], *others: list[Record]) -> None:
    """Assert that no held-out question stands in another file."""
    questions = {record["prompt"] for records in held_out for record in records}
    for records in others:
        for record in records:
            prompt = record["messages"][0]["content"] if "messages" in record else record.get("prompt")
            assert prompt not in questions, f"{record['id']}: held out, and learnt from"


def write_file(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


if __name__ == "__main__":
    sys.exit(main())
