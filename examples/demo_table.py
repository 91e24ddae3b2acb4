"""Print what the demo has made, read off the manifests of its folders.

python examples/demo_table.py demo examples/questions.txt
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Rows = list[Sequence[str]]
MODELS = ("base", "sft", "dpo")
TASKS = {"english": "in English", "chinese": "in Chinese"}
LAWS = {
    "lr_max": "learning rate",
    "batch_tokens": "batch, tokens",
    "flops_per_token": "M_opt, FLOPs per token",
    "n_tokens": "D_opt, tokens",
}


def main(folder: str, questions: str) -> None:
    """Print the tables, then the exchange with the chat model."""
    demo = Path(folder)
    for title, rows in (
        ("Data", data_rows(demo)),
        ("Pre-training", training_rows(demo)),
        ("Held-out questions answered exactly, held-out text", score_rows(demo)),
        ("Scaling laws of the ladder", law_rows(demo)),
    ):
        print_table(title, rows)
    print("Chat\n")
    asked = [line for line in Path(questions).read_text().splitlines() if not line.startswith("/")]
    for question, answer in zip(asked, (demo / "chat.txt").read_text().splitlines(), strict=True):
        print(f"  User: {question}\n  Assistant: {answer}\n")


def print_table(title: str, rows: Rows) -> None:
    """Print rows under a title; the first one is the heading, the first column is aligned to the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    print(f"{title}\n")
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join([row[0].ljust(widths[0]), *cells[1:]]).rstrip())
    print()


def data_rows(demo: Path) -> Rows:
    """Documents and bytes of text after each stage, and the tokens that they become."""
    raw = json.loads((demo / "raw" / "summary.json").read_text())
    collected = [counts for name, counts in raw.items() if "/" not in name]
    unique, mix, tokens = (counts_of(demo, name) for name in ("unique", "mix", "tokens"))
    rows: Rows = [("after", "documents", "bytes of text")]
    for name, n_documents, n_bytes in (
        ("collect", sum_of(collected, "n_documents"), sum_of(collected, "n_bytes")),
        ("filter", unique["n_documents"], unique["n_text_bytes"]),
        ("dedup", unique["n_kept"], unique["n_text_bytes_kept"]),
        ("remix, with the tasks", mix["n_written"], mix["n_text_bytes_written"]),
    ):
        rows.append((name, f"{n_documents:,}", f"{n_bytes:,}"))
    rows.append(("tokenize: tokens", "", f"{tokens['n_tokens']:,}"))
    rows.append(("tokenize: bytes per token", "", f"{tokens['bytes_per_token']:.3f}"))
    return rows


def training_rows(demo: Path) -> Rows:
    """The base model's losses on held-out text at start and end."""
    counts = counts_of(demo, "base")
    rows: Rows = [(f"{counts['n_parameters']:,} parameters, {counts['n_tokens']:,} tokens", "start", "end")]
    for label, name in (("loss on held-out text", "valid_loss"), ("bits per byte", "valid_bits_per_byte")):
        rows.append((label, f"{counts[f'initial_{name}']:.3f}", f"{counts[name]:.3f}"))
    return rows


def score_rows(demo: Path) -> Rows:
    """What the three models score."""
    scores = [counts_of(demo, f"eval-{name}") for name in MODELS]
    rows: Rows = [("", *MODELS)]
    for task, label in TASKS.items():
        cells = [
            f"{100 * score[task]['score']:.1f} ± {100 * score[task]['stderr']:.1f} %" for score in scores
        ]
        rows.append((f"{scores[0][task]['n']} questions {label}", *cells))
    rows.append(("bits per byte of text", *(f"{score['text']['score']:.3f}" for score in scores)))
    return rows


def law_rows(demo: Path) -> Rows:
    """The exponents fitted to the small runs."""
    counts = counts_of(demo, "fits")
    rows: Rows = [(f"{counts['n_runs']} runs at {counts['n_budgets']} budgets C", "law", "exponent")]
    for name, label in LAWS.items():
        law = counts["laws"].get(name)
        if law:
            power = f"{law['coefficient']:.3g} * C^{law['exponent']:.3f}"
            rows.append((label, power, f"{law['exponent']:.4f}"))
    return rows


def counts_of(demo: Path, name: str) -> dict[str, Any]:
    """The counts of a folder's manifest."""
    counts: dict[str, Any] = json.loads((demo / name / "manifest.json").read_text())["counts"]
    return counts


def sum_of(records: list[dict[str, int]], name: str) -> int:
    """Add up one count."""
    return sum(record[name] for record in records)


if __name__ == "__main__":
    main(*sys.argv[1:])
