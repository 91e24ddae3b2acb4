"""Checkpoints that are whole or absent: weights, AdamW's moments, and a JSON file that vouches for both.

`checkpoints/step-00000100` is written under a temporary name, forced to disk and renamed. Its `state.json`
names each file with its bytes and sha256: a folder that lacks one, or holds another size, is passed over,
and a changed byte is found when it is read. There is no random state to keep: everything random in a run
is a function of (seed, step).
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsllm.errors import OutputError, ShardError
from dsllm.io.atomic import output_error, sync_folder
from dsllm.parallel.mesh import Ranks

FOLDER_NAME = "checkpoints"
WEIGHTS_NAME, MOMENTS_NAME, STATE_NAME = "model.safetensors", "optimizer.safetensors", "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")

_PARTIAL_PREFIX = ".partial-"


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands, besides its tensors.

    Args:
        step: updates done.
        n_tokens: tokens read so far, over all ranks.
        seed: the run's seed; everything random is a function of it and the step.
        schedule: the learning rate's schedule, for the reader.
        summary: numbers for the manifest that were known by then (the first loss, ...).
    """

    step: int = 0
    n_tokens: int = 0
    seed: int = 0
    schedule: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainState
) -> Path:
    """Write `folder/checkpoints/step-...` and return its path.

    Raises:
        OutputError: the disk is full or refuses.
    """
    place = folder / FOLDER_NAME
    final = place / f"step-{state.step:08}"
    partial = place / f"{_PARTIAL_PREFIX}{final.name}"
    try:
        _clear(place)
        partial.mkdir(parents=True)
        save_file(_cpu(dict(model.named_parameters())), partial / WEIGHTS_NAME)
        save_file(_cpu(_moments(model, optimizer)), partial / MOMENTS_NAME)
        files = {name: _sync_and_hash(partial / name) for name in (WEIGHTS_NAME, MOMENTS_NAME)}
        description = {"format": 1, **vars(state), "files": files}
        (partial / STATE_NAME).write_bytes(json.dumps(description, indent=1).encode() + b"\n")
        _sync_and_hash(partial / STATE_NAME)
        _remove(final)
        partial.rename(final)
        sync_folder(place)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise output_error(final, error) from error
    except SafetensorError as error:  # its own words for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise OutputError(
            f"{final}: {error}",
            hint="make room and run the same command again: it goes on from the last checkpoint",
        ) from error
    return final


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    place = folder / FOLDER_NAME
    return sorted(path for path in place.glob("step-*") if _is_whole(path)) if place.is_dir() else []


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint of a run, None without any."""
    checkpoints = list_checkpoints(folder)
    return checkpoints[-1] if checkpoints else None


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainState:
    """Put weights and moments back in place, bit for bit, and return the rest.

    Raises:
        ShardError: a file differs from its sha256, or belongs to another model.
    """
    description = json.loads((path / STATE_NAME).read_bytes())
    for name, record in description["files"].items():
        if _hash(path / name) != record["sha256"]:
            raise ShardError(
                f"{path / name}: its sha256 is not the one in {STATE_NAME}",
                hint=f"remove {path} to go on from the checkpoint before it",
            )
    weights, moments = load_file(path / WEIGHTS_NAME), load_file(path / MOMENTS_NAME)
    parameters = dict(model.named_parameters())
    if {name: t.shape for name, t in weights.items()} != {name: p.shape for name, p in parameters.items()}:
        raise ShardError(
            f"{path}: holds {len(weights)} tensors of another model than the run's {len(parameters)}",
            hint="give the run another output folder",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    _set_moments(model, optimizer, moments, n_updates=description["step"])
    known = TrainState.__dataclass_fields__
    return TrainState(**{name: value for name, value in description.items() if name in known})


def share_state(model: nn.Module, optimizer: torch.optim.Optimizer, *, n_updates: int, ranks: Ranks) -> None:
    """Give every rank the weights and moments of rank 0: only that one needs to see the files."""
    if ranks.world_size == 1:
        return
    parameters = dict(model.named_parameters())
    ranks.share(parameter.detach() for parameter in parameters.values())
    if n_updates == 0:
        return
    if not ranks.is_first:
        zeros = {
            f"{moment}.{name}": torch.zeros_like(parameter)
            for name, parameter in parameters.items()
            for moment in MOMENTS
        }
        _set_moments(model, optimizer, zeros, n_updates=n_updates)
    ranks.share(_moments(model, optimizer).values())


def thin_checkpoints(folder: Path, *, n_kept: int, keep_every_steps: int | None) -> None:
    """Remove all but the newest `n_kept` checkpoints; those at multiples of `keep_every_steps` stay."""
    checkpoints = list_checkpoints(folder)
    for path in checkpoints[: max(0, len(checkpoints) - n_kept)]:
        step = int(path.name.removeprefix("step-"))
        if keep_every_steps is None or step % keep_every_steps:
            _remove(path)


def clear_checkpoints(folder: Path, *, keep_every_steps: int | None) -> None:
    """Remove what a finished run no longer needs: its model is written."""
    _clear(folder / FOLDER_NAME)
    thin_checkpoints(folder, n_kept=0, keep_every_steps=keep_every_steps)
    with suppress(OSError):  # not there, or permanent checkpoints are in it
        (folder / FOLDER_NAME).rmdir()


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for moment in MOMENTS
    }


def _set_moments(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor], *, n_updates: int
) -> None:
    """Fill the optimizer's state; `load_state_dict` puts each tensor on the device that AdamW wants it on."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        index: {"step": torch.tensor(float(n_updates))}
        | {moment: moments[f"{moment}.{names[id(parameter)]}"] for moment in MOMENTS}
        for index, parameter in enumerate(parameters)
        if f"{MOMENTS[0]}.{names[id(parameter)]}" in moments
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _is_whole(path: Path) -> bool:
    """Whether `state.json` is there and every file has the bytes that it says."""
    try:
        files = json.loads((path / STATE_NAME).read_bytes())["files"]
        return all((path / name).stat().st_size == record["n_bytes"] for name, record in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _remove(path: Path) -> None:
    """Remove a checkpoint; its voucher first, so that a kill leaves nothing that looks whole."""
    (path / STATE_NAME).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _clear(place: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in place.glob(f"{_PARTIAL_PREFIX}*"):
        shutil.rmtree(path)


def _sync_and_hash(path: Path) -> dict[str, Any]:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    return {"n_bytes": path.stat().st_size, "sha256": _hash(path)}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
