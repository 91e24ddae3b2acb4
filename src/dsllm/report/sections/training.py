"""Sections of the training stages: curves out of metrics.jsonl, and the closing numbers."""

import math
from collections.abc import Sequence

from markupsafe import Markup

from dsllm.report.blocks import Block, Facts, Figures, Note, cell, table
from dsllm.report.charts import Point, Series, line_chart, smooth
from dsllm.report.folders import Run, first_number
from dsllm.report.scales import Axis, format_number

SMOOTH_FROM = 80
MAX_NAMED = 8
_LABELS = {
    "lr": "learning rate",
    "grad_norm": "norm of the gradient",
    "tokens_per_s": "tokens per second",
    "valid_bits_per_byte": "bits per byte",
    "reward_accuracy": "accuracy of the rewards",
}
_NOT_DRAWN = ("step", "n_tokens")


def points(run: Run, x: str, y: str) -> list[Point]:
    """The pairs of two metrics, from the lines that have both."""
    found = []
    for line in run.metrics:
        at, value = first_number(line, x), first_number(line, y)
        if at is not None and value is not None and math.isfinite(at) and math.isfinite(value):
            found.append((float(at), float(value)))
    return found


def pretrain(run: Run) -> list[Block]:
    """Loss, bits per byte, learning rate, speed."""
    facts = _facts(
        run,
        ("n_parameters", "parameters"),
        ("n_tokens", "tokens"),
        ("compute_flops", "FLOPs"),
        ("n_epochs", "epochs"),
        ("valid_bits_per_byte", "bits per byte"),
    )
    curves = [
        _loss(run, "n_tokens"),
        _curve(run, "n_tokens", "valid_bits_per_byte"),
        _curve(run, "n_tokens", "lr"),
        _curve(run, "n_tokens", "tokens_per_s"),
        _curve(run, "n_tokens", "grad_norm"),
    ]
    return [*facts, *_start_and_end(run), *_figures(curves)]


def sft(run: Run) -> list[Block]:
    """Loss over the answers."""
    facts = _facts(
        run,
        ("n_samples", "conversations"),
        ("n_loss_tokens", "tokens learnt"),
        ("n_epochs", "epochs"),
        ("n_steps", "steps"),
        ("loss", "loss at the end"),
    )
    curves = [_loss(run, "step"), _curve(run, "step", "lr"), _curve(run, "step", "grad_norm")]
    return [*facts, *_start_and_end(run), *_figures(curves), *_left_out(run)]


def dpo(run: Run) -> list[Block]:
    """Loss, rewards, margin, accuracy."""
    facts = _facts(
        run,
        ("n_samples", "pairs"),
        ("n_epochs", "epochs"),
        ("n_steps", "steps"),
        ("reward_margin", "margin at the end"),
        ("reward_accuracy", "accuracy at the end"),
    )
    rewards = [
        Series(name, line, colour=index)
        for index, name in enumerate(("chosen", "rejected", "margin"))
        if (line := points(run, "step", f"reward_{name}"))
    ]
    curves = [
        _loss(run, "step", "Loss"),
        _chart(
            f"Rewards of {run.name}",
            _x_axis("step"),
            Axis("reward"),
            rewards,
            "Rewards: β times the log-ratio to the reference",
        ),
        _curve(run, "step", "reward_accuracy"),
        _curve(run, "step", "lr"),
    ]
    return [*facts, *_start_and_end(run), *_figures(curves), *_left_out(run)]


def ladder(runs: Sequence[Run]) -> list[Block]:
    """Several pre-training runs in one picture and one table, by compute."""
    by_compute = sorted(runs, key=lambda run: (run.number("compute_flops") or 0, run.name))
    lines = []
    for index, run in enumerate(by_compute):
        scale = run.number("flops_per_token") or 1
        found = [(n_tokens * scale, loss) for n_tokens, loss in points(run, "n_tokens", "loss")]
        line = smooth(found) if len(found) > SMOOTH_FROM else found
        name = run.name if len(runs) <= MAX_NAMED else ""  # a longer legend would outgrow the picture
        lines.append(Series(name, line, shade=index / max(1, len(runs) - 1)))
    x = Axis("FLOPs spent", is_log=True)
    curve = _chart("Losses of the ladder", x, Axis("loss"), lines, "Training loss against compute")
    measures = ("valid_bits_per_byte", "valid_loss", "loss")
    result = next((name for name in measures if all(run.number(name) for run in runs)), "loss")
    rows = []
    for run in by_compute:
        shown = [run.number(name) for name in ("compute_flops", "flops_per_token", "n_tokens")]
        rest = [run.number(name) for name in ("n_layers", "d_model", "lr_max", "batch_tokens", result)]
        rows.append(
            [run.name, *(cell(n, text=f"{n:.3g}".replace("e+", "e")) if n else None for n in shown), *rest]
        )
    columns = ["run", "C", "M", "D", "layers", "width", "peak lr", "batch", _LABELS.get(result, result)]
    return [*_figures([curve]), table(columns, rows)]


