"""Shares proposed out of the losses of small runs on other mixtures.

Each domain's loss is fitted as L(r) = c + exp(t . r), r the shares of the sources (Ye et al. 2024, "Data
Mixing Laws", arXiv:2403.16952, with their k inside of the exponent, which the shares' sum of one allows).
Given c the rest is linear in log(L - c), so c is searched for and the rest solved. A sum of such losses is
convex in r: its lowest point is found by mirror descent. No share leaves the range that the runs had: the law
says little about what lies outside.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from dsllm.errors import ConfigError, InputError

Floats = NDArray[np.float64]

_N_FLOORS = 400  # values tried for c, from just below the lowest loss to zero
_N_STEPS = 4000
_FORM = 'write a run a line: {"weights": {"en": 0.6, "zh": 0.4}, "losses": {"en": 2.91, "zh": 3.40}}'


@dataclass(frozen=True)
class Runs:
    """Small runs: weights (n_runs, n_sources), each row adding up to one; losses (n_runs, n_losses)."""

    sources: tuple[str, ...]
    loss_names: tuple[str, ...]
    weights: Floats
    losses: Floats


@dataclass(frozen=True)
class MixingLaw:
    """L_i(r) = floors[i] + exp(exponents[i] . r): floors (n_losses,), exponents (n_losses, n_sources)."""

    floors: Floats
    exponents: Floats

    def losses(self, shares: Floats) -> Floats:
        """Predict the losses (n_losses,) at shares (n_sources,)."""
        found: Floats = self.floors + np.exp(self.exponents @ shares)
        return found


@dataclass(frozen=True)
class Proposal:
    """The shares, in the order of the sources asked for, and how far the law can be trusted.

    `losses` has a row for each: the lowest of all runs, what the law predicts at the shares, and by how much
    it is wrong, in the mean, about a run that it has not seen.
    """

    shares: list[float]
    losses: dict[str, dict[str, float]]


def read_runs(paths: Sequence[str]) -> Runs:
    """Read runs from JSON Lines.

    Raises:
        InputError: no such file, or a line of another form, or runs that differ in their sources or losses.
    """
    rows: list[tuple[str, dict[str, float], dict[str, float]]] = []
    for path in paths:
        if not Path(path).is_file():
            raise InputError(f"{path}: no such file", hint=f"give --from-losses a file; {_FORM}")
        for number, line in enumerate(Path(path).read_bytes().splitlines(), start=1):
            if line.strip():
                rows.append((f"{path}, line {number}", *_read_run(line, f"{path}, line {number}")))
    if not rows:
        raise InputError(f"{', '.join(paths)}: no run in it", hint=_FORM)
    _, weights, losses = rows[0]
    for place, other_weights, other_losses in rows[1:]:
        for kind, first, other in (("weights", weights, other_weights), ("losses", losses, other_losses)):
            if set(first) != set(other):
                raise InputError(
                    f"{place}: {kind} of {', '.join(sorted(other))}, but {rows[0][0]} has "
                    f"{', '.join(sorted(first))}",
                    hint="give every run the same names; a source that a run did without has weight 0",
                )
    table = np.array([[row[name] for name in weights] for _, row, _ in rows], np.float64)
    return Runs(
        tuple(weights),
        tuple(losses),
        table / table.sum(axis=1, keepdims=True),
        np.array([[row[name] for name in losses] for _, _, row in rows], np.float64),
    )


def _read_run(line: bytes, place: str) -> tuple[dict[str, float], dict[str, float]]:
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{place}: not JSON: {error}", hint=_FORM) from None
    found = []
    for kind in ("weights", "losses"):
        numbers = values.get(kind) if isinstance(values, dict) else None
        if not isinstance(numbers, dict) or not numbers or not all(map(_is_positive, numbers.values())):
            raise InputError(f"{place}: {kind} is {numbers!r}, not names with numbers from 0 on", hint=_FORM)
        if not any(numbers.values()):
            raise InputError(f"{place}: all {kind} are zero", hint=_FORM)
        found.append(numbers)
    return found[0], found[1]


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def propose(
    runs: Runs, names: Sequence[str], *, target: Mapping[str, float], caps: Sequence[float]
) -> Proposal:
    """Find the shares of `names` at which the losses, weighed by `target`, are lowest.

    Args:
        runs: what was measured.
        names: the sources to mix.
        target: the weight of each loss; empty: all count the same.
        caps: the greatest share that each source can have, in the order of `names`.

    Raises:
        ConfigError: sources or losses that the runs do not know, or too few runs.
    """
    _check(runs, names, target)
    weights = runs.weights[:, [runs.sources.index(name) for name in names]]
    law = fit_law(weights, runs.losses)
    wanted = np.array([target.get(name, 0.0) if target else 1.0 for name in runs.loss_names])
    shares = lowest_point(
        law,
        wanted / wanted.sum(),
        low=weights.min(axis=0),
        high=np.maximum(weights.min(axis=0), np.minimum(weights.max(axis=0), caps)),
    )
    predicted, errors = law.losses(shares), _leave_one_out(weights, runs.losses)
    losses = {
        name: {
            "lowest": round(float(runs.losses[:, i].min()), 6),
            "predicted": round(float(predicted[i]), 6),
            "error": round(float(errors[i]), 6),
        }
        for i, name in enumerate(runs.loss_names)
    }
    return Proposal([round(share, 6) for share in shares.tolist()], losses)


def _check(runs: Runs, names: Sequence[str], target: Mapping[str, float]) -> None:
    if set(names) != set(runs.sources):
        raise ConfigError(
            f"the runs mixed {', '.join(sorted(runs.sources))}, "
            f"but the inputs have {', '.join(sorted(names))}",
            hint="give the sources the names that the runs have: NAME=INPUT",
        )
    if unknown := set(target) - set(runs.loss_names):
        raise ConfigError(
            f"target: no loss {min(unknown)!r}", hint=f"the losses are: {', '.join(runs.loss_names)}"
        )
    n_runs, n_needed = len(runs.weights), len(names) + 2
    if n_runs < n_needed:
        raise ConfigError(
            f"{n_runs} runs for {len(names)} sources: the law has {len(names) + 1} numbers a loss",
            hint=f"measure at least {n_needed} mixtures, better twice as many",
        )
    if (rank := int(np.linalg.matrix_rank(runs.weights, tol=1e-3))) < len(names):
        raise ConfigError(
            f"the runs' mixtures differ in {rank} of {len(names)} directions only",
            hint="add runs in which other sources grow or shrink",
        )


def fit_law(weights: Floats, losses: Floats) -> MixingLaw:
    """Fit the law to weights (n_runs, n_sources) and losses (n_runs, n_losses), by least squares."""
    floors, exponents = [], []
    for column in losses.T:
        lowest = float(column.min())
        candidates = [lowest - max(1e-9, lowest * part) for part in np.geomspace(1e-4, 1.0, _N_FLOORS)]
        fits = [(floor, _solve(weights, column, floor)) for floor in candidates]
        floor, exponent = min(fits, key=lambda fit: _residual(weights, column, *fit))
        floors.append(floor)
        exponents.append(exponent)
    return MixingLaw(np.array(floors), np.array(exponents))


def _solve(weights: Floats, losses: Floats, floor: float) -> Floats:
    """Least squares of log(L - c), each run weighed so that errors count as they do in L."""
    above = losses - floor
    found = np.linalg.lstsq(weights * above[:, None], np.log(above) * above, rcond=None)
    return np.asarray(found[0], np.float64)


def _residual(weights: Floats, losses: Floats, floor: float, exponent: Floats) -> float:
    return float(((floor + np.exp(weights @ exponent) - losses) ** 2).sum())


def _leave_one_out(weights: Floats, losses: Floats) -> Floats:
    """The mean absolute error (n_losses,) about each run by a law fitted to the others."""
    errors = np.zeros(losses.shape[1])
    for run in range(len(weights)):
        others = np.arange(len(weights)) != run
        errors += np.abs(fit_law(weights[others], losses[others]).losses(weights[run]) - losses[run])
    errors /= len(weights)
    return errors


def lowest_point(law: MixingLaw, target: Floats, *, low: Floats, high: Floats) -> Floats:
    """Minimise the target-weighted loss over shares between `low` and `high` that add up to one.

    Where the upper bounds do not add up to one there is one answer, the bounds scaled up.
    """
    if high.sum() <= 1.0:
        full: Floats = high / high.sum()
        return full

    def value(shares: Floats) -> float:
        return float(target @ law.losses(shares))

    shares = _into_bounds((low + high) / 2, low, high)
    step, best = 1.0, value(shares)
    for _ in range(_N_STEPS):
        slope = (target * np.exp(law.exponents @ shares)) @ law.exponents
        moved = _into_bounds(shares * np.exp(-step * (slope - slope @ shares)), low, high)
        found = value(moved)
        if found < best:
            shares, best, step = moved, found, step * 1.5
        else:
            step /= 2
        if step < 1e-12:
            break
    return shares


def _into_bounds(shares: Floats, low: Floats, high: Floats) -> Floats:
    """Scale shares by the one factor with which they add up to one once cut to their bounds."""
    shares = np.maximum(shares, 1e-300)
    factor = _bisect(lambda log: float(np.clip(shares * np.exp(log), low, high).sum()) - 1.0)
    scaled = np.clip(shares * np.exp(factor), low, high)
    found: Floats = scaled / scaled.sum()
    return found


def _bisect(function: Callable[[float], float], low: float = -750.0, high: float = 700.0) -> float:
    """Find where a growing function is zero."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) < 0 else (low, middle)
    return (low + high) / 2
