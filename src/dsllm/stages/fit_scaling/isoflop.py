"""IsoFLOP profiles: at one compute budget, the model scale with the lowest loss, by a parabola.

Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.2; used with the model scale M (non-embedding FLOPs
per token) by DeepSeek LLM, arXiv:2401.02954, section 3.2.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsllm.stages.fit_scaling.laws import Array
from dsllm.stages.fit_scaling.runs import Budget, Run

MIN_SCALES = 3


@dataclass(frozen=True)
class Parabola:
    """loss = lowest + curvature * (ln x - ln x_opt)^2."""

    x_opt: float
    lowest: float
    curvature: float

    def __call__(self, x: float) -> float:
        """The loss at `x`."""
        return self.lowest + self.curvature * (math.log(x) - math.log(self.x_opt)) ** 2


@dataclass(frozen=True)
class Profile:
    """One budget: its runs by model scale, and where the loss is lowest or why that cannot be said."""

    compute_flops: float
    runs: tuple[Run, ...]  # the best of each scale, by scale
    by_flops: Parabola | None  # over M
    by_tokens: Parabola | None  # over D
    reason: str | None  # why there is no optimum

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        optimum = None
        if self.by_flops and self.by_tokens:
            optimum = {
                "flops_per_token": self.by_flops.x_opt,
                "n_tokens": self.by_tokens.x_opt,
                "loss": self.by_flops.lowest,
                "curvature": self.by_flops.curvature,
            }
        return {
            "compute_flops": self.compute_flops,
            "points": [
                {"flops_per_token": run.flops_per_token, "n_tokens": run.n_tokens, "loss": run.loss}
                for run in self.runs
            ],
            "optimum": optimum,
            "reason": self.reason,
        }


def best_of_scales(budget: Budget) -> tuple[Run, ...]:
    """Take the run with the lowest loss of each model scale, by scale."""
    best: dict[float, Run] = {}
    for run in budget.runs:
        scale = float(f"{run.flops_per_token:.6g}")
        if scale not in best or run.loss < best[scale].loss:
            best[scale] = run
    return tuple(best[scale] for scale in sorted(best))


def fit_profile(budget: Budget, n_beside: int) -> Profile:
    """Fit the parabola of one budget.

    Args:
        budget: its runs; of several with the same scale the best is taken.
        n_beside: how many scales on each side of the lowest go into the parabola, 0 for all: far from the
            minimum the loss is no parabola, and one side pulls the vertex.
    """
    runs = best_of_scales(budget)
    flops = np.array([run.flops_per_token for run in runs])
    tokens = np.array([run.n_tokens for run in runs])
    losses = np.array([run.loss for run in runs])
    by_flops, reason = fit_parabola(flops, losses, n_beside)
    by_tokens, tokens_reason = fit_parabola(tokens, losses, n_beside, name="tokens")
    reason = reason or tokens_reason
    if reason:
        return Profile(budget.compute_flops, runs, None, None, reason)
    return Profile(budget.compute_flops, runs, by_flops, by_tokens, None)


def fit_parabola(
    x: Array, losses: Array, n_beside: int, name: str = "model scale"
) -> tuple[Parabola | None, str | None]:
    """Fit loss against ln x around the lowest loss, or say why there is no interior minimum."""
    order = np.argsort(x, kind="stable")
    x, losses = x[order], losses[order]
    if len(x) < MIN_SCALES:
        return None, f"{len(x)} of the {MIN_SCALES} different model scales that a parabola needs"
    lowest = int(losses.argmin())
    if lowest in (0, len(x) - 1):
        end = "smallest" if lowest == 0 else "largest"
        return None, f"the loss is lowest at the {end} {name} tried, {x[lowest]:.4g}: no interior minimum"
    near = slice(max(0, lowest - n_beside), lowest + n_beside + 1) if n_beside else slice(None)
    centre = math.log(x[lowest])
    curvature, slope, constant = np.polyfit(np.log(x[near]) - centre, losses[near], 2)
    if curvature <= 0:
        return None, f"the loss does not curve upwards around its lowest point, {x[lowest]:.4g}"
    vertex = -slope / (2 * curvature)
    if not math.log(x[0]) < vertex + centre < math.log(x[-1]):
        return None, f"the vertex, {math.exp(vertex + centre):.4g}, lies outside the {name}s tried"
    lowest_loss = float(constant - slope**2 / (4 * curvature))
    return Parabola(math.exp(vertex + centre), lowest_loss, float(curvature)), None


def fit_profiles(budgets: Sequence[Budget], n_beside: int) -> list[Profile]:
    """Fit every budget that tried more than one model scale: the others are no IsoFLOP experiment."""
    profiles = [fit_profile(budget, n_beside) for budget in budgets]
    return [profile for profile in profiles if len(profile.runs) > 1]
