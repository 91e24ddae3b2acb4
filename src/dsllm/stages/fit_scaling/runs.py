"""Results of training runs, out of JSON Lines, CSV and finished `pretrain` folders."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsllm.errors import InputError, ShardError
from dsllm.io.compression import codec_of_name, decompress
from dsllm.io.manifest import MANIFEST, PARTIAL, read_manifest

METRICS = ("valid_bits_per_byte", "bits_per_byte", "valid_loss", "loss")
"""What a run is judged by: the first of these that every run has, unless the user names a field."""

SUFFIXES = (".jsonl", ".json", ".csv")
_SHAPE = ("n_layers", "d_model", "vocab_size", "seq_len")
_FIELDS = ("compute_flops", "flops_per_token", "n_tokens", "lr_max", "batch_tokens", *_SHAPE)

COMPUTE_TOLERANCE = 0.02
"""How far C may be from M * D in a run that gives all three."""


@dataclass(frozen=True)
class Run:
    """One finished training run."""

    place: str  # file and line, or folder: for messages
    compute_flops: float  # C
    flops_per_token: float  # M
    n_tokens: float  # D
    loss: float  # in the unit of the metric
    lr_max: float | None = None
    batch_tokens: float | None = None
    shape: tuple[int, int, int, int] | None = None  # n_layers, d_model, vocab_size, seq_len


def expand_inputs(inputs: Sequence[str]) -> list[str]:
    """Replace each folder that holds finished runs by those runs, in sorted order."""
    return [name for given in inputs for name in _expand(Path(given))]


def _expand(path: Path) -> list[str]:
    if not path.is_dir() or (path / MANIFEST).exists() or (path / PARTIAL).exists():
        return [str(path)]
    inside = sorted(str(found.parent) for found in path.glob(f"*/{MANIFEST}"))
    if not inside:
        raise InputError(f"{path}: no finished run in it", hint="give folders that dsllm pretrain wrote")
    return inside


def read_runs(inputs: Sequence[str], metric: str | None = None) -> tuple[list[Run], str]:
    """Read all runs and choose what they are judged by.

    Args:
        inputs: files of results, folders of finished runs, or folders that hold such folders.
        metric: the field with the loss; None takes the first of `METRICS` that all runs have.

    Returns:
        The runs in the order of the inputs, and the metric's name.

    Raises:
        InputError: no run, a field that is missing or no positive number, C far from M * D.
    """
    records = [record for given in expand_inputs(inputs) for record in _read_input(Path(given))]
    if not records:
        raise InputError(
            f"no run in {', '.join(inputs) or 'the inputs'}",
            hint="give files of results (.jsonl, .csv) or finished pretrain folders",
        )
    chosen = metric or next(
        (name for name in METRICS if all(_is_given(values, name) for _, values in records)), None
    )
    if chosen is None:
        place, values = next(
            (record for record in records if not any(_is_given(record[1], name) for name in METRICS)),
            records[0],
        )
        raise InputError(
            f"{place}: no result that all runs share; it has {', '.join(values) or 'nothing'}",
            hint=f"give every run one of {', '.join(METRICS)}, or name another field with --metric",
        )
    return [_make_run(place, values, chosen) for place, values in records], chosen


def _read_input(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if path.is_dir():
        yield str(path), _read_run_folder(path)
        return
    plain = path.name.removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd")
    if not plain.endswith(SUFFIXES):
        raise InputError(f"{path}: unknown suffix", hint="runs are read from .jsonl, .csv and run folders")
    text = _read_text(path)
    read = _read_csv if plain.endswith(".csv") else _read_json_lines
    for line_number, values in read(path, text):
        yield f"{path}, line {line_number}", values


def _read_run_folder(folder: Path) -> Mapping[str, Any]:
    manifest = read_manifest(folder)
    if manifest.stage != "pretrain":
        raise InputError(
            f"{folder}: made by {manifest.stage}, not by pretrain",
            hint="give folders that dsllm pretrain wrote, or files of results",
        )
    model = manifest.content.get("model")
    return {**(model if isinstance(model, dict) else {}), **manifest.config, **manifest.counts}


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            blocks = decompress(file, codec_of_name(path.name), str(path))
            return b"".join(block for block, _ in blocks).decode()
    except UnicodeDecodeError as error:
        raise ShardError(f"{path}: not UTF-8 at byte {error.start:,}", hint="save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}", hint="check the path") from None


def _read_csv(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    for row in reader:
        if None in row or None in row.values():
            raise InputError(
                f"{path}, line {reader.line_num}: not as many cells as the header's {len(row)}",
                hint="mend the line",
            )
        yield reader.line_num, row


def _read_json_lines(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line_number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise InputError(
                f"{path}, line {line_number}: not JSON: {error}", hint="give one JSON object a line"
            ) from None
        if not isinstance(values, dict):
            raise InputError(
                f"{path}, line {line_number}: {type(values).__name__}, not an object",
                hint='give one JSON object a line, such as {"compute_flops": 1e17, ...}',
            )
        yield line_number, values


def _is_given(values: Mapping[str, Any], name: str) -> bool:
    return values.get(name) not in (None, "")


def _number(place: str, values: Mapping[str, Any], name: str) -> float | None:
    """Read a positive number; None where the field is absent, null or an empty cell."""
    if not _is_given(values, name):
        return None
    try:
        value = float(values[name])
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(
            f"{place}: {name} is {values[name]!r}, not a positive number",
            hint="leave out runs that diverged, or mend the value",
        )
    return value


def _make_run(place: str, values: Mapping[str, Any], metric: str) -> Run:
    loss = _number(place, values, metric)
    if loss is None:
        raise InputError(
            f"{place}: no {metric}; it has {', '.join(values)}",
            hint=f"give every run a {metric}, or name another field with --metric",
        )
    given = {name: _number(place, values, name) for name in _FIELDS}
    compute, flops, tokens = _complete(
        place, given["compute_flops"], given["flops_per_token"], given["n_tokens"]
    )
    n_layers, d_model, vocab_size, seq_len = (given[name] for name in _SHAPE)
    shape = None
    if n_layers and d_model and vocab_size and seq_len:
        shape = (int(n_layers), int(d_model), int(vocab_size), int(seq_len))
    return Run(place, compute, flops, tokens, loss, given["lr_max"], given["batch_tokens"], shape)


def _complete(
    place: str, compute: float | None, flops: float | None, tokens: float | None
) -> tuple[float, float, float]:
    """Make C = M * D whole out of any two; three must agree."""
    if compute is None and flops and tokens:
        compute = flops * tokens
    elif flops is None and compute and tokens:
        flops = compute / tokens
    elif tokens is None and compute and flops:
        tokens = compute / flops
    if compute is None or flops is None or tokens is None:
        raise InputError(
            f"{place}: two of compute_flops, flops_per_token and n_tokens are needed",
            hint="add the missing field: compute_flops = flops_per_token * n_tokens",
        )
    if abs(compute / (flops * tokens) - 1) > COMPUTE_TOLERANCE:
        raise InputError(
            f"{place}: compute_flops is {compute:.4g}, flops_per_token * n_tokens {flops * tokens:.4g}",
            hint="leave out the one of the three that is counted in another way",
        )
    return compute, flops, tokens


@dataclass(frozen=True)
class Budget:
    """Runs of about the same compute."""

    compute_flops: float  # geometric mean of its runs
    runs: tuple[Run, ...]


def group_by_budget(runs: Sequence[Run], tolerance: float) -> list[Budget]:
    """Gather runs whose compute is within `tolerance` (a fraction) of the smallest of their group."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: run.compute_flops):  # stable: inputs' order within a budget
        if groups and run.compute_flops <= groups[-1][0].compute_flops * (1 + tolerance):
            groups[-1].append(run)
        else:
            groups.append([run])
    return [
        Budget(math.exp(math.fsum(math.log(run.compute_flops) for run in group) / len(group)), tuple(group))
        for group in groups
    ]
