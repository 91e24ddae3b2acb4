"""The reference model's log-probabilities: computed once with the start model, kept on disk, used again.

They are computed with the very micro-batches of the first epoch, so that at the first step the policy equals
its reference to the last bit and the rewards are exactly 0.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from dsllm.errors import ConfigError, InputError
from dsllm.io.atomic import write_atomic
from dsllm.io.folder import input_records
from dsllm.model.transformer import Transformer
from dsllm.parallel.mesh import Ranks
from dsllm.train.alignment import Work
from dsllm.train.batches import Int64s
from dsllm.train.course import Course
from dsllm.train.loop import autocast
from dsllm.train.losses import sequence_logps
from dsllm.train.samples import Samples

REFERENCE = "reference.safetensors"
BLOCK_PAIRS = 1024  # pairs after which the values are saved: what a killed run may lose

Logps = npt.NDArray[np.float32]


def reference_logps(course: Course, model: Transformer, work: Work, earlier: str | None) -> dict[str, Logps]:
    """Give the log-probabilities of "train" and "valid" answers: each (n_pairs, 2), chosen and rejected.

    They come from `earlier`, from an interrupted run in the same folder, or from `model` as it is now.

    Raises:
        InputError: `earlier` is not such a file.
        ConfigError: it belongs to another model or other pairs.
    """
    key = reference_key(course)
    kept = None
    if work.ranks.is_first:
        own = work.folder / REFERENCE
        if earlier is not None:
            kept = read_reference(Path(earlier), key)
        elif own.exists() and _key_of(own) == key:
            kept = read_reference(own, key)
    known: dict[str, Logps] | None = work.ranks.share_object(kept)  # type: ignore[assignment]
    if known is None:
        known = {"train": _compute(model, course.train, _train_blocks(course, work.ranks), course, work)}
        if course.valid is not None:
            records = np.arange(len(course.valid), dtype=np.int64)
            blocks = [_Block("valid", records, course.valid_batches(work.ranks))]
            known["valid"] = _compute(model, course.valid, blocks, course, work)
    if work.out is not None:
        with work.out.create(REFERENCE) as file:
            file.write(save(known, metadata={"key": key}))
    return known


def reference_key(course: Course) -> str:
    """Hash all that the values depend on: the model's files, the pairs' tokens, the precision."""
    digest = hashlib.sha256()
    digest.update(input_records([course.config.model])[0].sha256.encode())
    digest.update(course.config.dtype.encode())
    for samples in filter(None, (course.train, course.valid)):
        for array in (samples.tokens, samples.is_learnt, samples.starts):
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_reference(path: Path, key: str) -> dict[str, Logps]:
    """Read values that were saved under the same key."""
    if (found := _key_of(path)) != key:
        raise ConfigError(
            f"{path}: made for another model or other pairs (key {found[:12]}…, now {key[:12]}…)",
            hint="leave --reference out: the values are computed anew",
        )
    return load(path.read_bytes())


def _key_of(path: Path) -> str:
    try:
        with safe_open(path, framework="numpy") as file:
            return str((file.metadata() or {}).get("key", ""))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: no file of reference log-probabilities: {error}",
            hint=f"give the {REFERENCE} of a dpo run",
        ) from None


@dataclass(frozen=True)
class _Block:
    """Some pairs: all of them, rising, and those of this rank by micro-batch."""

    name: str
    records: Int64s
    parts: list[Int64s]


def _train_blocks(course: Course, ranks: Ranks) -> Iterator[_Block]:
    """Cut the first epoch's steps into blocks of about BLOCK_PAIRS pairs."""
    n_steps = max(1, BLOCK_PAIRS // course.config.batch_seqs)
    for begin in range(0, course.n_epoch_steps, n_steps):
        steps = range(begin, min(begin + n_steps, course.n_epoch_steps))
        records = np.sort(np.concatenate([course.records(step) for step in steps]))
        parts = [part for step in steps for part in course.micro_batches(step, ranks)]
        yield _Block(f"train-{begin:08}", records, parts)


def _compute(
    model: Transformer, samples: Samples, blocks: Iterable[_Block], course: Course, work: Work
) -> Logps:
    """Go through the blocks; those that an interrupted run has saved are read."""
    result = np.zeros((len(samples), 2), np.float32)
    scratch = None if work.out is None else work.out.scratch
    with work.reporter.bar("reference", total=len(samples), unit="pairs") as bar:
        for block in blocks:
            path = None if scratch is None else scratch / f"reference-{block.name}.safetensors"
            kept = load(path.read_bytes())["logps"] if path is not None and path.exists() else None
            values: Logps | None = work.ranks.share_object(kept)  # type: ignore[assignment]
            if values is None:
                values = _block_logps(model, samples, block, course, work.ranks)
                if path is not None:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_atomic(path, save({"logps": values}))
            result[block.records] = values
            bar.advance(len(block.records))
    return result


@torch.no_grad()
def _block_logps(model: Transformer, samples: Samples, block: _Block, course: Course, ranks: Ranks) -> Logps:
    """Compute this rank's part of a block and put all ranks' parts together: shape (n_records, 2)."""
    values = np.zeros((len(block.records), 2), np.float32)
    for part in block.parts:
        with autocast(ranks.device, course.config.dtype):
            logps = sequence_logps(model, samples.batch(part).to(ranks.device))
        values[np.searchsorted(block.records, part)] = logps.cpu().view(2, -1).T.numpy()
    summed = ranks.sum_numbers(values.ravel().tolist())
    return np.array(summed, np.float32).reshape(values.shape)
