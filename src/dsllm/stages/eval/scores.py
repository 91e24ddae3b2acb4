"""Scores: of one item out of what the model answered, then of a task with its standard error."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from dsllm.stages.eval.answers import extract, is_match
from dsllm.stages.eval.questions import Question
from dsllm.stages.eval.task import Task

Sample = dict[str, Any]


def score_choice(
    task: Task,
    question: Question,
    logps: Sequence[float],
    n_tokens: Sequence[int],
    unconditional: Sequence[float] | None,
) -> Sample:
    """Score a multiple-choice item: right where the likeliest choice is the right one; ties go to the first.

    Args:
        task: says which normalisation gives its score; the others are reported beside it.
        question: the item.
        logps: log-likelihood of each continuation after its context, in nats.
        n_tokens: tokens of each continuation.
        unconditional: log-likelihood of each continuation without the question, where it was computed.

    Source: Brown et al. 2020, arXiv:2005.14165, section 2.4 (per token, unconditional).
    """
    by_name: dict[str, Sequence[float]] = {
        "accuracy": logps,
        "accuracy_characters": _divide(logps, [len(choice) for choice in question.choices]),
        "accuracy_bytes": _divide(logps, [len(choice.encode()) for choice in question.choices]),
        "accuracy_tokens": _divide(logps, n_tokens),
    }
    if unconditional is not None:
        by_name["accuracy_unconditional"] = [a - b for a, b in zip(logps, unconditional, strict=True)]
    picked = {name: _argmax(values) for name, values in by_name.items()}
    sample = _opening(question) | {
        "context": question.pairs[0][0],
        "continuations": [continuation for _, continuation in question.pairs],
        "log_likelihoods": list(logps),
        "n_tokens": list(n_tokens),
        "answer": question.right,
        "picked": picked[score_name(task)],
        "scores": {name: float(index == question.right) for name, index in picked.items()},
    }
    if len({context for context, _ in question.pairs}) > 1:
        sample["contexts"] = [context for context, _ in question.pairs]
    if unconditional is not None:
        sample["unconditional"] = list(unconditional)
    return sample


def score_continuation(question: Question, logp: float, is_greedy: bool) -> Sample:
    """Score the one continuation of an item: right where greedy decoding would write it."""
    context, continuation = question.pairs[0]
    return _opening(question) | {
        "context": context,
        "continuation": continuation,
        "log_likelihood": logp,
        "scores": {"accuracy": float(is_greedy)},
    }


def score_generation(task: Task, question: Question, text: str, is_finished: bool) -> Sample:
    """Score a generation by every extraction of the task; without one the stripped text is the answer."""
    found = {f"exact_match_{one.name}": extract(text, one) for one in task.extractions}
    found = found or {"exact_match": text.strip()}
    scores = {
        name: float(is_match(answer, question.accepted, task.settings)) for name, answer in found.items()
    }
    return _opening(question) | {
        "context": question.pairs[0][0],
        "generation": text,
        "is_finished": is_finished,
        "accepted": list(question.accepted),
        "extracted": found,
        "scores": scores | {"finished": float(is_finished)},
    }


def score_document(question: Question, logp: float, n_tokens: int) -> Sample:
    """Record a document's log-likelihood and size."""
    return _opening(question) | {
        "log_likelihood": logp,
        "n_tokens": n_tokens,
        "n_bytes": len(question.document.encode()),
        "scores": {},
    }


def score_name(task: Task) -> str:
    """Name the score that stands for the task."""
    kind, normalise = task.settings.kind, task.settings.normalise
    if kind == "choice":
        return "accuracy" if normalise == "none" else f"accuracy_{normalise}"
    if kind == "generation":
        return f"exact_match_{task.extractions[0].name}" if task.extractions else "exact_match"
    return "accuracy" if kind == "continuation" else "bits_per_byte"


def summarise(task: Task, samples: Sequence[Sample]) -> dict[str, Any]:
    """Make a task's entry in results.json.

    Returns:
        `score` with its name (`metric`), `stderr` (None where one item cannot tell) and `n`; under `scores`
        every score so; under `subjects` the score of each, where the task has any.
    """
    scores = _all_scores(task, samples)
    name = score_name(task)
    summary: dict[str, Any] = {
        "task": task.name,
        "kind": task.settings.kind,
        "metric": name,
        "score": scores[name]["value"],
        "stderr": scores[name]["stderr"],
        "n": len(samples),
        "n_shots": task.settings.n_shots,
        "scores": scores,
    }
    subjects = sorted({sample["subject"] for sample in samples} - {""})
    if subjects:
        summary["subjects"] = {subject: _subject(task, samples, subject) for subject in subjects}
    return summary


def _subject(task: Task, samples: Sequence[Sample], subject: str) -> dict[str, Any]:
    chosen = [sample for sample in samples if sample["subject"] == subject]
    return _all_scores(task, chosen)[score_name(task)] | {"n": len(chosen)}


def _all_scores(task: Task, samples: Sequence[Sample]) -> dict[str, dict[str, float | None]]:
    names = list(samples[0]["scores"])
    scores = {name: mean([sample["scores"][name] for sample in samples]) for name in names}
    if task.settings.kind == "documents":
        scores |= _bits_per_byte(samples)
    if task.settings.kind == "continuation":
        scores["perplexity"] = _transform(mean([-sample["log_likelihood"] for sample in samples]), _exp)
    return scores


def mean(values: Sequence[float]) -> dict[str, float | None]:
    """Average, with the standard error of the average: the sample's deviation (n - 1) over the root of n."""
    n, average = len(values), math.fsum(values) / len(values)
    if n == 1:
        return {"value": average, "stderr": None}
    squares = math.fsum((value - average) ** 2 for value in values)
    return {"value": average, "stderr": math.sqrt(squares / (n - 1) / n)}


def _bits_per_byte(samples: Sequence[Sample]) -> dict[str, dict[str, float | None]]:
    """Bits over bytes, both summed over documents; the error of a ratio, by its linear part.

    Source: Cochran 1977, "Sampling Techniques", equation 6.13.
    """
    bits = [-sample["log_likelihood"] / math.log(2) for sample in samples]
    sizes = [sample["n_bytes"] for sample in samples]
    n, n_bytes, n_tokens = len(samples), sum(sizes), sum(sample["n_tokens"] for sample in samples)
    ratio = math.fsum(bits) / n_bytes
    stderr = None
    if n > 1:
        squares = math.fsum((bit - ratio * size) ** 2 for bit, size in zip(bits, sizes, strict=True))
        stderr = math.sqrt(n / (n - 1) * squares) / n_bytes
    score: dict[str, float | None] = {"value": ratio, "stderr": stderr}
    per_token = math.fsum(bits) * math.log(2) / n_tokens
    return {
        "bits_per_byte": score,
        "byte_perplexity": _transform(score, lambda bits: 2**bits),
        "nats_per_token": {"value": per_token, "stderr": None},
    }


def _transform(score: dict[str, float | None], by: Callable[[float], float]) -> dict[str, float | None]:
    """Carry a score over to another scale; the error does not come along, since the scale bends."""
    assert score["value"] is not None
    return {"value": by(score["value"]), "stderr": None}


def _exp(nats: float) -> float:
    return math.exp(min(nats, 700.0))  # beyond it a float overflows


def _opening(question: Question) -> Sample:
    return {"item": question.index, "subject": question.subject}


def _divide(values: Iterable[float], by: Iterable[int]) -> list[float]:
    return [value / max(1, n) for value, n in zip(values, by, strict=True)]


def _argmax(values: Sequence[float]) -> int:
    return max(range(len(values)), key=values.__getitem__)
