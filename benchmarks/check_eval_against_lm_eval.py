"""Compare `dsllm eval` with lm-evaluation-harness, item by item, on one model and questions made here.

    python benchmarks/check_eval_against_lm_eval.py MODEL [--lm-eval ENVIRONMENT/bin/lm_eval] [--n-items 40]

lm-eval (0.4.13 was used, with transformers 5.23) may live in an environment of its own: only its command is
called. Both read the same files, on the CPU in fp32. The table gives the largest difference of a
log-likelihood, whether every score and generation is equal, and the time of each whole process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TOLERANCE = 1e-4  # of a log-likelihood, in nats; of a document's, relative 1e-6, since lm-eval sums in fp32

SCORES = {
    "accuracy": "acc",
    "accuracy_characters": "acc_norm",
    "accuracy_unconditional": "acc_mutual_info",
}
TASKS = {
    "choice": (
        'kind = "choice"\ncontext = "Question: {{ question }}\\nAnswer:"\nnormalise = "unconditional"\n',
        {
            "output_type": "multiple_choice",
            "doc_to_text": "Question: {{question}}\nAnswer:",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "acc_mutual_info"}],
        },
    ),
    "shots": (
        'kind = "choice"\ncontext = "{{ question }}"\nn_shots = 3\nshots_from = "shots.jsonl"\n'
        'data = "items.jsonl"\ndescription = "Choose.\\n\\n"\n',
        {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "answer",
            "description": "Choose.\n\n",
            "num_fewshot": 3,
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
    ),
    "continuation": (
        'kind = "continuation"\ncontext = "{{ question }} "\nanswer = "word"\ndelimiter = ""\n',
        {
            "output_type": "loglikelihood",
            "doc_to_text": "{{question}} ",
            "doc_to_target": "{{word}}",
            "target_delimiter": "",
            "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        },
    ),
    "generation": (
        'kind = "generation"\ncontext = "{{ question }}"\nanswer = "word"\n'
        'max_new_tokens = 24\nstop = ["\\n"]\n',
        {
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{word}}",
            "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 24},
            "metric_list": [{"metric": "exact_match"}],
        },
    ),
    "documents": (
        'kind = "documents"\n',
        {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte"}],
        },
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--tokenizer")
    parser.add_argument("--lm-eval", default="lm_eval")
    parser.add_argument("--n-items", type=int, default=40)
    arguments = parser.parse_args()
    tokenizer = arguments.tokenizer or arguments.model
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_tasks(folder, arguments.n_items)
        seconds = {"dsllm": run_dsllm(folder, arguments.model, tokenizer)}
        seconds["lm-eval"] = run_lm_eval(folder, arguments.lm_eval, arguments.model, tokenizer)
        faults = [compare(folder, task) for task in TASKS]
    print(f"whole process: dsllm {seconds['dsllm']:.1f} s, lm-eval {seconds['lm-eval']:.1f} s")
    return int(any(faults))


def write_tasks(folder: Path, n_items: int) -> None:
    """Write the items, a task.toml for dsllm and a YAML file (in JSON, which is YAML) for lm-eval."""
    items = [make_item(number) for number in range(n_items)]
    shots = [make_item(number) for number in range(1000, 1005)]
    for task, (toml, theirs) in TASKS.items():
        place = folder / task
        place.mkdir()
        chosen = [{"text": item["text"]} for item in items[:6]] if task == "documents" else items
        for name, records in (("items", chosen), ("shots", shots)):
            if name == "items" or task == "shots":
                lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                (place / f"{name}.jsonl").write_text("".join(lines))
        (place / "task.toml").write_text(toml)
        files = {"test": str(place / "items.jsonl")}
        if task == "shots":
            files["train"] = str(place / "shots.jsonl")
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
        definition = {"task": f"check_{task}", **source, **theirs, "metadata": {"version": 1}}
        (folder / f"check_{task}.yaml").write_text(json.dumps(definition, ensure_ascii=False))


def make_item(number: int) -> dict[str, object]:
    """Arithmetic in English and Chinese, answers of several lengths, a document of some windows."""
    a, b = number * 37 % 89, number * 53 % 97
    question = f"What is {a} plus {b}?" if number % 2 else f"{a}加{b}等于多少？"
    choices = [f"{a + b}", f"It is {a + b + 1}, surely.", f"答案是{a + b + 2}"]
    place = number % 3
    choices = choices[-place:] + choices[:-place]
    text = " ".join(
        f"{a * k % 101} + {k} = {a * k % 101 + k}, 等于{a * k % 101 + k}。" for k in range(40 + number * 20)
    )
    return {"question": question, "choices": choices, "answer": place, "word": str(a + b), "text": text}


def run_dsllm(folder: Path, model: str, tokenizer: str) -> float:
    tasks = [word for task in TASKS for word in ("--task", f"{task}={folder / task}")]
    command = [
        sys.executable,
        "-m",
        "dsllm",
        "eval",
        model,
        "-o",
        str(folder / "ours"),
        "--tokenizer",
        tokenizer,
    ]
    return run([*command, *tasks, "--quiet"], {})


def run_lm_eval(folder: Path, program: str, model: str, tokenizer: str) -> float:
    command = [program, "run", "--model", "hf", "--include_path", str(folder), "--device", "cpu"]
    command += [
        "--model_args",
        f"pretrained={model},tokenizer={tokenizer},dtype=float32",
        "--batch_size",
        "1",
    ]
    command += ["--tasks", ",".join(f"check_{task}" for task in TASKS)]
    command += ["--log_samples", "--output_path", str(folder / "theirs")]
    offline = dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    return run(command, offline | {"HF_DATASETS_CACHE": str(folder / "cache")})


def run(command: list[str], environment: dict[str, str]) -> float:
    started_s = time.perf_counter()
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return time.perf_counter() - started_s


def compare(folder: Path, task: str) -> bool:
    """Print one line; return whether anything differs by more than is allowed."""
    ours = read_lines(folder / "ours" / f"samples-{task}.jsonl")
    (path,) = (folder / "theirs").rglob(f"samples_check_{task}_*.jsonl")
    theirs = sorted(read_lines(path), key=lambda sample: sample["doc_id"])
    worst, n_unequal = 0.0, abs(len(ours) - len(theirs))
    for our, their in zip(ours, theirs, strict=False):
        answers = [answer[0] for answer in their["resps"]]
        if task == "generation":
            n_unequal += our["generation"] != answers[0]
            continue
        expected = [float(answer[0] if isinstance(answer, list) else answer) for answer in answers]
        found = our.get("log_likelihoods", []) + our.get("unconditional", []) or [our["log_likelihood"]]
        scale = max(1.0, abs(expected[0]) * 1e-6 / TOLERANCE) if task == "documents" else 1.0
        worst = max(worst, *(abs(a - b) / scale for a, b in zip(found, expected, strict=True)))
        for name, their_name in SCORES.items():
            if name in our["scores"] and their_name in their:
                n_unequal += our["scores"][name] != their[their_name]
    is_wrong = worst > TOLERANCE or n_unequal > 0
    verdict = "WRONG" if is_wrong else "equal"
    print(f"{task:14s} {len(ours):4d} items, worst difference {worst:.1e}, {n_unequal} unequal: {verdict}")
    return is_wrong


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


if __name__ == "__main__":
    sys.exit(main())
