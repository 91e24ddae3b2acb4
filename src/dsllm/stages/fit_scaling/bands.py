"""Near-optimal learning rates and batches of each budget: those whose loss is within 0.25 % of the lowest.

Source: DeepSeek LLM, arXiv:2401.02954, section 3.1. The paper does not say how its line was drawn through the
near-optimal runs; here each budget counts once, with the geometric mean of its band, so that a budget with a
finer grid does not weigh more.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dsllm.stages.fit_scaling.runs import Budget, Run

MIN_VALUES = 3


@dataclass(frozen=True)
class Band:
    """One budget's search over one setting."""

    compute_flops: float
    points: tuple[tuple[float, float], ...]  # (value, loss) of every run
    n_near: int
    low: float  # ends of the near-optimal band
    high: float
    centre: float  # geometric mean of the band
    reason: str | None  # why the budget does not count
    warning: str | None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "compute_flops": self.compute_flops,
            "points": [list(point) for point in self.points],
            "n_near": self.n_near,
            "low": self.low,
            "high": self.high,
            "centre": self.centre,
            "reason": self.reason,
        }


def find_bands(
    budgets: Sequence[Budget], value_of: Callable[[Run], float | None], near_optimal_frac: float
) -> list[Band]:
    """Find the band of every budget that tried more than one value: the others did not search."""
    bands = []
    for budget in budgets:
        points = [(value, run.loss) for run in budget.runs if (value := value_of(run)) is not None]
        if len({value for value, _ in points}) > 1:
            bands.append(_find_band(budget.compute_flops, points, near_optimal_frac))
    return bands


def _find_band(compute_flops: float, points: list[tuple[float, float]], near_optimal_frac: float) -> Band:
    tried = sorted({value for value, _ in points})
    best_value, best_loss = min(points, key=lambda point: point[1])
    near = [value for value, loss in points if loss <= best_loss * (1 + near_optimal_frac)]
    low, high = min(near), max(near)
    reason = warning = None
    if len(tried) < MIN_VALUES:
        reason = f"{len(tried)} of the {MIN_VALUES} different values that a search needs"
    elif best_value in (tried[0], tried[-1]):
        end = "lowest" if best_value == tried[0] else "highest"
        reason = f"the best run has the {end} value tried, {best_value:.4g}: the optimum may lie beyond it"
    elif low == tried[0] or high == tried[-1]:
        end, value = ("lowest", low) if low == tried[0] else ("highest", high)
        warning = (
            f"the near-optimal band reaches the {end} value tried, {value:.4g}: its centre is drawn inwards"
        )
    centre = math.exp(math.fsum(map(math.log, near)) / len(near))
    return Band(compute_flops, tuple(points), len(near), low, high, centre, reason, warning)