def all_metrics(run: Run) -> list[Block]:
    """Every metric over the steps: for a stage that the page does not know."""
    names = dict.fromkeys(name for line in run.metrics for name in line)
    curves = [_curve(run, "step", name) for name in names if name not in _NOT_DRAWN]
    return _figures(curves)


def _facts(run: Run, *wanted: tuple[str, str]) -> list[Block]:
    items = [(short(n), label) for name, label in wanted if (n := run.number(name)) is not None]
    return [Facts(items)] if items else []


def short(value: float) -> str:
    """Write large numbers in words of the trade: 6.9 B, 2.0 M; from 1e11 on 4.2e11."""
    if abs(value) >= 1e11:
        return f"{value:.3g}".replace("e+", "e")
    for unit, factor in ((" B", 1e9), (" M", 1e6)):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return format_number(value)


def _start_and_end(run: Run) -> list[Block]:
    """A table of everything that the manifest has from the first and from the last step."""
    rows = [
        [_label(name), run.number(f"initial_{name}"), run.number(name)]
        for name in run.counts
        if f"initial_{name}" in run.counts
    ]
    return [table(["", "at the start", "at the end"], rows)] if rows else []


def _label(name: str) -> str:
    known = {"valid_bits_per_byte": "validation, bits per byte", "valid_loss": "validation loss"}
    return known.get(name, name.replace("_", " "))


def _loss(run: Run, x: str, caption: str = "Loss, nats per token") -> tuple[Markup, str] | None:
    raw, valid = points(run, x, "loss"), points(run, x, "valid_loss")
    series = [Series("training", raw)]
    if len(raw) > SMOOTH_FROM:
        series = [Series("", raw, "faint"), Series("training, averaged", smooth(raw))]
    series.append(Series("validation", valid, "dotted-line", 1))
    return _chart(f"Loss of {run.name}", _x_axis(x), Axis("loss"), series, caption)


def _curve(run: Run, x: str, y: str) -> tuple[Markup, str] | None:
    raw = points(run, x, y)
    valid = points(run, x, f"valid_{y}") if not y.startswith("valid_") else []
    series = [Series("training" if valid else "", raw, "dotted-line" if len(raw) <= 30 else "line")]
    if len(raw) > SMOOTH_FROM and (y in ("tokens_per_s", "grad_norm") or y.startswith("reward")):
        series = [Series("", raw, "faint"), Series("averaged", smooth(raw))]
    series.append(Series("validation", valid, "dotted-line", 1))
    label = _LABELS.get(y, y.replace("_", " "))
    axis = Axis(label, has_zero=y in ("lr", "tokens_per_s", "reward_accuracy"))
    caption = label[0].upper() + label[1:]
    return _chart(f"{caption} of {run.name}", _x_axis(x), axis, series, caption)


def _x_axis(x: str) -> Axis:
    return Axis("tokens" if x == "n_tokens" else x, is_tight=True)


def _chart(title: str, x: Axis, y: Axis, series: Sequence[Series], caption: str) -> tuple[Markup, str] | None:
    if not any(one.points for one in series):
        return None
    return line_chart(title, x, y, series), caption


def _figures(curves: Sequence[tuple[Markup, str] | None]) -> list[Block]:
    drawn = [curve for curve in curves if curve is not None]
    return [Figures(drawn)] if drawn else [Note("There is no metrics.jsonl with curves in the folder.")]


def _left_out(run: Run) -> list[Block]:
    said = [
        f"{format_number(n)} {what}"
        for name, what in (
            ("n_cut", "cut to the longest sequence"),
            ("n_dropped_long", "dropped as too long"),
            ("n_dropped_empty", "dropped with nothing to learn"),
            ("n_skipped", "set aside as no records"),
        )
        if (n := run.number(name))
    ]
    return [Note("Records: " + ", ".join(said) + ".")] if said else []
