"""Small evaluations: how tests ask for one and read what it wrote."""

import json
from pathlib import Path

from tests.stages.tiny_chat import write_jsonl

from dsllm.config import RunOptions
from dsllm.progress import Reporter
from dsllm.stages.eval.config import EvalConfig
from dsllm.stages.eval.run import run

QUIET = Reporter(is_quiet=True)


def evaluate(model: Path, out: Path, *tasks: str, overwrite: bool = False, **settings):
    config = EvalConfig(task=tasks, **settings)
    return run(config, [str(model)], str(out), options=RunOptions(overwrite=overwrite), reporter=QUIET)


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def choice_task(tmp_path: Path, name: str = "quiz", n: int = 5) -> str:
    records = [
        {"question": f"{i} or {i + 1}?", "choices": [f"{i}", f"{i + 1} it is"], "answer": i % 2}
        for i in range(n)
    ]
    return f"{name}={write_jsonl(tmp_path / f'{name}.jsonl', records)}"
