"""What a compute budget buys, by the laws of a `fits.json` and by the published ones, side by side."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsllm.errors import InputError
from dsllm.io.manifest import MANIFEST, PARTIAL, read_manifest
from dsllm.stages.fit_scaling.config import PredictConfig
from dsllm.stages.fit_scaling.fit import FORMAT, law_of
from dsllm.stages.fit_scaling.laws import FlooredLaw, PowerLaw
from dsllm.stages.fit_scaling.published import CHINCHILLA, DEEPSEEK, STEP_LAW_SOURCE, Laws, step_law

FITS = "fits.json"
LAW_NAMES = ("lr_max", "batch_tokens", "flops_per_token", "n_tokens")
SYMBOLS = {"lr_max": "lr_max", "batch_tokens": "B (tokens)", "flops_per_token": "M_opt", "n_tokens": "D_opt"}


@dataclass(frozen=True)
class Question:
    """A run: its compute C, and its model scale M and tokens D where they are chosen."""

    compute_flops: float
    flops_per_token: float
    n_tokens: float
    is_split_given: bool  # M and D were asked for, not taken from a law
    n_parameters: float  # for Step Law


def read_fits(path: str) -> dict[str, Any]:
    """Read `fits.json`, given itself or by its folder.

    Raises:
        InputError: no such file, or not what `fit-scaling fit` wrote.
    """
    file = Path(path)
    if file.is_dir():
        if (file / MANIFEST).exists() or (file / PARTIAL).exists():
            read_manifest(file)  # refuses an unfinished one
        file /= FITS
    try:
        fits = json.loads(file.read_bytes())
    except OSError as error:
        raise InputError(
            f"{file}: {error.strerror}", hint="give a folder that dsllm fit-scaling fit wrote"
        ) from None
    except ValueError as error:
        raise InputError(
            f"{file}: not JSON: {error}", hint="make it again with dsllm fit-scaling fit"
        ) from None
    if not isinstance(fits, dict) or fits.get("format") != FORMAT:
        raise InputError(
            f"{file}: no fits of format {FORMAT}", hint="make it again with dsllm fit-scaling fit"
        )
    return fits


def law_path(name: str) -> tuple[str, ...]:
    """Where `fits.json` has a law."""
    return (name,) if name in ("lr_max", "batch_tokens") else ("isoflop", name)


def fitted_laws(fits: dict[str, Any], name: str) -> Laws:
    """The power laws of a `fits.json`, None where the runs gave none."""
    laws = {law: law_of(fits, *law_path(law)) for law in LAW_NAMES}
    return Laws(name=name, source=f"{fits.get('n_runs')} runs", **laws)


def ask(config: PredictConfig, laws: Laws) -> Question:
    """Complete C, M and D: what is not given follows from C = M * D, or from the laws' optimum."""
    compute, flops, tokens = config.compute, config.flops_per_token, config.n_tokens
    is_split_given = flops is not None or tokens is not None
    if compute is None:
        assert flops is not None  # PredictConfig has checked it
        assert tokens is not None
        compute = flops * tokens
    elif flops is None and tokens is None:
        flops = (laws.flops_per_token or _law(DEEPSEEK.flops_per_token))(compute)
    if flops is None:
        assert tokens is not None
        flops = compute / tokens
    if tokens is None:
        tokens = compute / flops
    return Question(compute, flops, tokens, is_split_given, config.n_parameters or flops / 6)


def _law(law: PowerLaw | None) -> PowerLaw:
    assert law is not None
    return law


def predict(question: Question, laws: Laws) -> dict[str, Any]:
    """What one set of laws says; None where it has no law."""
    compute = question.compute_flops
    tokens = laws.n_tokens(compute) if laws.n_tokens else None
    return {
        "name": laws.name,
        "source": laws.source,
        "lr_max": laws.lr_max(compute) if laws.lr_max else None,
        "batch_tokens": laws.batch_tokens(compute) if laws.batch_tokens else None,
        "flops_per_token": laws.flops_per_token(compute) if laws.flops_per_token else None,
        "n_tokens": tokens,
        # How many times the optimal tokens the run sees: above 1, its model is smaller than optimal.
        "overtraining": question.n_tokens / tokens if question.is_split_given and tokens else None,
    }


def predict_step_law(question: Question) -> dict[str, Any]:
    """Step Law's learning rate and batch for the question's model and tokens."""
    lr_max, batch_tokens = step_law(question.n_parameters, question.n_tokens)
    return {
        "name": "Step Law",
        "source": f"{STEP_LAW_SOURCE}, N = {question.n_parameters:.3g}, D = {question.n_tokens:.3g}",
        "lr_max": lr_max,
        "batch_tokens": batch_tokens,
        "flops_per_token": None,
        "n_tokens": None,
        "overtraining": None,
    }


def predict_all(config: PredictConfig, fits: dict[str, Any] | None) -> dict[str, Any]:
    """Answer with the runs' own laws, where given, beside the published ones."""
    own = fitted_laws(fits, "these runs") if fits else None
    question = ask(config, own or DEEPSEEK)
    rows = [predict(question, laws) for laws in (own, DEEPSEEK, CHINCHILLA) if laws]
    result: dict[str, Any] = {
        "compute_flops": question.compute_flops,
        "flops_per_token": question.flops_per_token,
        "n_tokens": question.n_tokens,
        "predictions": [*rows, predict_step_law(question)],
    }
    if fits:
        largest = max(budget["compute_flops"] for budget in fits["budgets"])
        result["times_largest_budget"] = question.compute_flops / largest
        result["metric"] = fits["metric"]
        result["loss"] = _predict_loss(fits, question)
    return result


def _predict_loss(fits: dict[str, Any], question: Question) -> float | None:
    """The loss of a compute-optimal run; of a chosen split by the surface, where there is one."""
    surface = fits.get("surface", {})
    if question.is_split_given:
        if surface.get("reason"):
            return None
        over_model = surface["A"] / question.flops_per_token ** surface["alpha"]
        over_data = surface["B"] / question.n_tokens ** surface["beta"]
        return float(surface["E"] + over_model + over_data)
    law = fits["isoflop"].get("loss", {}).get("law")
    if not law:
        return None
    return FlooredLaw(law["floor"], PowerLaw(law["coefficient"], law["exponent"]))(question.compute_flops)
