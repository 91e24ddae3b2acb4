"""Sections of fit-scaling: the laws with their intervals, and the runs they were drawn through."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from dsllm.report.blocks import Block, Facts, Figures, Note, table
from dsllm.report.charts import Series, line_chart
from dsllm.report.folders import Run
from dsllm.report.scales import Axis, format_number, format_percent
from dsllm.report.sections.training import short
from dsllm.stages.fit_scaling.fit import law_of
from dsllm.stages.fit_scaling.isoflop import Parabola
from dsllm.stages.fit_scaling.laws import FlooredLaw, PowerLaw
from dsllm.stages.fit_scaling.predict import FITS, LAW_NAMES, fitted_laws, law_path
from dsllm.stages.fit_scaling.published import CHINCHILLA, DEEPSEEK

_NAMES = {
    "lr_max": "peak learning rate",
    "batch_tokens": "batch, tokens",
    "flops_per_token": "optimal M, FLOPs per token",
    "n_tokens": "optimal D, tokens",
}
_C = Axis("C, FLOPs", is_log=True)


def fits(run: Run) -> list[Block]:
    """Laws beside the published ones, with pictures; what was refused, and why."""
    found = run.read_json(FITS)
    if not found:
        return [Note(f"There is no {FITS} in the folder.", is_warning=True)]
    facts = [(format_number(found.get("n_runs")), "runs"), (format_number(len(found["budgets"])), "budgets")]
    isoflop = found["isoflop"]
    for name, label in (("flops_per_token", "exponent of M"), ("n_tokens", "exponent of D")):
        if law := law_of(found, "isoflop", name):
            facts.append((f"{law.exponent:.3f}", label))
    if isoflop.get("exponent_sum") is not None:
        facts.append((f"{isoflop['exponent_sum']:.3f}", "their sum"))
    blocks: list[Block] = [Facts(facts), _laws(found)]
    if figures := _figures(found):
        blocks.append(Figures(figures))
    if isoflop.get("representations"):
        blocks.append(_representations(isoflop["representations"]))
    return blocks + [Note(warning, is_warning=True) for warning in found.get("warnings", [])]


def plan(run: Run) -> list[Block]:
    """How many runs the ladder has and what they cost."""
    items = [
        (short(n), label)
        for name, label in (
            ("n_runs", "runs"),
            ("n_budgets", "budgets"),
            ("compute_flops", "FLOPs, as M counts them"),
            ("total_flops", "FLOPs with the vocabulary"),
        )
        if (n := run.number(name)) is not None
    ]
    return [Facts(items)]


def _laws(found: dict[str, Any]) -> Block:
    rows = []
    for name in LAW_NAMES:
        values: Any = found
        for key in law_path(name):
            values = values.get(key) or {}
        law = values.get("law") or {}
        interval, held_out = law.get("exponent_interval"), law.get("held_out")
        rows.append(
            [
                _NAMES[name],
                _law(law_of(found, *law_path(name))),
                f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "–",
                _error(held_out),
                _law(getattr(DEEPSEEK, name)),
                _law(getattr(CHINCHILLA, name)),
            ]
        )
    columns = ["", "these runs", "exponent within", "error, largest left out", DEEPSEEK.name, CHINCHILLA.name]
    return table(columns, rows)


def _law(law: PowerLaw | None) -> str:
    return str(law) if law else "–"


def _error(held_out: dict[str, float] | None) -> str:
    if not held_out:
        return "–"
    share = held_out["error_frac"]
    return ("+" if share > 0 else "") + format_percent(share, decimals=2)


def _figures(found: dict[str, Any]) -> list[tuple[Markup, str]]:
    figures = []
    profiles = found["isoflop"]["profiles"]
    if profiles:
        figures.append(
            (
                _profiles(profiles, found["metric"]),
                f"{found['metric'].replace('_', ' ').capitalize()} by model scale, a curve for each budget",
            )
        )
    for name in LAW_NAMES:
        optima = _optima(found, name)
        if optima:
            label = _NAMES[name]
            figures.append((_against_compute(found, name, optima), label[0].upper() + label[1:]))
    if law := (found["isoflop"].get("loss") or {}).get("law"):
        figures.append((_loss(found, law), "The lowest loss of each budget"))
    return figures


def _profiles(profiles: Sequence[dict[str, Any]], metric: str) -> Markup:
    lowest = [min(point["loss"] for point in profile["points"]) for profile in profiles]
    ceiling = max(lowest) + 0.75 * (max(lowest) - 0.9 * min(lowest))  # far above, the points say nothing
    series = []
    for index, profile in enumerate(profiles):
        shade = index / max(1, len(profiles) - 1)
        points = [(point["flops_per_token"], point["loss"]) for point in profile["points"]]
        shown = [point for point in points if point[1] <= ceiling]
        label = f"{profile['compute_flops']:.2g}".replace("e+", "e") + " FLOPs"
        series.append(Series(label, shown, "dots", shade=shade))
        if optimum := profile["optimum"]:
            parabola = Parabola(optimum["flops_per_token"], optimum["loss"], optimum["curvature"])
            ends = max(points[0][0], parabola.x_opt / 2.5), min(points[-1][0], parabola.x_opt * 2.5)
            curve = [(float(x), parabola(float(x))) for x in np.geomspace(*ends, 40)]
            series.append(Series("", curve, "line", shade=shade))
    return line_chart("IsoFLOP profiles", Axis("M, FLOPs per token", is_log=True), _metric(metric), series)


def _metric(name: str) -> Axis:
    return Axis(name.replace("_", " "))


def _optima(found: dict[str, Any], name: str) -> list[tuple[float, float]]:
    if name in ("flops_per_token", "n_tokens"):
        profiles = [profile for profile in found["isoflop"]["profiles"] if profile["optimum"]]
        return [(profile["compute_flops"], profile["optimum"][name]) for profile in profiles]
    return [(band["compute_flops"], band["centre"]) for band in found[name]["bands"] if not band["reason"]]


def _against_compute(found: dict[str, Any], name: str, optima: Sequence[tuple[float, float]]) -> Markup:
    compute = [c for c, _ in optima]
    x = [float(c) for c in np.geomspace(min(compute) / 2, max(compute) * 10, 20)]
    series = [Series("optima", optima, "dots")]
    own = getattr(fitted_laws(found, ""), name)
    for law, label, look, colour in (
        (own, "fitted", "line", 0),
        (getattr(DEEPSEEK, name), DEEPSEEK.name, "dashed", 1),
        (getattr(CHINCHILLA, name), CHINCHILLA.name, "dashed", 2),
    ):
        if law:
            series.append(Series(label, [(c, law(c)) for c in x], look, colour))  # type: ignore[arg-type]
    return line_chart(_NAMES[name], _C, Axis(_NAMES[name], is_log=True), series)


def _loss(found: dict[str, Any], law: dict[str, Any]) -> Markup:
    profiles = [profile for profile in found["isoflop"]["profiles"] if profile["optimum"]]
    points = [(profile["compute_flops"], profile["optimum"]["loss"]) for profile in profiles]
    curve = FlooredLaw(law["floor"], PowerLaw(law["coefficient"], law["exponent"]))
    x = [float(c) for c in np.geomspace(points[0][0] / 2, points[-1][0] * 10, 40)]
    series = [Series("lowest loss", points, "dots"), Series("fitted", [(c, curve(c)) for c in x])]
    if held_out := law.get("held_out"):
        predicted = [(held_out["compute_flops"], held_out["predicted"])]
        series.append(Series("foretold by the smaller budgets", predicted, "dots", 1))
    return line_chart("Loss against compute", _C, _metric(found["metric"]), series)


def _representations(found: dict[str, Any]) -> Block:
    rows = []
    for name, values in found.items():
        law, loss = values.get("law"), values.get("loss") or {}
        held_out = loss.get("held_out")
        rows.append(
            [
                name,
                _law(PowerLaw(law["coefficient"], law["exponent"])) if law else "–",
                _error(held_out),
            ]
        )
    return table(
        ["model scale", "optimum", "error of the loss, largest budget left out"],
        rows,
        caption="The three ways to count a model's size (DeepSeek LLM, section 3.2 and appendix A.2).",
    )
