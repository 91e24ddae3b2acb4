"""Chinchilla's third approach: loss(M, D) = E + A / M^alpha + B / D^beta, fitted to all runs at once.

The error is the Huber loss of ln(loss) with a small threshold, as published, so that a few bad runs do not
bend the surface. A damped Gauss-Newton iteration with Huber's weights runs from a grid of starts, all starts
side by side in one array; the best few are then carried to convergence.

Source: Hoffmann et al. 2022, arXiv:2203.15556, section 3.3 and appendix D.3.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from dsllm.stages.fit_scaling.laws import Array
from dsllm.stages.fit_scaling.published import Parametric
from dsllm.stages.fit_scaling.runs import Run

HUBER_THRESHOLD = 1e-3
MIN_RUNS = 10
"""Twice the parameters: with fewer runs the five numbers are not determined in any useful way."""

_N_FIRST, _N_LAST, _N_KEPT = 60, 3000, 5


@dataclass(frozen=True)
class Surface:
    """The fitted surface, with M in FLOPs per token where `Parametric` counts parameters."""

    law: Parametric
    n_runs: int
    huber: float  # the sum over runs
    rms_error: float  # of ln(loss)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `exponents` are those of M_opt and D_opt in C = M * D."""
        law = self.law
        total = law.alpha + law.beta
        return {
            "A": law.a,
            "B": law.b,
            "E": law.e,
            "alpha": law.alpha,
            "beta": law.beta,
            "exponents": [law.beta / total, law.alpha / total],
            "n_runs": self.n_runs,
            "huber": self.huber,
            "rms_error": self.rms_error,
        }


def fit_surface(runs: Sequence[Run]) -> tuple[Surface | None, str | None]:
    """Fit the surface over model scale M and tokens D, or say why it cannot be fitted."""
    if len(runs) < MIN_RUNS:
        return None, f"{len(runs)} runs, fewer than the {MIN_RUNS} that five parameters need"
    log_m = np.log([run.flops_per_token for run in runs])
    log_d = np.log([run.n_tokens for run in runs])
    log_loss = np.log([run.loss for run in runs])
    for name, values in (("model scale", log_m), ("number of tokens", log_d)):
        if np.ptp(values) < np.log(2):
            return None, f"the {name} varies by less than a factor of 2 over the runs"
    if abs(np.corrcoef(log_m, log_d)[0, 1]) > 0.999:
        return None, "model scale and tokens vary together, so their effects cannot be told apart"
    problem = _Problem(log_m - log_m.mean(), log_d - log_d.mean(), log_loss)
    best, huber = _minimize(problem)
    term_m, term_d, floor, alpha, beta = (float(value) for value in best)
    law = Parametric(
        a=float(np.exp(term_m + alpha * log_m.mean())),
        b=float(np.exp(term_d + beta * log_d.mean())),
        e=float(np.exp(floor)),
        alpha=alpha,
        beta=beta,
    )
    if alpha <= 0 or beta <= 0:
        return None, f"the best fit has alpha {alpha:.3f} and beta {beta:.3f}, which are not both positive"
    residuals, _ = problem.residuals(best[None])
    return Surface(law, len(runs), huber, float(np.sqrt(np.mean(residuals**2)))), None


@dataclass(frozen=True)
class _Problem:
    """The runs, with the logarithms of M and D centred: that takes the correlation out of the parameters."""

    log_m: Array
    log_d: Array
    log_loss: Array

    def residuals(self, points: Array) -> tuple[Array, Array]:
        """Compute ln(predicted / measured loss), (n_starts, n_runs), and its Jacobian.

        `points` is (n_starts, 5): ln of A / M^alpha and of B / D^beta at the centre, ln E, alpha, beta.
        """
        term_m, term_d, floor, alpha, beta = (points[:, i, None] for i in range(5))
        terms = np.stack(
            [
                term_m - alpha * self.log_m,
                term_d - beta * self.log_d,
                np.broadcast_to(floor, (len(points), len(self.log_m))),
            ],
            axis=-1,
        )  # (n_starts, n_runs, 3)
        top = terms.max(axis=-1, keepdims=True)
        shares = np.exp(terms - top)
        total = shares.sum(axis=-1, keepdims=True)
        shares /= total
        predicted = (top + np.log(total))[..., 0]
        jacobian = np.stack(
            [
                shares[..., 0],
                shares[..., 1],
                shares[..., 2],
                -shares[..., 0] * self.log_m,
                -shares[..., 1] * self.log_d,
            ],
            axis=-1,
        )
        return predicted - self.log_loss, jacobian


def _huber(residuals: Array) -> Array:
    size = np.abs(residuals)
    inside = size <= HUBER_THRESHOLD
    outside = HUBER_THRESHOLD * (size - HUBER_THRESHOLD / 2)
    return np.asarray(np.where(inside, residuals**2 / 2, outside).sum(axis=-1))


def _minimize(problem: _Problem) -> tuple[Array, float]:
    """Find the lowest Huber error over the grid of starts."""
    level = float(np.exp(problem.log_loss).min())
    shares = (0.02, 0.15, 0.5)  # of the loss, that each reducible term makes at the centre
    starts = np.array(
        [
            [np.log(m * level), np.log(d * level), np.log(level * floor), alpha, beta]
            for m, d, floor, alpha, beta in product(
                shares, shares, (0.2, 0.6, 0.9), (0.1, 0.3, 0.6, 1.0), (0.1, 0.3, 0.6, 1.0)
            )
        ]
    )
    points, errors = _descend(problem, starts, _N_FIRST)
    kept = np.argsort(errors, kind="stable")[:_N_KEPT]
    points, errors = _descend(problem, points[kept], _N_LAST)
    best = int(errors.argmin())
    return points[best], float(errors[best])


def _descend(problem: _Problem, points: Array, n_steps: int) -> tuple[Array, Array]:
    """Levenberg's damped steps with Huber's weights, each start with a damping of its own."""
    points = points.copy()
    damping = np.full(len(points), 1e-2)
    residuals, jacobian = problem.residuals(points)
    errors = _huber(residuals)
    n_still = np.zeros(len(points), dtype=int)
    for _ in range(n_steps):
        weights = np.minimum(1.0, HUBER_THRESHOLD / np.maximum(np.abs(residuals), 1e-300))
        weighted = jacobian * weights[..., None]
        normal = np.swapaxes(weighted, 1, 2) @ jacobian  # (n_starts, 5, 5)
        gradient = (weighted * residuals[..., None]).sum(axis=1)
        scale = np.einsum("sii->si", normal) + 1e-12
        normal[:, range(5), range(5)] += damping[:, None] * scale
        moved = points - np.linalg.solve(normal, gradient[..., None])[..., 0]
        moved[:, 3:] = np.clip(moved[:, 3:], -1.0, 4.0)  # alpha and beta: far outside all that is known
        new_residuals, new_jacobian = problem.residuals(moved)
        new_errors = _huber(new_residuals)
        is_better = new_errors < errors
        n_still = np.where(is_better & (errors - new_errors > 1e-13 * errors), 0, n_still + 1)
        points[is_better], errors[is_better] = moved[is_better], new_errors[is_better]
        residuals[is_better], jacobian[is_better] = new_residuals[is_better], new_jacobian[is_better]
        damping = np.clip(np.where(is_better, damping / 3, damping * 4), 1e-12, 1e12)
        if np.all(n_still > 30):
            break
    return points, errors
