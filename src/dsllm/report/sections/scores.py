"""The section of all evaluations: models side by side, with standard errors."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsllm.report.blocks import Block, Cell, Figures, cell, table
from dsllm.report.charts import Bar, bar_chart
from dsllm.report.folders import Run, first_number, is_input
from dsllm.report.scales import Axis

LOWER_IS_BETTER = ("bits_per_byte", "byte_perplexity", "perplexity", "nats_per_token")
Entry = dict[str, Any]


def evaluations(evals: Sequence[Run], runs: Sequence[Run]) -> list[Block]:
    """Tasks down, models across, in the order in which the models were made."""
    models = name_models(evals, runs)
    tasks: dict[tuple[str, str], dict[int, Entry]] = {}
    for column, run in enumerate(evals):
        for task, entry in run.scores.items():
            tasks.setdefault((task, str(entry.get("metric", "score"))), {})[column] = entry
    rows = []
    for (task, metric), entries in tasks.items():
        n_items = max((int(first_number(entry, "n") or 0) for entry in entries.values()), default=0)
        best = _best(metric, entries)
        cells = [_score(entries.get(column), is_best=column == best) for column in range(len(models))]
        rows.append([task, metric.replace("_", " "), n_items, *cells])
    columns = ["task", "score", "items", *models]
    note = "Score ± standard error; ★ leads the next by more than two standard errors of the difference."
    return [table(columns, rows, caption=note if rows else ""), *_pictures(tasks, models)]


def name_models(evals: Sequence[Run], runs: Sequence[Run]) -> list[str]:
    """Name each evaluation by the model it asked: the run that wrote it, or the last part of its path."""
    names = []
    for run in evals:
        inputs = run.manifest.inputs
        found = [other.name for record in inputs[:1] for other in runs if is_input(record, other)]
        path = Path(inputs[0].path).name if inputs else run.name
        names.append(found[0] if found else path)
    return [
        name if names.count(name) == 1 else f"{name} ({run.name})"
        for name, run in zip(names, evals, strict=True)
    ]


def _best(metric: str, entries: dict[int, Entry]) -> int | None:
    """The column whose score leads the next by more than twice the standard error of their difference.

    The errors are added as those of independent samples; the same items were asked, so this is careful.
    """
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    ranked = sorted(entries, key=lambda column: -sign * (first_number(entries[column], "score") or 0.0))
    if len(ranked) < 2:
        return None
    scores = [first_number(entries[column], "score") or 0.0 for column in ranked[:2]]
    errors = [first_number(entries[column], "stderr") or 0.0 for column in ranked[:2]]
    return ranked[0] if sign * (scores[0] - scores[1]) > 2 * math.hypot(*errors) else None


def _score(entry: Entry | None, *, is_best: bool) -> Cell:
    if entry is None:
        return cell(None)
    score, stderr = first_number(entry, "score"), first_number(entry, "stderr")
    text = f"{score:.3f}" + (f" ± {stderr:.3f}" if stderr is not None else "")
    return cell(score, text=f"{text} ★" if is_best else text)


def _pictures(tasks: dict[tuple[str, str], dict[int, Entry]], models: Sequence[str]) -> list[Block]:
    """Bars for the shares of right answers together, and for each other score alone."""
    shares = {
        key: entries for key, entries in tasks.items() if key[1].startswith(("accuracy", "exact_match"))
    }
    figures = []
    if shares:
        figures.append((_bars(shares, models, "share of right answers"), "Share of right answers"))
    for metric in dict.fromkeys(key[1] for key in tasks if key not in shares):
        chosen = {key: entries for key, entries in tasks.items() if key[1] == metric}
        label = metric.replace("_", " ")
        lower = "; lower is better" if metric in LOWER_IS_BETTER else ""
        figures.append((_bars(chosen, models, label), f"{label.capitalize()}{lower}"))
    return [Figures(figures)] if figures else []


def _bars(tasks: dict[tuple[str, str], dict[int, Entry]], models: Sequence[str], label: str) -> Any:
    groups = [
        (
            model if len(models) > 1 else "",
            [_bar(entries.get(column)) for entries in tasks.values()],
        )
        for column, model in enumerate(models)
    ]
    return bar_chart(label, [task for task, _ in tasks], groups, Axis(label), decimals=3)


def _bar(entry: Entry | None) -> Bar | None:
    score = first_number(entry or {}, "score")
    return None if entry is None or score is None else Bar(score, first_number(entry, "stderr"))
