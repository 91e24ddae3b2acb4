"""`kill -9` at random moments of each stage, then the same command: the bytes of an undisturbed run."""

import json
import multiprocessing
import random
import sys
import time
from pathlib import Path

import pytest

N_KILLS = 3
WORDS = [
    a + b
    for a in "ba ce di fo gu ha je ki lo mu".split()
    for b in "ron tel mis dap nok vur sel gan pit".split()
]


def run_in_child(folder: Path, arguments: list[str]) -> None:
    """Run one command; what it says goes to a file of the folder."""
    import os

    os.chdir(folder)
    log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import torch

    from dsllm.cli.main import run_command_line

    torch.set_num_threads(1)
    sys.exit(run_command_line(arguments))


@pytest.fixture(scope="module")
def children():
    """Processes that are forked from one that has imported the heavy packages but computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "tokenizers", "safetensors.torch", "dsllm.cli.app", "numpy"])
    return context


def start(children, folder, arguments):
    process = children.Process(target=run_in_child, args=(folder, arguments))
    process.start()
    return process


def finish(children, folder, arguments):
    process = start(children, folder, arguments)
    process.join(120)
    assert process.exitcode == 0, (folder / "log.txt").read_text()[-3000:]


def text(generator, n_words):
    return " ".join(generator.choice(WORDS) for _ in range(n_words)) + "."


def write_inputs(folder: Path) -> None:
    """Documents with duplicates, conversations, preference pairs, questions, results of runs."""
    generator = random.Random(5)
    folder.mkdir()
    texts = [text(generator, 60) for _ in range(600)]
    for index in range(3):
        picked = [generator.choice(texts) for _ in range(300)]
        rows = [
            {
                "id": f"{index}-{n}",
                "source": "ab"[n % 2],
                "url": f"http://h{n % 7}.example/{n}",
                "text": f"{words}\nread more on page {n}",
            }
            for n, words in enumerate(picked)
        ]
        write_lines(folder / f"docs{index}.jsonl", rows)
    turns = [
        {
            "messages": [
                {"role": "user", "content": text(generator, 4)},
                {"role": "assistant", "content": text(generator, 3)},
            ]
        }
        for _ in range(40)
    ]
    write_lines(folder / "chat.jsonl", turns)
    pairs = [
        {"prompt": text(generator, 4), "chosen": text(generator, 3), "rejected": text(generator, 5)}
        for _ in range(40)
    ]
    write_lines(folder / "pairs.jsonl", pairs)
    questions = [
        {"question": text(generator, 5), "choices": [text(generator, 2) for _ in range(3)], "answer": n % 3}
        for n in range(60)
    ]
    write_lines(folder / "questions.jsonl", questions)
    runs = [
        {
            "compute_flops": c,
            "flops_per_token": m,
            "n_tokens": c / m,
            "loss": 2 + (m / c**0.5) ** 0.3 + (c**0.5 / m) ** 0.3,
        }
        for c in (1e12, 1e13, 1e14)
        for m in (c**0.5 * 2.0**k for k in range(-3, 4))
    ]
    write_lines(folder / "runs.jsonl", runs)


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


DOCS = "docs0.jsonl docs1.jsonl docs2.jsonl"
TRAIN = "--dtype fp32 --save-every-steps 3"
SIDES = ("-o", "--removed", "--rejected", "--write-index")
STAGES = {
    "dedup": f"dedup {DOCS} -o out-dedup --removed out-removed --write-index out-index",
    "dedup bloom": f"dedup {DOCS} -o out-bloom --bloom --removed out-bloomed",
    "filter": f"filter {DOCS} -o out-filter --rejected out-rejected",
    "filter in passes": f"filter {DOCS} -o out-passes --rejected out-failed --languages any "
    "--max-line-repeats 9 --max-host-rejection 0.9 --mask-personal",
    "remix": f"remix {DOCS} -o out-remix --weights a=0.7,b=0.3",
    "tokenize train": f"tokenize train {DOCS} -o out-tokenizer --vocab-size 400",
    "tokenize encode": f"tokenize encode {DOCS} -o out-tokens --tokenizer out-tokenizer --shard-tokens 20000",
    "pretrain": f"pretrain out-tokens -o out-base --n-layers 1 --d-model 16 --n-heads 2 --seq-len 32 "
    f"--batch-seqs 4 --n-steps 60 --lr-max 1e-2 {TRAIN}",
    "sft": f"sft chat.jsonl -o out-sft --model out-base --n-epochs 2 --batch-seqs 4 {TRAIN}",
    "dpo": f"dpo pairs.jsonl -o out-dpo --model out-sft --batch-seqs 4 {TRAIN}",
    "eval": "eval out-dpo -o out-eval --task t=questions.jsonl --shard-items 10",
    "fit-scaling": "fit-scaling fit runs.jsonl -o out-fit --n-draws 200",
}


def outputs_of(stage: str) -> list[str]:
    """The folders that a stage writes, the main one first."""
    words = STAGES[stage].split()
    return [words[at + 1] for at, word in enumerate(words) if word in SIDES]


@pytest.fixture(scope="module")
def undisturbed(children, tmp_path_factory):
    """All stages, one after the other; how long each took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "work"
    write_inputs(folder)
    seconds = {}
    for stage, command in STAGES.items():
        started_s = time.monotonic()
        finish(children, folder, [*command.split(), "--workers", "1"])
        seconds[stage] = time.monotonic() - started_s
    return folder, seconds


@pytest.mark.parametrize("stage", STAGES)
def test_killed_stage_carries_on_to_equal_bytes(stage, children, undisturbed, tmp_path):
    whole, seconds = undisturbed
    folder = tmp_path / "work"
    write_inputs(folder)
    for path in whole.glob("out-*"):
        if path.name not in outputs_of(stage):
            (folder / path.name).symlink_to(path)
    generator = random.Random(stage)
    arguments = [*STAGES[stage].split(), "--workers", "1"]
    main_output = folder / outputs_of(stage)[0]
    for _ in range(N_KILLS):
        process = start(children, folder, arguments)
        process.join(generator.uniform(0.1, 1.0) * seconds[stage])
        process.kill()
        process.join()
        if (main_output / "manifest.json").exists():
            break
    else:
        finish(children, folder, arguments)
    for output in outputs_of(stage):
        assert bytes_of(folder / output) == bytes_of(whole / output)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a finished folder but the clock's (metrics.jsonl) and what a kill may leave beside it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and path.name not in (".lock", "metrics.jsonl")
        and not {".work", "checkpoints"} & set(path.relative_to(folder).parts)
    }
