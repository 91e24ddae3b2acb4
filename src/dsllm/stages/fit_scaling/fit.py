"""Everything that `fit-scaling fit` says about a set of runs, as one plain-JSON value.

What cannot be said is None beside a `reason`, and each reason is among the `warnings`: a fit that looks
good because its bad budgets were left out silently would be worse than none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dsllm.stages.fit_scaling.bands import Band, find_bands
from dsllm.stages.fit_scaling.config import FitConfig
from dsllm.stages.fit_scaling.isoflop import Parabola, Profile, best_of_scales, fit_parabola, fit_profiles
from dsllm.stages.fit_scaling.laws import (
    MIN_POINTS_FOR_INTERVAL,
    Bootstrap,
    PowerLaw,
    fit_floored_law,
    fit_power_law,
    fit_with_interval,
)
from dsllm.stages.fit_scaling.parametric import fit_surface
from dsllm.stages.fit_scaling.runs import Budget, Run, group_by_budget
from dsllm.stages.fit_scaling.shapes import SCALES, Scale, make_model

FORMAT = 1
MIN_BUDGETS_FOR_FLOOR = 5
"""A floor, a base and an exponent through four losses leave one degree of freedom: too few."""


@dataclass
class _Analysis:
    config: FitConfig
    warnings: list[str] = field(default_factory=list)

    def law(self, name: str, x: Sequence[float], y: Sequence[float]) -> dict[str, Any] | None:
        """Fit a power law in C, or None with a warning where the points do not give one."""
        if len(set(x)) < 2:
            self.warnings.append(f"{name}: no law from {len(set(x))} budgets, two are needed")
            return None
        if len(x) < MIN_POINTS_FOR_INTERVAL:
            self.warnings.append(
                f"{name}: no interval from {len(x)} budgets, {MIN_POINTS_FOR_INTERVAL} are needed"
            )
        bootstrap = Bootstrap(self.config.n_draws, self.config.level, self.config.seed)
        return {**fit_with_interval(x, y, bootstrap).to_dict(), "held_out": held_out(x, y, fit_power_law)}


def analyse(runs: Sequence[Run], metric: str, config: FitConfig) -> dict[str, Any]:
    """Fit all laws that the runs allow."""
    analysis = _Analysis(config)
    budgets = group_by_budget(runs, config.budget_frac)
    profiles = fit_profiles(budgets, config.n_beside)
    surface, surface_reason = fit_surface([run for budget in budgets for run in best_of_scales(budget)])
    result = {
        "format": FORMAT,
        "metric": metric,
        "n_runs": len(runs),
        "budgets": [
            {"compute_flops": budget.compute_flops, "n_runs": len(budget.runs)} for budget in budgets
        ],
        "lr_max": _hyperparameter(analysis, "lr_max", budgets, lambda run: run.lr_max),
        "batch_tokens": _hyperparameter(analysis, "batch_tokens", budgets, lambda run: run.batch_tokens),
        "isoflop": _isoflop(analysis, profiles),
        "surface": {**surface.to_dict(), "reason": None} if surface else {"reason": surface_reason},
    }
    return {**result, "warnings": analysis.warnings}


def law_of(result: dict[str, Any], *path: str) -> PowerLaw | None:
    """Take a law out of what `analyse` returned: `law_of(fits, "isoflop", "flops_per_token")`."""
    value: Any = result
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    law = value.get("law") if isinstance(value, dict) else None
    return PowerLaw(law["coefficient"], law["exponent"]) if law else None


def held_out(
    x: Sequence[float],
    y: Sequence[float],
    fit: Callable[[list[float], list[float]], Callable[[float], float]],
) -> dict[str, float] | None:
    """Fit without the largest x, and say how far the prediction there is from what was found.

    None when fewer than three points would leave no two to fit.
    """
    largest = max(x)
    kept = [index for index, value in enumerate(x) if value < largest]
    if len(kept) < 2 or len({x[index] for index in kept}) < 2:
        return None
    actual = y[list(x).index(largest)]
    predicted = fit([x[index] for index in kept], [y[index] for index in kept])(largest)
    return {
        "compute_flops": largest,
        "actual": actual,
        "predicted": predicted,
        "error_frac": predicted / actual - 1,
    }


def _hyperparameter(
    analysis: _Analysis, name: str, budgets: Sequence[Budget], value_of: Callable[[Run], float | None]
) -> dict[str, Any]:
    bands = find_bands(budgets, value_of, analysis.config.near_optimal_frac)
    if not bands:
        return {"law": None, "bands": [], "reason": f"no budget tried more than one {name}"}
    for band in bands:
        for note in filter(None, (band.reason, band.warning)):
            analysis.warnings.append(f"{name} at {band.compute_flops:.3g} FLOPs: {note}")
    usable = [band for band in bands if band.reason is None]
    law = analysis.law(name, [band.compute_flops for band in usable], [band.centre for band in usable])
    return {"law": law, "bands": list(map(Band.to_dict, bands)), "reason": _reason(law, len(usable))}


def _reason(law: dict[str, Any] | None, n_usable: int) -> str | None:
    return None if law else f"{n_usable} of the 2 budgets that a law needs have an optimum"


def _isoflop(analysis: _Analysis, profiles: Sequence[Profile]) -> dict[str, Any]:
    if not profiles:
        return {"profiles": [], "reason": "no budget tried more than one model scale"}
    for profile in profiles:
        if profile.reason:
            analysis.warnings.append(f"IsoFLOP at {profile.compute_flops:.3g} FLOPs: {profile.reason}")
    optima = [
        (profile.compute_flops, profile.by_flops, profile.by_tokens)
        for profile in profiles
        if profile.by_flops and profile.by_tokens
    ]
    compute = [c for c, _, _ in optima]
    flops = analysis.law("flops_per_token", compute, [by_flops.x_opt for _, by_flops, _ in optima])
    tokens = analysis.law("n_tokens", compute, [by_tokens.x_opt for _, _, by_tokens in optima])
    return {
        "profiles": [profile.to_dict() for profile in profiles],
        "flops_per_token": {"law": flops},
        "n_tokens": {"law": tokens},
        "exponent_sum": flops["exponent"] + tokens["exponent"] if flops and tokens else None,
        "loss": _loss_law(compute, [by_flops.lowest for _, by_flops, _ in optima]),
        "representations": _representations(profiles, analysis.config.n_beside),
        "reason": _reason(flops, len(optima)),
    }


def _loss_law(compute: Sequence[float], losses: Sequence[float]) -> dict[str, Any]:
    """How the lowest loss falls with compute, with a floor where there are enough budgets."""
    if len(set(compute)) < 2:
        return {"law": None}
    with_floor = len(compute) >= MIN_BUDGETS_FOR_FLOOR
    law = fit_floored_law(compute, losses, with_floor=with_floor)
    with_floor = len(compute) > MIN_BUDGETS_FOR_FLOOR  # one budget fewer
    error = held_out(compute, losses, lambda x, y: fit_floored_law(x, y, with_floor=with_floor))
    return {"law": {**law.to_dict(), "n_points": len(compute), "held_out": error}}


def _representations(profiles: Sequence[Profile], n_beside: int) -> dict[str, Any] | None:
    """The paper's three ways to say how large a model is, where the runs tell their shape.

    For each: the optimal scale x_opt(C), and how well the lowest losses of the smaller budgets foretell that
    of the largest when compute is counted as x * D, the comparison of the paper's appendix A.2.
    """
    usable = [profile for profile in profiles if profile.by_tokens and any(run.shape for run in profile.runs)]
    if not usable:
        return None
    result: dict[str, Any] = {}
    for name, scale in SCALES.items():
        found = []
        for profile in usable:
            parabola = _over_scale(profile, scale, n_beside)
            if parabola and profile.by_tokens:
                found.append((profile.compute_flops, parabola, profile.by_tokens.x_opt))
        if len(found) < 2:
            result[name] = {"law": None, "loss": None}
            continue
        law = fit_power_law([c for c, _, _ in found], [parabola.x_opt for _, parabola, _ in found])
        counted = [parabola.x_opt * n_tokens for _, parabola, n_tokens in found]
        result[name] = {
            "law": {"coefficient": law.coefficient, "exponent": law.exponent, "n_points": len(found)},
            "loss": _loss_law(counted, [parabola.lowest for _, parabola, _ in found])["law"],
        }
    return result


def _over_scale(profile: Profile, scale: Scale, n_beside: int) -> Parabola | None:
    shaped = [(scale(make_model(*run.shape)), run.loss) for run in profile.runs if run.shape]
    x, losses = np.array(shaped, dtype=np.float64).T
    return fit_parabola(x, losses, n_beside)[0]
