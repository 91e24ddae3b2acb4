"""A small corpus, and how tests train a tokenizer on it and encode with that."""

import json
import os
from pathlib import Path

import numpy as np

from dsllm.config import RunOptions
from dsllm.progress import Reporter
from dsllm.stages.tokenize import encode, train
from dsllm.stages.tokenize.config import TokenizeEncodeConfig, TokenizeTrainConfig
from dsllm.text.tokenizer_files import (
    load_tokenizer,
)

CORPUS = Path(__file__).parent.parent / "golden" / "tokenizer_corpus.jsonl"
RECORDS = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
TEXTS = [record["text"] for record in RECORDS]
QUIET = Reporter(is_quiet=True)


def run_train(output, inputs=(str(CORPUS),), **values):
    config = TokenizeTrainConfig(**{"vocab_size": 400, **values})
    return train.run(config, list(inputs), str(output), options=RunOptions(), reporter=QUIET)


def run_encode(output, tokenizer_folder, inputs=(str(CORPUS),), n_workers=1, **values):
    config = TokenizeEncodeConfig(**{"tokenizer": str(tokenizer_folder), "shard_tokens": 500, **values})
    options = RunOptions(n_workers=n_workers)
    return encode.run(config, list(inputs), str(output), options=options, reporter=QUIET)


def write_documents(path, texts):
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts))
    return str(path)


def bytes_of(folder):
    return {
        path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size
    }


LOADED = {}


def load_once(folder):
    return LOADED.setdefault(folder, load_tokenizer(folder))


def many_documents(folder):
    """Two files of several batches, with lines that are no documents."""
    generator = np.random.default_rng(3)
    paths = []
    for index in range(2):
        lines = []
        for number in range(600):
            words = " ".join(TEXTS[int(generator.integers(len(TEXTS)))] for _ in range(6))
            source = ["first", "second", "third"][int(generator.integers(3))]
            lines.append(json.dumps({"text": words, "source": source}, ensure_ascii=False))
            if number % 200 == 17:
                lines.append("no document")
        path = folder / f"{index}.jsonl"
        path.write_text("\n".join([*lines, "neither is this"]) + "\n", encoding="utf-8")
        paths.append(str(path))
    return paths


def relative(path):
    return os.path.relpath(path).encode()


KILLED = """
import os, signal, sys
import dsllm.io.folder, dsllm.io.tokens
from dsllm.cli.main import run_command_line
dsllm.io.folder.PARTIAL_EVERY_S = 0.0
end_shard, n_ended = dsllm.io.tokens.TokenWriter.end_shard, 0
def end_shard_and_die(self, **counts):
    global n_ended
    end_shard(self, **counts)
    n_ended += 1
    if n_ended == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
dsllm.io.tokens.TokenWriter.end_shard = end_shard_and_die
run_command_line(sys.argv[2:])
"""


def copy_files(folder, to):
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to
